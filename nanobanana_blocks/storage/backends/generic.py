"""File systems that are neither object stores nor POSIX: renamed where that is known to hold.

What no rename is known of is refused, unless the user accepts by name that a reader, or a process
killed while it writes, may meet part of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.backends.remote import RemoteFolder, close_quietly
from nanobanana_blocks.storage.causes import CannotCreate, Cause
from nanobanana_blocks.storage.locations import Location

ACCEPT_PARTIAL_FILES = "accept_partial_files"
"""The storage option that accepts a backend without a known atomic write; never passed on to it."""


class GenericFolder(RemoteFolder):
    """A folder on a backend that nothing is known of, accepted by name."""

    renames = False

    def __init__(
        self, location: Location, options: Mapping[str, Any], *, threads: int | None = None
    ) -> None:
        given = dict(options)
        accepted = given.pop(ACCEPT_PARTIAL_FILES, False)
        if not self.renames and accepted is not True:
            raise DestinationError(
                f"{location.redacted}: it is not known how a file appears in one piece on "
                f"{location.protocol}://. Use s3, gs, az, sftp, webdav, ftp or a local folder; or "
                f"accept that parts of files may be seen, with {ACCEPT_PARTIAL_FILES}=True in "
                "storage_options."
            )
        super().__init__(location, given, **({} if threads is None else {"threads": threads}))

    async def prepare(self) -> None:
        try:
            await self._call("makedirs", self._root, exist_ok=True)
        except NotImplementedError:
            return  # a backend without folders
        except Exception:
            # FTP and others answer alike to what is there and to what may not be made.
            if not await self._is_folder():
                raise

    async def _is_folder(self) -> bool:
        with suppress(Exception):
            self._file_system.invalidate_cache()
            return bool(await self._call("isdir", self._root))
        return False

    async def write(self, name: str, data: bytes, media_type: str) -> None:  # noqa: ARG002 - no generic way
        if self.renames:
            await self._write_and_rename(name, data)
        else:
            await self._call("pipe_file", self._at(name), data)
        await self._require_size(name, len(data))

    async def create(self, *_: Any) -> bool:
        raise CannotCreate

    async def delete(self, name: str) -> None:
        try:
            await super().delete(name)
        except Exception:
            if await self._is_there(name):
                raise

    async def _is_there(self, name: str) -> bool:
        try:
            return await self.size_of(name) is not None
        except Exception as error:
            return Cause.of(error) is not Cause.MISSING


class FtpFolder(GenericFolder):
    """FTP: one connection, which does one thing at a time."""

    renames = True
    width = 1

    def __init__(self, location: Location, options: Mapping[str, Any]) -> None:
        super().__init__(location, options, threads=1)

    async def reconnect(self, failed: object) -> None:
        await self._replace_connection(failed)

    async def size_of(self, name: str) -> int | None:
        try:
            return await super().size_of(name)
        except FileNotFoundError:
            return None

    async def read(self, name: str) -> bytes:
        if await self.size_of(name) is None:
            raise FileNotFoundError(name)
        try:
            return await super().read(name)
        except FileNotFoundError:  # fsspec's word for every failure to read
            raise PermissionError(name) from None

    def _checked_url_options(self, from_url: dict[str, Any]) -> dict[str, Any]:
        return {
            name: unquote(value) if name in ("username", "password") else value
            for name, value in from_url.items()
        }

    async def _close_connections(self, file_system: Any) -> None:
        await close_quietly(file_system.ftp.close)


class WebdavFolder(GenericFolder):
    """WebDAV, by webdav4."""

    renames = True

    async def _rename(self, temporary: str, name: str) -> None:
        # The backend's own `mv` copies; MOVE is one step of the server's.
        move = self._file_system.client.move
        await self._in_thread(move, self._at(temporary), self._at(name), overwrite=True)

    async def _close_connections(self, file_system: Any) -> None:
        await close_quietly(file_system.client.http.close)
