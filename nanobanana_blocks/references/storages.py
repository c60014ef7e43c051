"""The storages that reference images lie on, each reached once, and their bytes within a budget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from nanobanana_blocks.errors import UnusableReference
from nanobanana_blocks.images import ByteBudget
from nanobanana_blocks.references.inspection import Picture, inspect, require_size
from nanobanana_blocks.references.known import Known
from nanobanana_blocks.references.sources import SourceFile
from nanobanana_blocks.storage.reading import FileFacts, StoredFiles

HELD_BYTES = 64 * 2**20
"""Bytes of reference images that are held at a time."""


class Storages:
    """Reads and signs files wherever they are; made by `open_storages`."""

    def __init__(self, stack: AsyncExitStack, held_bytes: int) -> None:
        self._stack = stack
        self._budget = ByteBudget(held_bytes)
        self._reached: list[tuple[SourceFile, StoredFiles]] = []
        self._reaching = asyncio.Lock()

    async def examine(self, file: SourceFile, known: Known | None) -> Known:
        """What a file is; it is not read again where its storage says that it has not changed.

        Raises:
            UnusableReference: It is missing, or nothing that the service takes.
            DestinationError: It is a folder, or access is refused.
            StorageError: The storage failed; trying again may help.
        """
        files = await self._at(file)
        facts = await files.facts_of(file.path)
        if facts is None:
            raise UnusableReference(file.why_missing)
        if known and facts.version and (known.size, known.version) == (facts.size, facts.version):
            return known
        return Known.of(await self._picture(file, files, facts), facts.version)

    async def _picture(self, file: SourceFile, files: StoredFiles, facts: FileFacts) -> Picture:
        try:
            require_size(facts.size)
            held = self._budget.hold()
            try:
                await held.take(facts.size)
                data = await files.read(file.path)
                if data is None:
                    raise UnusableReference("does not exist any more")
                return await asyncio.to_thread(inspect, data)
            finally:
                held.release()
        except UnusableReference as error:
            raise UnusableReference(f"{file.shown} {error.message}") from None

    async def read(self, file: SourceFile, picture: Picture) -> bytes:
        """The bytes of a file that is what it was when it was examined.

        Raises:
            UnusableReference: It is gone, or has another content now.
            StorageError: The storage failed; trying again may help.
        """
        files = await self._at(file)
        data = await files.read(file.path)
        found = await asyncio.to_thread(inspect, data) if data else None
        if data is None or found is None or found.sha256 != picture.sha256:
            what = "is gone" if data is None else "has changed"
            raise UnusableReference(f"{file.shown} {what} since this run began: run again")
        return data

    @asynccontextmanager
    async def holding(self, size: int) -> AsyncIterator[None]:
        """Count bytes as held while the block lasts, waiting until there is room for them."""
        held = self._budget.hold()
        try:
            await held.take(size)
            yield
        finally:
            held.release()

    async def sign(self, file: SourceFile, seconds: int) -> str:
        """A URL, itself a secret, by which anyone can read a file for so many seconds.

        Raises:
            DestinationError: Its storage, or what it was given, cannot sign.
        """
        return await (await self._at(file)).sign(file.path, seconds)

    async def _at(self, file: SourceFile) -> StoredFiles:
        async with self._reaching:
            for other, files in self._reached:
                if (other.root.url, other.options) == (file.root.url, file.options):
                    return files
            files = await StoredFiles.open(file.root, file.options)
            self._stack.push_async_callback(files.aclose)
            self._reached.append((file, files))
            return files


@asynccontextmanager
async def open_storages(held_bytes: int = HELD_BYTES) -> AsyncIterator[Storages]:
    """Give what reads files wherever they are, and close it at the end."""
    async with AsyncExitStack() as stack:
        yield Storages(stack, held_bytes)
