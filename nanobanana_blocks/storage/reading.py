"""Files anywhere on one storage, to be read and signed; nothing is written, or listed.

Where `Destination` is one folder, this is a whole bucket, host or disk: one connection serves files
in any number of folders. Limits on time and tries are the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.backends import ACCEPT_PARTIAL_FILES, Folder, folder_at
from nanobanana_blocks.storage.causes import Cause, checking_error, operation_error, within
from nanobanana_blocks.storage.locations import Location

T = TypeVar("T")

_TRIES = 3
_FIRST_PAUSE = 0.5
_JITTER = random.SystemRandom()
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "modified")
"""What backends call that by which another content of a file is known, the best first."""


@dataclass(frozen=True)
class FileFacts:
    """What a storage tells of a file.

    Attributes:
        size: In bytes.
        version: Another text once its content is another; None where the storage tells none.
    """

    size: int
    version: str | None


def split(file: Location) -> tuple[Location, str]:
    """The root of the storage that a file is on, and the file's path below it.

    Raises:
        DestinationError: It names no file, but a bucket, a container or a host.
    """
    file.parent_and_name()  # refuses roots
    if file.local is not None:
        root = Path(file.local.anchor)
        return Location("file", str(root), str(root), root), str(file.local.relative_to(root))
    protocol, _, rest = file.url.partition("://")
    if protocol == "memory":
        return replace(file, url="memory://", redacted="memory://"), rest
    authority, _, path = rest.partition("/")
    url = f"{protocol}://{authority}"
    return replace(file, url=url, redacted=_redacted_root(file, authority)), path


def _redacted_root(file: Location, authority: str) -> str:
    """The root of a file's storage as messages may have it."""
    shown = file.redacted.partition("://")[2].partition("/")[0]
    return f"{file.protocol}://{shown or authority.rpartition('@')[2]}"


class StoredFiles:
    """Files on one storage, by their paths below its root; made by `open`."""

    def __init__(self, root: Location, folder: Folder, *, operation_seconds: float) -> None:
        """For `open`."""
        self.root = root
        self._folder = folder
        self._operation_seconds = operation_seconds
        self._slots = asyncio.Semaphore(folder.width)

    @classmethod
    async def open(
        cls,
        root: Location,
        storage_options: Mapping[str, Any] | None = None,
        *,
        operation_seconds: float = 120.0,
        check_seconds: float = 15.0,
    ) -> StoredFiles:
        """Reach a storage; nothing is asked of it yet.

        Raises:
            DestinationError: Its backend is not installed, or does not take the options.
        """
        folder = folder_at(root, _reading_options(root, storage_options or {}))
        try:
            await within(check_seconds, folder.connect)
        except BaseException as error:
            await folder.aclose()
            if not isinstance(error, Exception):
                raise
            raise checking_error(root.redacted, "open", error) from None
        return cls(root, folder, operation_seconds=operation_seconds)

    async def facts_of(self, path: str) -> FileFacts | None:
        """What the storage tells of a file; None where there is none.

        Raises:
            DestinationError: It is a folder, or access is refused.
            StorageError: The storage failed; trying again may help.
        """
        found = await self._perform(path, "look into", partial(self._folder.describe, path), None)
        if found is None:
            return None
        if found.get("type") != "file":
            what = "a folder" if found.get("type") == "directory" else "no regular file"
            raise DestinationError(f"{self.shown(path)}: this is {what}. Name a file.")
        version = next((str(found[name]) for name in _VERSIONS if found.get(name)), None)
        return FileFacts(int(found["size"] or 0), version)

    async def read(self, path: str) -> bytes | None:
        """The content of a file; None where there is none.

        Raises:
            DestinationError: Access is refused.
            StorageError: The storage failed; trying again may help.
        """
        return await self._perform(path, "read from", partial(self._folder.read, path), None)

    async def sign(self, path: str, seconds: int) -> str:
        """A URL, itself a secret, by which anyone can read a file for so many seconds.

        Raises:
            DestinationError: The backend, or what it was given, cannot sign.
        """
        try:
            return await within(self._operation_seconds, partial(self._folder.sign, path, seconds))
        except Exception as error:
            # Whatever it is called, nobody has been asked: it is about keys, or their absence.
            why = type(error).__name__
            raise DestinationError(
                f"{self.root.redacted}: {self.root.protocol}:// cannot sign URLs here ({why})."
            ) from None

    def shown(self, path: str) -> str:
        """A file as messages may call it."""
        if self.root.local is not None:
            return str(self.root.local / path)
        return f"{self.root.redacted}/{path}".replace(":///", "://")

    async def aclose(self) -> None:
        """Release threads and connections."""
        await self._folder.aclose()

    async def _perform(
        self, path: str, doing: str, operation: Callable[[], Awaitable[T]], missing: T | None
    ) -> T | None:
        async with self._slots:
            try:
                return await within(self._operation_seconds, partial(self._retry, operation))
            except Exception as error:
                if Cause.of(error) is Cause.MISSING:
                    return missing
                right = self._folder.right_to(doing)
                raise operation_error(self.shown(path), doing, error, right) from None

    async def _retry(self, operation: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, _TRIES):
            used = self._folder.connection
            try:
                return await operation()
            except Exception as error:
                if not Cause.of(error).transient:
                    raise
            await anyio.sleep(_FIRST_PAUSE * 2 ** (attempt - 1) * _JITTER.uniform(0.5, 1.0))
            await self._folder.reconnect(used)
        return await operation()


def _reading_options(root: Location, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under which any backend may be read, and S3 signs as every region takes it."""
    given = dict(options)
    if root.local is None:
        given[ACCEPT_PARTIAL_FILES] = True  # of writes, and there are none
    if root.protocol in ("s3", "s3a"):
        signing = {"signature_version": "s3v4"}
        given["config_kwargs"] = signing | dict(given.get("config_kwargs") or {})
    return given
