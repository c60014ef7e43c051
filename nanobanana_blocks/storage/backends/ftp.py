"""FTP: a temporary name, its size checked, then a rename, all over one connection in step.

FTP answers in order, without saying which command an answer is for. A command that fails halfway
leaves an answer behind, which would be taken for the next command's: an empty folder for a listing,
success for a rename. So a connection is used again only after a plain refusal.
"""

from __future__ import annotations

import asyncio
import ftplib
import importlib
import io
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

from nanobanana_blocks.storage.backends.generic import GenericFolder
from nanobanana_blocks.storage.backends.remote import close_quietly
from nanobanana_blocks.storage.locations import Location

T = TypeVar("T")

REASON_SECONDS = 5.0
"""How long the reason for which a server ended a transfer is waited for."""


class FtpFolder(GenericFolder):
    """FTP: one connection, which does one thing at a time.

    fsspec's own listing answers an empty folder where a server is busy, so commands are sent here.
    """

    renames = True
    width = 1

    def __init__(self, location: Location, options: Mapping[str, Any]) -> None:
        super().__init__(location, options, threads=1)
        self._out_of_step: Any = None

    async def prepare(self) -> None:
        await self._send(self._make_folder)

    async def list(self) -> dict[str, int]:
        entries = await self._send(self._entries)
        return {name: size for name, size in entries.items() if not name.startswith(".")}

    async def size_of(self, name: str) -> int | None:
        return await self._send(lambda ftp: self._size(ftp, name))

    async def read(self, name: str) -> bytes:
        return await self._send(lambda ftp: self._retrieve(ftp, name))

    async def _put(self, name: str, data: bytes) -> None:
        await self._send(lambda ftp: self._store(ftp, name, data))

    async def _rename(self, temporary: str, name: str) -> None:
        await self._send(lambda ftp: ftp.rename(self._at(temporary), self._at(name)))

    async def _remove(self, name: str) -> None:
        await self._send(lambda ftp: ftp.delete(self._at(name)))

    async def _send(self, commands: Callable[[ftplib.FTP], T]) -> T:
        try:
            return await self._in_thread(self._in_step, commands)
        except asyncio.CancelledError:
            # The thread may wait for an answer for longer: what comes next is not kept behind it.
            self._out_of_step = self._file_system
            self._renew_threads()
            raise

    def _in_step(self, commands: Callable[[ftplib.FTP], T]) -> T:
        """Send commands over a connection on which no answer of earlier ones is outstanding."""
        if self._file_system is self._out_of_step:
            self._build()
        file_system = self._file_system
        try:
            return commands(file_system.ftp)
        except Exception as error:
            if not isinstance(error, (ftplib.error_perm, FileNotFoundError)):
                file_system.ftp.close()
                self._out_of_step = file_system
            raise

    def _make_folder(self, ftp: ftplib.FTP) -> None:
        folder = self._root or "/"
        if _accepts(ftp.cwd, folder):
            return
        parts = folder.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            # One code says that it is there and that it may not be made.
            _accepts(ftp.mkd, "/" + "/".join(parts[:depth]))
        ftp.cwd(folder)

    def _entries(self, ftp: ftplib.FTP) -> dict[str, int]:
        """The sizes of the files in the folder, by name; those that the server hides left out."""
        folder = self._root or "/"
        listed = _unless_missing(
            lambda: _listing(ftp, folder), lambda: _accepts(ftp.cwd, folder), folder
        )
        return {
            path.rpartition("/")[2]: int(facts.get("size") or 0)
            for path, facts in listed
            if facts.get("type") == "file"
        }

    def _size(self, ftp: ftplib.FTP, name: str) -> int | None:
        try:
            ftp.voidcmd("TYPE I")
            return ftp.size(self._at(name))
        except ftplib.error_perm:
            # There is no such file, or no such command.
            return self._entries(ftp).get(name)

    def _retrieve(self, ftp: ftplib.FTP, name: str) -> bytes:
        def content() -> bytes:
            received = io.BytesIO()
            ftp.retrbinary(f"RETR {self._at(name)}", received.write)
            return received.getvalue()

        return _unless_missing(content, lambda: self._size(ftp, name) is not None, name)

    def _store(self, ftp: ftplib.FTP, name: str, data: bytes) -> None:
        try:
            ftp.storbinary(f"STOR {self._at(name)}", io.BytesIO(data), blocksize=1 << 16)
        except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError):
            # The server ended the transfer; why, it says on the other connection.
            if ftp.sock is not None:
                ftp.sock.settimeout(REASON_SECONDS)
                ftp.voidresp()
            raise

    def _checked_url_options(self, from_url: dict[str, Any]) -> dict[str, Any]:
        return {
            name: unquote(value) if name in ("username", "password") else value
            for name, value in from_url.items()
        }

    async def _close_connections(self, file_system: Any) -> None:
        await close_quietly(file_system.ftp.close)


def _unless_missing(obtain: Callable[[], T], is_there: Callable[[], bool], name: str) -> T:
    """Obtain a file or a listing; one refusal says that it is missing or denied, so look which.

    Between the refusal and the look, another run may have made it: then it can be had now.
    """
    try:
        return obtain()
    except ftplib.error_perm:
        if is_there():
            return obtain()
        raise FileNotFoundError(name) from None


def _accepts(command: Callable[[str], object], path: str) -> bool:
    try:
        command(path)
    except ftplib.error_perm:
        return False
    return True


def _listing(ftp: ftplib.FTP, folder: str) -> list[tuple[str, Mapping[str, Any]]]:
    """What is in a folder, each with its facts; older servers know only a listing for people."""
    try:
        return list(ftp.mlsd(folder))
    except ftplib.error_perm:
        backend = importlib.import_module("fsspec.implementations.ftp")
        listed: list[tuple[str, Mapping[str, Any]]] = backend._mlsd2(ftp, folder)
        return listed
