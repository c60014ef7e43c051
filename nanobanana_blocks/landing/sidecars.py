"""Writes XMP sidecars beside images that have landed; images and files of others are left alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import islice

from pydantic import BaseModel

from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.landing.receipt import Receipt, ReceiptImage
from nanobanana_blocks.landing.xmp import (
    MEDIA_TYPE,
    SidecarNaming,
    is_our_sidecar,
    sidecar_name,
    to_xmp,
)
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.words import counted

WRITTEN_AT_ONCE = 16
_GROUP = 256


class Sidecar(StrEnum):
    """What became of the sidecar of an image."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"
    NOT_OURS = "not ours"
    NO_IMAGE = "no image"


class SidecarReport(BaseModel):
    """How many sidecars were written, were there already, and were not written.

    `not_ours` counts those whose place is taken by a file that another program has written or
    changed, of which `kept` names the first; `no_image` counts images that are gone.
    """

    written: int = 0
    unchanged: int = 0
    not_ours: int = 0
    no_image: int = 0
    kept: list[str] = []

    def describe(self) -> str:
        """In a line: ``12 sidecars written, 3 unchanged``."""
        parts = [f"{counted(self.written, 'sidecar')} written", f"{self.unchanged:,} unchanged"]
        if self.not_ours:
            named = ", ".join(self.kept)
            more = " …" if self.not_ours > len(self.kept) else ""
            parts.append(f"{self.not_ours:,} left as another program wrote them ({named}{more})")
        if self.no_image:
            parts.append(f"{counted(self.no_image, 'image is', 'images are')} gone")
        return ", ".join(parts)


MAX_NAMED = 5


async def write_sidecars(
    destination: Destination,
    receipts: Iterable[tuple[str, Receipt]],
    naming: SidecarNaming = SidecarNaming.REPLACE,
) -> SidecarReport:
    """Write the sidecars of images, unless the same, or a file that is not ours, is there.

    Args:
        destination: Where images and receipts are; its caller closes it.
        receipts: Receipts of that folder.
        naming: What the sidecars are called.

    Raises:
        DestinationError: The folder cannot be written to.
        StorageError: The storage failed; trying again may help.
    """
    await destination.check_writable()
    await destination.check_exclusive()
    sizes = await destination.list()
    report = SidecarReport()

    async def write(pair: tuple[Receipt, ReceiptImage]) -> None:
        receipt, image = pair
        name = sidecar_name(image, naming)
        became = await _write(destination, sizes, name, receipt, image)
        count = became.name.lower()
        setattr(report, count, getattr(report, count) + 1)
        if became is Sidecar.NOT_OURS and len(report.kept) < MAX_NAMED:
            report.kept.append(name)

    images = ((receipt, image) for _, receipt in receipts for image in receipt.images)
    while group := list(islice(images, _GROUP)):
        await map_concurrently(write, group, at_once=WRITTEN_AT_ONCE)
    return report


async def _write(
    destination: Destination,
    sizes: Mapping[str, int],
    name: str,
    receipt: Receipt,
    image: ReceiptImage,
) -> Sidecar:
    if image.name not in sizes:
        return Sidecar.NO_IMAGE
    data = to_xmp(receipt, image)
    if name not in sizes:
        if not destination.can_create:
            await destination.publish(name, data, MEDIA_TYPE)
            return Sidecar.WRITTEN
        if await destination.create(name, data, MEDIA_TYPE):
            return Sidecar.WRITTEN
    there = await destination.read(name)
    if there == data:
        return Sidecar.UNCHANGED
    if there is not None and not is_our_sidecar(there, image):
        return Sidecar.NOT_OURS
    await destination.publish(name, data, MEDIA_TYPE)
    return Sidecar.WRITTEN
