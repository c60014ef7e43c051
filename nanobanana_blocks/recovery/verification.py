"""Whether what receipts say is still in storage: existence, size and, in depth, content.

It reads only. Landing again what does not match is `repair`'s, which needs image URLs that live.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

import anyio
from pydantic import BaseModel, ConfigDict

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import ImageError, NanoBananaError
from nanobanana_blocks.images.download import MAX_PIXELS
from nanobanana_blocks.images.verification import verify_image
from nanobanana_blocks.landing import (
    LandingReport,
    Provenance,
    Receipt,
    ReceiptImage,
    read_receipt,
    receipt_name,
)
from nanobanana_blocks.landing.history import MAX_RECEIPT_BYTES
from nanobanana_blocks.landing.lander import Placement, open_lander
from nanobanana_blocks.landing.receipt import claimed_task_id, is_unfinished, version_of
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.words import counted

MAX_READS = 8
"""How many files are read at a time, each of them whole."""


_KNOWN_VERSION = 1
_TASK_ID = re.compile(r"[0-9a-f]{32}")


class Fault(StrEnum):
    """What is wrong with a file that a receipt names, or with the receipt itself."""

    MISSING = "missing"
    SIZE = "another size"
    CONTENT = "another content"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    RECEIPT = "no whole receipt"


class FileFault(BaseModel):
    """A file that is not what its receipt says, or a damaged receipt.

    `name` is relative to the folder; `task_id` is None where a receipt no longer tells it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    task_id: str | None
    fault: Fault
    detail: str | None = None

    def describe(self) -> str:
        """In a line: file, fault, task."""
        more = f" ({self.detail.rstrip('.')})" if self.detail else ""
        task = f", of task {self.task_id}" if self.task_id else ""
        return f"{self.name}: {self.fault.value}{more}{task}"


class VerificationReport(BaseModel):
    """What was found in one folder.

    Attributes:
        destination: The folder, without secrets.
        deep: Whether contents were read and decoded.
        receipts: How many receipts were found, without those that are damaged.
        images: How many images they name.
        faults: The files that are not what their receipts say, and damaged receipts, by name.
        stems: What the files of each task with a fault are called, by task id. Left out are tasks
            whose name was shortened for its file, which cannot be told from the file, and receipts
            that name no task or that a newer release wrote.
    """

    destination: str
    deep: bool
    receipts: int
    images: int
    faults: list[FileFault]
    stems: dict[str, str]

    @property
    def is_sound(self) -> bool:
        """Whether every file is what its receipt says."""
        return not self.faults

    def describe(self) -> str:
        """In a line: how many were checked, and how many are not as they should be."""
        checked = f"{counted(self.images, 'image')} of {counted(self.receipts, 'receipt')} checked"
        how = "by content" if self.deep else "by name and size"
        return f"{checked} {how}, {counted(len(self.faults), 'fault')}, in {self.destination}"


async def verify(destination: Destination, *, deep: bool = False) -> VerificationReport:
    """Compare a folder's receipts with the files that they name.

    Args:
        destination: Where images and receipts are; its caller closes it.
        deep: Also read every image, compare its SHA-256 and decode it.

    Raises:
        DestinationError: The folder cannot be listed.
        StorageError: Likewise, where trying again may help.
    """
    sizes = await destination.list()
    reading = anyio.Semaphore(MAX_READS)
    receipts: dict[str, Receipt] = {}
    faults: list[FileFault] = []

    async def read(name: str) -> None:
        async with reading:
            data = await destination.read(name)
        if data is None:
            return  # gone since it was listed
        receipt = read_receipt(data)
        if receipt is not None:
            receipts[name] = receipt
        elif version_of(data) is not None or is_unfinished(data):
            faults.append(_fault_of_receipt(name, data))

    async def check(image: ReceiptImage, task_id: str) -> None:
        fault, detail = _fault_of_size(image, sizes), None
        if fault is None and deep:
            async with reading:
                fault, detail = await _fault_of_content(destination, image)
        if fault is not None:
            faults.append(FileFault(name=image.name, task_id=task_id, fault=fault, detail=detail))

    await run_concurrently(
        read(name)
        for name, size in sizes.items()
        if name.endswith(".json") and size <= MAX_RECEIPT_BYTES
    )
    damaged = list(faults)
    images = [(image, found.task_id) for found in receipts.values() for image in found.images]
    await run_concurrently(check(image, task_id) for image, task_id in images)
    of_faults = {fault.task_id for fault in faults}
    names = {name: receipt.task_id for name, receipt in receipts.items()}
    names |= {fault.name: fault.task_id for fault in damaged if fault.task_id and not fault.detail}
    return VerificationReport(
        destination=destination.path,
        deep=deep,
        receipts=len(receipts),
        images=len(images),
        faults=sorted(faults, key=lambda fault: fault.name),
        stems={
            task_id: stem
            for name, task_id in names.items()
            if task_id in of_faults and (stem := _stem_of(name, task_id))
        },
    )


async def repair(
    report: VerificationReport,
    client: NanoBananaClient,
    destination: Destination,
    *,
    timeout: float = 900.0,
) -> LandingReport:
    """Land the tasks with faults again, under the names that they have, while their URLs live.

    What cannot be landed again is left as it is; the report says why. In place of a damaged receipt
    comes one that names no row of a batch.

    Args:
        report: What `verify` found there.
        client: Asks the API; its caller closes it.
        destination: The same folder; its caller closes it.
        timeout: Seconds to wait for each task.

    Raises:
        InvalidInput: There is nothing to repair.
        NanoBananaError: What concerns the whole run, such as a refused key.
    """
    rows = await _rows_of(report.stems, destination)
    placed = {
        task_id: Placement(stem, (task_id,), *rows.get(task_id, ()))
        for task_id, stem in report.stems.items()
    }
    async with open_lander(
        list(report.stems), client, destination, timeout=timeout, overwrite=True
    ) as lander:
        await lander.land_each(lander.unique_task_ids, placed=placed, wait=False)
        return lander.report()


async def _rows_of(
    stems: Mapping[str, str], destination: Destination
) -> dict[str, tuple[str | None, str | None, Provenance | None]]:
    """The batch's rows, and the making, that receipts tell of and new ones are to tell again."""
    found = {}
    for task_id, stem in stems.items():
        receipt = read_receipt(await destination.read(receipt_name(stem)) or b"")
        if receipt is not None:
            found[task_id] = receipt.row_key, receipt.row_digest, receipt.provenance
    return found


def _stem_of(name: str, task_id: str) -> str | None:
    stem = name.removesuffix(".json")
    return next((known for known in (task_id, stem) if receipt_name(known) == name), None)


def _fault_of_receipt(name: str, data: bytes) -> FileFault:
    """A receipt that is torn, or that a newer release wrote, which must not be replaced."""
    version, stem = version_of(data), name.removesuffix(".json")
    task_id = claimed_task_id(data) or (stem if _TASK_ID.fullmatch(stem) else None)
    newer = version is not None and version > _KNOWN_VERSION
    detail = f"version {version}, of a newer release" if newer else None
    return FileFault(name=name, task_id=task_id, fault=Fault.RECEIPT, detail=detail)


def _fault_of_size(image: ReceiptImage, sizes: Mapping[str, int]) -> Fault | None:
    if image.name not in sizes:
        return Fault.MISSING
    return None if sizes[image.name] == image.size else Fault.SIZE


async def _fault_of_content(
    destination: Destination, image: ReceiptImage
) -> tuple[Fault | None, str | None]:
    try:
        data = await destination.read(image.name)
    except NanoBananaError as error:
        return Fault.UNREADABLE, str(error)
    if data is None:
        return Fault.MISSING, None
    try:
        found = await anyio.to_thread.run_sync(lambda: verify_image(data, max_pixels=MAX_PIXELS))
    except ImageError as error:
        return Fault.DAMAGED, str(error)
    return (None if found.sha256 == image.sha256 else Fault.CONTENT), None
