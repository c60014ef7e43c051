"""A manifest's bytes read from any storage; what they say is not looked at.

It reads as `Destination` does: with a limit on the time, a few tries and no secret in a message.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanobanana_blocks.batches.manifest.formats import oversize
from nanobanana_blocks.batches.manifest.problems import InvalidManifest
from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.storage.locations import Location

READ_SECONDS = 120.0


@dataclass(frozen=True)
class Source:
    """The file that holds a manifest: its folder, its name there, and its path in messages."""

    folder: Location
    name: str
    path: str

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
        file = Location.parse(text)
        return cls(*file.parent_and_name(), file.redacted)

    async def read(
        self, storage_options: Mapping[str, Any] | None, *, seconds: float = READ_SECONDS
    ) -> bytes:
        """Return the file's bytes; `seconds` bounds each of the two questions to the storage.

        Raises:
            InvalidManifest: It is too large to be read.
            DestinationError: There is no such file, its backend is not installed, or access is
                refused.
            StorageError: The storage is out of reach, or failed.
        """
        if self.folder.local is not None:
            await asyncio.to_thread(_require_regular, self.folder.local / self.name)
        async with await Destination.open(
            self.folder, storage_options, operation_seconds=seconds, called=self.path
        ) as storage:
            size = await storage.size_of(self.name)
            if problem := oversize(size or 0):
                raise InvalidManifest.of(self.path, [problem])
            data = None if size is None else await storage.read(self.name)
        if data is None:
            where = "" if self.folder.local else ", or it is a folder"
            raise DestinationError(
                f"{self.path}: there is no such file{where}. Check the spelling."
            )
        return data


def _require_regular(path: Path) -> None:
    with suppress(OSError):  # the storage meets it again, and says what it is
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DestinationError(f"{path}: this is a folder. Name the file in it.")
        if not stat.S_ISREG(mode):
            raise DestinationError(f"{path}: this is no regular file. Copy it into one.")
