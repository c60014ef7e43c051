"""A manifest's bytes read from any storage; what they say is not looked at.

It reads as `Destination` does: with a limit on the time, a few tries and no secret in a message.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nanobanana_blocks.batches.manifest.formats import oversize
from nanobanana_blocks.batches.manifest.problems import InvalidManifest
from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.backends import Folder, LocalFolder, RemoteFolder
from nanobanana_blocks.storage.causes import checking_error, operation_error, within
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.storage.locations import Location

INFO_SECONDS = 30.0
READ_SECONDS = 120.0


@dataclass(frozen=True)
class Source:
    """A file by its location and its name in the folder there; `location.shown` is the file's."""

    location: Location
    name: str

    @classmethod
    def parse(cls, url: str) -> Source:
        """Return the file that `url` names, or raise `DestinationError` with the next step."""
        text = url.strip()
        if not text:
            raise DestinationError("the manifest is blank. Give a file's path or URL.")
        if text.lower().startswith(("http://", "https://")):
            raise DestinationError(
                "a manifest is not read over http. Download it, or give its path or URL in a "
                "storage such as s3://."
            )
        location = Location.parse(text)
        if location.local is not None:
            if not location.local.name:
                raise DestinationError(f"{location.shown}: this is a folder. Name the file in it.")
            return cls(replace(location, local=location.local.parent), location.local.name)
        protocol, _, path = location.url.partition("://")
        folder, slash, name = path.rpartition("/")
        if not slash and protocol != "memory":
            raise DestinationError(f"{location.shown}: it names no file.")
        return cls(replace(location, url=f"{protocol}://{folder}"), name)

    async def read(self, storage_options: Mapping[str, Any] | None) -> bytes:
        """Return the file's bytes.

        Raises:
            InvalidManifest: It is too large to be read.
            DestinationError: There is no such file, its backend is not installed, or access is
                refused.
            StorageError: The storage is out of reach, or failed.
        """
        shown = self.location.shown
        executor = ThreadPoolExecutor(1, thread_name_prefix="nanobanana-manifest")
        folder: Folder
        if self.location.local is None:
            folder = RemoteFolder(executor, self.location, dict(storage_options or {}))
        else:
            folder = LocalFolder(executor, self.location.local)
        storage = Destination(
            shown, folder, operation_seconds=READ_SECONDS, check_seconds=INFO_SECONDS
        )
        async with storage:
            try:
                await within(INFO_SECONDS, folder.connect)
            except Exception as error:
                raise checking_error(shown, "open", error) from None
            try:
                size = await within(INFO_SECONDS, partial(self._size, storage))
            except Exception as error:
                raise operation_error(shown, "look into", error) from None
            if problem := oversize(size or 0):
                raise InvalidManifest.of(shown, [problem])
            data = None if size is None else await storage.read(self.name)
        if data is None:
            where = "" if self.location.local else ", or it is a folder"
            raise DestinationError(f"{shown}: there is no such file{where}. Check the spelling.")
        return data

    async def _size(self, storage: Destination) -> int | None:
        if self.location.local is not None:
            await asyncio.to_thread(_require_regular, self.location.local / self.name)
        return await storage.size_of(self.name)


def _require_regular(path: Path) -> None:
    with suppress(OSError):  # `size_of` meets it again
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DestinationError(f"{path}: this is a folder. Name the file in it.")
        if not stat.S_ISREG(mode):
            raise DestinationError(f"{path}: this is no regular file. Copy it into one.")
