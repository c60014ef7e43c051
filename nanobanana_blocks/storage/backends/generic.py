"""File systems that are neither object stores nor POSIX: renamed where that is known to hold.

FTP is in a module of its own.

What no rename is known of is refused, unless the user accepts by name that a reader, or a process
killed while it writes, may meet part of a file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.backends.remote import RemoteFolder, close_quietly
from nanobanana_blocks.storage.causes import CannotCreate, Cause, Unsettled, WrongSize, has_sign
from nanobanana_blocks.storage.locations import Location

ACCEPT_PARTIAL_FILES = "accept_partial_files"
"""The storage option that accepts a backend without a known atomic write; never passed on to it."""

MAX_LOOKS = 6
LOOK_SECONDS = 0.05
"""How often a renamed file is looked for, and the pause after the first time; it grows."""


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

    async def list(self) -> dict[str, int]:
        try:
            return await super().list()
        except Exception as error:
            if Cause.of(error) is Cause.MISSING and await self._is_folder():
                # A file that was being replaced was missed, not the folder.
                raise Unsettled from None
            raise

    async def write(self, name: str, data: bytes, media_type: str) -> None:  # noqa: ARG002 - no generic way
        if not self.renames:
            await self._put(name, data)
            await self._require_size(name, len(data))
            return
        await self._write_and_rename(name, data)
        for attempt in range(1, MAX_LOOKS + 1):
            size = await self._size_if_there(name)
            if size == len(data):
                return
            # Another writer may be replacing it, which some servers do by deleting it first.
            await anyio.sleep(LOOK_SECONDS * attempt)
        raise Unsettled if size is None else WrongSize

    async def _size_if_there(self, name: str) -> int | None:
        try:
            return await self.size_of(name)
        except Exception as error:
            if Cause.of(error) is Cause.MISSING:
                return None
            raise

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


class WebdavFolder(GenericFolder):
    """WebDAV, by webdav4."""

    renames = True
    # httpx's own five seconds are little for a server that copies what it moves.
    defaults = {"timeout": 30.0}  # noqa: RUF012 - read only

    async def _put(self, name: str, data: bytes) -> None:
        # The backend's own `pipe_file` makes the folder again each time.
        upload = self._file_system.client.upload_fileobj
        try:
            await self._in_thread(upload, io.BytesIO(data), self._at(name), overwrite=True)
        except Exception as error:
            if has_sign(error, "HTTP 409") and not await self._is_folder():
                raise FileNotFoundError(self._root) from None
            raise

    async def _rename(self, temporary: str, name: str) -> None:
        # The backend's own `mv` copies; MOVE is one step of the server's.
        move = self._file_system.client.move
        await self._in_thread(move, self._at(temporary), self._at(name), overwrite=True)

    def _options_for(self, file_system_class: Any) -> dict[str, Any]:
        options = super()._options_for(file_system_class)
        if isinstance(options.get("auth"), list):  # as JSON has it
            options["auth"] = tuple(options["auth"])
        return options

    async def _close_connections(self, file_system: Any) -> None:
        await close_quietly(file_system.client.http.close)
