"""The files of generation tasks in one destination: what is there, whose it is, what is replaced.

It fetches and asks nothing. A file that is not known to be this product's is never replaced, unless
everything may be overwritten.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Iterable

from pydantic import ValidationError

from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.errors import DestinationError, NanoBananaError
from nanobanana_blocks.landing.naming import partial_name, receipt_name, rival_stem
from nanobanana_blocks.landing.receipt import (
    PartialLanding,
    Receipt,
    ReceiptImage,
    is_unfinished,
    read_receipt,
    version_of,
)
from nanobanana_blocks.landing.receipt_index import (
    INDEX_MEDIA_TYPE,
    INDEX_NAMES,
    MAX_BYTES,
    ReceiptIndex,
    from_bytes,
    to_bytes,
)
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.storage.names import safe_name

logger = logging.getLogger(__name__)

MAX_SINGLE_LOOKUPS = 20
"""Up to so many receipts are asked for one by one; for more, the destination is listed once."""

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "gif", "avif")

_NEXT_STEP = "Move it away, land in another folder, or set overwrite to replace it."


class LandingFolder:
    """Images, receipts and the notes of partial landings in a destination.

    Args:
        destination: Where the files are; its caller closes it.
        overwrite: Whether files of others may be replaced.
    """

    def __init__(self, destination: Destination, *, overwrite: bool = False) -> None:
        self.destination = destination
        self._overwrite = overwrite
        self._sizes: dict[str, int] | None = None
        self._index = ReceiptIndex()
        self._claimed: dict[str, str] = {}
        self._published: set[str] = set()

    async def survey(self, tasks: int) -> None:
        """List the destination once, where that costs less than asking for each of the receipts."""
        if tasks > MAX_SINGLE_LOOKUPS:
            await self.list_once()

    async def list_once(self) -> None:
        """Know what is in the destination from a listing, from now on."""
        if self._sizes is None:
            self._sizes = await self.destination.list()
            if self._sizes:
                for stored in await map_concurrently(self._stored_receipts, INDEX_NAMES):
                    self._index.add(stored)

    async def list_again(self) -> None:
        """Where the destination was listed, do it anew: other runs may have landed something."""
        if self._sizes is None:
            return
        listed = await self.destination.list()
        own = {name: self._sizes[name] for name in self._published if name in self._sizes}
        self._sizes = listed | own

    async def has_receipt(self, stem: str) -> bool:
        """Whether there is a file where the receipt of a stem would be; it is not read."""
        return await self._size_of(receipt_name(stem)) is not None

    async def any_receipt(self, stem: str) -> Receipt | None:
        """The receipt beside the images of a stem, of any task; None where none can be read."""
        _, receipt = await self._read_receipt(stem)
        return receipt

    async def receipt(self, stem: str, task_ids: Collection[str]) -> Receipt | None:
        """The receipt beside the images of a stem; None where there is none, or an unfinished one.

        Args:
            stem: What the files are called.
            task_ids: The generation tasks whose receipt it may be.

        Raises:
            DestinationError: There is a file of another task, or of somebody else.
        """
        # Of several tasks, one may have taken another's place by a receipt of the same size.
        data, receipt = await self._read_receipt(stem, is_certain=len(set(task_ids)) > 1)
        if data is None or (receipt is None and is_unfinished(data)):
            return None
        if receipt is None and not self._overwrite:
            raise DestinationError(self._foreign(stem, data))
        if receipt and receipt.task_id not in task_ids:
            raise DestinationError(
                f"{self._path(receipt_name(stem))} is the receipt of another task, "
                f"{receipt.task_id}. Land this one in another folder."
            )
        return receipt

    async def why_taken(self, stem: str, task_ids: Collection[str]) -> str | None:
        """Why files cannot be called by a stem: "is task …'s"; None where they can.

        Call `list_once` before.

        Args:
            stem: What the files are to be called.
            task_ids: The generation tasks that may have files of that name already. Without any,
                an image of that name is somebody else's, even where it has no receipt.
        """
        data, receipt = await self._read_receipt(stem)
        if receipt:
            return None if receipt.task_id in task_ids else f"is task {receipt.task_id}'s"
        if self._overwrite:
            return None
        if data and not is_unfinished(data):
            return f"would replace a file that is no receipt, {self._path(receipt_name(stem))}"
        names = [name for name in self._image_names(stem) if name in (self._sizes or ())]
        if names and not task_ids:
            return f"would replace {self._path(names[0])}"
        return None

    async def is_whole(self, images: Iterable[ReceiptImage]) -> bool:
        """Whether images are there with their recorded sizes."""
        for image in images:
            if await self._size_of(image.name) != image.size:
                return False
        return True

    async def partial(self, stem: str, task_id: str, count: int) -> PartialLanding | None:
        """What an earlier run has noted of a task of whose `count` images it could land some."""
        if count == 1:
            return None
        prefix = f"{safe_name(stem)}-"
        if self._sizes is not None and not any(
            f"{prefix}{number}.{extension}" in self._sizes
            for number in range(1, count + 1)
            for extension in IMAGE_EXTENSIONS
        ):
            return None
        data = await self.destination.read(partial_name(stem))
        try:
            note = PartialLanding.model_validate_json(data) if data else None
        except ValidationError:
            return None
        return note if note and note.task_id == task_id else None

    async def note_partial(self, stem: str, note: PartialLanding) -> None:
        """Note which images of a task are there; that it cannot be noted costs fetching again."""
        data = note.model_dump_json(indent=2).encode()
        try:
            await self.destination.publish(partial_name(stem), data, "application/json")
        except NanoBananaError as error:
            logger.warning("Could not note what has landed of %s: %s", note.task_id, error)

    async def forget_partial(self, stem: str) -> None:
        """Delete the note of a partial landing; one that stays does no harm."""
        try:
            await self.destination.delete(partial_name(stem))
        except NanoBananaError as error:
            logger.warning("Could not delete %s: %s", self._path(partial_name(stem)), error)

    async def claim(self, name: str, task_id: str, stem: str, index: int, count: int) -> None:
        """Keep an image's file name for one task.

        Raises:
            DestinationError: Another task has it, in this run or by an earlier receipt.
        """
        owner = self._claimed.setdefault(name, task_id)
        rival = rival_stem(stem, index, count)
        if owner == task_id and rival:
            _, receipt = await self._read_receipt(rival)
            if receipt and any(image.name == name for image in receipt.images):
                owner = receipt.task_id
        if owner != task_id:
            raise DestinationError(
                f"its file would be {name}, which is task {owner}'s. Land it in another folder."
            )

    async def publish_image(
        self, name: str, data: bytes, media_type: str, replaceable: Collection[str]
    ) -> None:
        """Write an image, unless that replaces a file that is not ours.

        A file of the same content, or the torn beginning of it, is what a killed run has left.

        Args:
            name: Its file name, which has been claimed.
            data: Its bytes.
            media_type: Its media type.
            replaceable: The names of files known to be this task's.

        Raises:
            DestinationError: The file that is there is not known to be this task's.
        """
        if not (self._overwrite or name in replaceable or name in self._published):
            size = await self._size_of(name)
            if size is not None:
                there = await self.destination.read(name) if size <= len(data) else None
                if there == data:
                    self._published.add(name)
                    return
                if there is None or not data.startswith(there):
                    raise DestinationError(
                        f"{self._path(name)} is there already, and is another file. {_NEXT_STEP}"
                    )
        await self._publish(name, data, media_type)

    async def publish_receipt(self, stem: str, receipt: Receipt) -> None:
        """Write the receipt of a task, whose images are there."""
        data = receipt.model_dump_json(indent=2, exclude_none=True).encode()
        await self._publish(receipt_name(stem), data, "application/json")
        if self._sizes is not None:
            self._index.note(receipt_name(stem), data)

    async def keep_index(self) -> None:
        """Write what is known of receipts for runs that follow; that it cannot be is logged.

        Only what was read and written since the destination was listed is known.
        """
        if not self._index.has_news:
            return
        name = random.choice(INDEX_NAMES)  # noqa: S311  # so that runs at once seldom meet
        together = self._index.merged_into(await self._stored_receipts(name), self._sizes or {})
        data = await asyncio.to_thread(to_bytes, together)
        try:
            if len(data) <= MAX_BYTES:
                await self.destination.publish(name, data, INDEX_MEDIA_TYPE)
        except NanoBananaError as error:
            logger.warning("Could not write %s; continuing: %s", self._path(name), error)

    async def remove(self, names: Iterable[str]) -> None:
        """Delete files of this product."""
        for name in names:
            await self.destination.delete(name)

    async def _publish(self, name: str, data: bytes, media_type: str) -> None:
        await self.destination.publish(name, data, media_type)
        self._published.add(name)
        if self._sizes is not None:
            self._sizes[name] = len(data)

    async def _read(self, name: str) -> bytes | None:
        if self._sizes is not None and name not in self._sizes:
            return None
        return await self.destination.read(name)

    async def _read_receipt(
        self, stem: str, *, is_certain: bool = False
    ) -> tuple[bytes | None, Receipt | None]:
        """What is where the receipt of a stem would be, and the receipt, if it is one.

        It is read where the index and the listing do not tell, or where it `is_certain` to be.
        """
        name = receipt_name(stem)
        known = self._index.find(name, self._sizes or {})
        if known and not is_certain:
            return known
        data = await self._read(name)
        receipt = read_receipt(data) if data else None
        if data and receipt and self._sizes is not None:
            self._index.note(name, data)
        return data, receipt

    async def _stored_receipts(self, name: str) -> dict[str, bytes]:
        """What one file of the index holds."""
        try:
            data = await self.destination.read(name)
        except NanoBananaError as error:
            logger.info("Could not read %s; continuing: %s", self._path(name), error)
            return {}
        return await asyncio.to_thread(from_bytes, data, where=self._path(name))

    async def _size_of(self, name: str) -> int | None:
        if self._sizes is not None:
            return self._sizes.get(name)
        return await self.destination.size_of(name)

    def _image_names(self, stem: str) -> list[str]:
        name = safe_name(stem)
        return [f"{name}{number}.{ext}" for ext in IMAGE_EXTENSIONS for number in ("", "-1")]

    def _foreign(self, stem: str, data: bytes) -> str:
        path, version = self._path(receipt_name(stem)), version_of(data)
        if version is not None and version > 1:
            return (
                f"{path} is a receipt of version {version}, which a later version of "
                "nanobanana-blocks has written. Upgrade, land in another folder, or set overwrite."
            )
        return f"{path} is there already, and is no receipt. {_NEXT_STEP}"

    def _path(self, name: str) -> str:
        return self.destination.path_of(name)
