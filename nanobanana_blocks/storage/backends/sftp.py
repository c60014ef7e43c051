"""SFTP: a temporary name, its size checked, then a POSIX rename or a hard link."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.backends.remote import RemoteFolder, close_quietly
from nanobanana_blocks.storage.causes import CannotCreate, Cause, has_sign


class SftpFolder(RemoteFolder):
    """A folder on a host that speaks SFTP, by sshfs and asyncssh.

    fsspec's own sftp, on paramiko, is not safe under threads.
    """

    package = "sshfs"
    extra = "sftp"
    # () is asyncssh's word for the user's known_hosts; sshfs's default is to check nothing.
    defaults = {"connect_timeout": 15, "keepalive_interval": 30, "known_hosts": ()}  # noqa: RUF012 - read only
    can_create = True

    async def reconnect(self, failed: object) -> None:
        await self._replace_connection(failed)

    async def prepare(self) -> None:
        await self._call("makedirs", self._root, exist_ok=True)

    async def write(self, name: str, data: bytes, media_type: str) -> None:  # noqa: ARG002 - files have none
        await self._write_and_rename(name, data)

    async def create(self, name: str, data: bytes, media_type: str) -> bool:  # noqa: ARG002 - files have none
        temporary = await self._written_apart(data)
        try:
            await self._on_channel(lambda sftp: sftp.link(self._at(temporary), self._at(name)))
        except Exception as error:
            if await self._exists(name):
                return False
            if has_sign(error, "SFTPOpUnsupported", "SFTPFailure", "SFTPPermissionDenied"):
                # Protocol 3 has one code for all that a disk says to a link.
                raise CannotCreate from None
            raise
        finally:
            await self._discard(temporary)
        return True

    async def _written_apart(self, data: bytes) -> str:
        try:
            return await super()._written_apart(data)
        except Exception as error:
            # Protocol 3 has no code for a full disk: "Failure" is all that OpenSSH says.
            if has_sign(error, "SFTPFailure") and await self._is_full(len(data)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            raise

    async def _is_full(self, size: int) -> bool:
        try:
            disk = await self._on_channel(lambda sftp: sftp.statvfs(self._root))
        except Exception:
            return False
        return bool(disk.bavail * disk.frsize <= size or disk.favail == 0 < disk.files)

    async def _exists(self, name: str) -> bool:
        try:
            await self._call("info", self._at(name))
        except Exception as error:
            if Cause.of(error) is Cause.MISSING:
                return False
            raise
        return True

    async def _rename(self, temporary: str, name: str) -> None:
        try:
            await self._on_channel(
                lambda sftp: sftp.posix_rename(self._at(temporary), self._at(name))
            )
        except Exception as error:
            if not has_sign(error, "SFTPOpUnsupported"):
                raise
            # sshfs would copy here, and a reader would see the copy growing.
            raise DestinationError(
                f"{self._location.redacted}: this SFTP server cannot replace a file in one step "
                "(it lacks posix-rename@openssh.com). Use a server with that extension, such as "
                "OpenSSH, or another storage."
            ) from None

    async def _on_channel(self, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        pool = self._file_system._pool

        async def run() -> Any:
            async with pool.get() as sftp:
                return await operation(sftp)

        return await self._on_its_loop(run())

    def _checked_url_options(self, from_url: dict[str, Any]) -> dict[str, Any]:
        options = {
            name: unquote(value) if name in ("username", "password") else value
            for name, value in from_url.items()
        }
        unchecked = "known_hosts" in self._options and self._options["known_hosts"] is None
        if options.get("password") and unchecked:
            raise DestinationError(
                f"{self._location.redacted}: the password in the URL would go to a host whose key "
                "is not checked. Remove known_hosts=None from storage_options (and add the host "
                "to known_hosts), or give a client key."
            )
        return options

    async def _close_connections(self, file_system: Any) -> None:
        await close_quietly(file_system._pool.close, file_system._stack.aclose)
