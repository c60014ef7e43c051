"""Copies of reference images in a place that the world can read, one for each content.

Who has the same content twice, in one run or in ten, writes it once, under the digest of its
content. Two that write it at the same time write the same bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from urllib.parse import quote, urlsplit

from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.references.inspection import EXTENSIONS, Picture
from nanobanana_blocks.storage.destination import Destination, StorageLocation

RENEWED_AFTER = timedelta(days=1)
"""A copy older than that is written again when it is used, so that clearing by age spares it."""

_COPY = re.compile(rf"[0-9a-f]{{64}}\.(?:{'|'.join(EXTENSIONS.values())})")


@dataclass(frozen=True)
class PublicPlace:
    """A folder, and the URL under which anyone can read its files."""

    location: StorageLocation
    public_url: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.public_url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            whole = False
        if not whole or parts.query or parts.fragment or parts.username:
            raise InvalidInput(
                "the public URL of a place must be like https://cdn.example.com/folder, without "
                "user, query and fragment"
            )

    def url_of(self, file_name: str) -> str:
        """Where the world reads a file of the place."""
        return f"{self.public_url.rstrip('/')}/{quote(file_name)}"


class Copies:
    """The copies in one place; an async context manager.

    Attributes:
        place: Where they are.
        written: How many copies were written.
    """

    way = "public_copy"
    made = "its public copy"
    next_step = "Check that its public URL is where the world reads the place for copies."

    def __init__(self, place: PublicPlace) -> None:
        self.place = place
        self.written = 0
        self._times: dict[str, datetime | None] = {}
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._reaching = asyncio.Lock()
        self._folder: Destination | None = None

    @property
    def where(self) -> str:
        """The place, as plans name it."""
        return str(self.place.location)

    async def __aenter__(self) -> Copies:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for writing in self._writing.values():
            writing.cancel()
        await asyncio.gather(*self._writing.values(), return_exceptions=True)
        if self._folder is not None:
            await self._folder.aclose()

    async def ensure(self, picture: Picture, read: Callable[[], Awaitable[bytes]]) -> str:
        """Make sure that there is a copy, once for all who ask, and return its URL.

        Args:
            picture: What is copied.
            read: Gives its bytes; called where there is no copy yet, or an old one.

        Raises:
            StorageError: It could not be written; trying again may help.
            DestinationError: The place cannot be written to any more.
        """
        name = picture.file_name
        folder = await self._reached()
        if self._is_fresh(name):
            return self.place.url_of(name)
        writing = self._writing.get(name)
        if writing is None:
            writing = self._writing[name] = asyncio.create_task(self._write(folder, picture, read))
            writing.add_done_callback(lambda _: self._writing.pop(name, None))
        await asyncio.shield(writing)
        return self.place.url_of(name)

    def _is_fresh(self, name: str) -> bool:
        if name not in self._times:
            return False
        written_at = self._times[name]
        return written_at is None or datetime.now(UTC) - written_at < RENEWED_AFTER

    async def _reached(self) -> Destination:
        """The place, listed once; it is reached when the first copy is asked for."""
        async with self._reaching:
            if self._folder is None:
                folder = await self.place.location.open()
                try:
                    await folder.check_writable()
                    self._times = await folder.list_times()
                except BaseException:
                    await folder.aclose()
                    raise
                self._folder = folder
            return self._folder

    async def _write(
        self, folder: Destination, picture: Picture, read: Callable[[], Awaitable[bytes]]
    ) -> None:
        await folder.publish(picture.file_name, await read(), picture.media_type)
        self._times[picture.file_name] = datetime.now(UTC)
        self.written += 1


async def clear_copies(location: StorageLocation, older_than: timedelta) -> tuple[int, int]:
    """Delete copies by age, and nothing else; return how many were deleted and how many are left.

    What a run uses is never older than a day, however often it was used before. A copy whose age
    the storage does not tell is left.

    Raises:
        DestinationError: The place cannot be used.
        StorageError: The storage failed; trying again may help.
    """
    async with await location.open() as folder:
        times = await folder.list_times()
        copies = {name: time for name, time in times.items() if _COPY.fullmatch(name)}
        oldest = datetime.now(UTC) - older_than
        old = [name for name, time in copies.items() if time is not None and time < oldest]
        for name in old:
            await folder.delete(name)
    return len(old), len(copies) - len(old)
