"""Folders of this machine: a temporary name, flushed to disk, then renamed or linked."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanobanana_blocks.storage.backends.folder import MAX_THREADS, Folder, temporary_name
from nanobanana_blocks.storage.causes import CannotCreate

_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
    | {errno.EINVAL, errno.EMLINK, errno.EXDEV, errno.EIO}
)
"""What file systems without hard links answer, in a folder where a file was just written."""

_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_STALE_AFTER = 24 * 60 * 60.0
_TEMPORARY = re.compile(r"\.nanobanana-[0-9a-f]{32}\.part")


class LocalFolder(Folder):
    """A folder that the operating system reaches."""

    can_create = True
    width = MAX_THREADS

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder

    async def connect(self) -> None:
        """A local folder is always connected."""

    async def reconnect(self, failed: object) -> None:
        """A local folder is always connected."""

    def path_of(self, name: str) -> str:
        return str(self._path / name)

    async def prepare(self) -> None:
        await self._in_thread(self._prepare)

    async def list(self) -> dict[str, int]:
        return await self._in_thread(self._list)

    async def size_of(self, name: str) -> int | None:
        return (await self._in_thread((self._path / name).stat)).st_size

    async def times(self) -> dict[str, datetime | None]:
        return await self._in_thread(self._times)

    async def describe(self, name: str) -> dict[str, Any]:
        status = await self._in_thread((self._path / name).stat)
        is_file = stat.S_ISREG(status.st_mode)
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "other"
        return {
            "type": "file" if is_file else kind,
            "size": status.st_size,
            "mtime": status.st_mtime_ns,
        }

    async def read(self, name: str) -> bytes:
        return await self._in_thread((self._path / name).read_bytes)

    async def write(self, name: str, data: bytes, media_type: str) -> None:  # noqa: ARG002 - files have none
        await self._in_thread(self._write, name, data)

    async def create(self, name: str, data: bytes, media_type: str) -> bool:  # noqa: ARG002 - files have none
        return await self._in_thread(self._create, name, data)

    async def delete(self, name: str) -> None:
        await self._in_thread((self._path / name).unlink)

    def _prepare(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        oldest = time.time() - _STALE_AFTER
        with os.scandir(self._path) as entries:
            for entry in entries:
                if _TEMPORARY.fullmatch(entry.name):
                    with suppress(OSError):
                        if entry.stat(follow_symlinks=False).st_mtime < oldest:
                            Path(entry.path).unlink()

    def _list(self) -> dict[str, int]:
        sizes = {}
        with os.scandir(self._path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if not entry.name.startswith(".") and entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
        return sizes

    def _times(self) -> dict[str, datetime | None]:
        found: dict[str, datetime | None] = {}
        for name in self._list():
            with suppress(FileNotFoundError):
                written = (self._path / name).stat().st_mtime
                found[name] = datetime.fromtimestamp(written, UTC)
        return found

    def _write(self, name: str, data: bytes) -> None:
        temporary = self._written_apart(data)
        try:
            temporary.replace(self._path / name)
        except OSError:
            _discard(temporary)
            raise

    def _create(self, name: str, data: bytes) -> bool:
        temporary = self._written_apart(data)
        try:
            os.link(temporary, self._path / name)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                raise CannotCreate from None
            raise
        finally:
            _discard(temporary)
        _have_disk_take_names(self._path)
        return True

    def _written_apart(self, data: bytes) -> Path:
        """Write `data` beside its final place and have the disk take it; return where."""
        temporary = self._path / temporary_name()
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            _discard(temporary)
            raise
        return temporary


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _have_disk_take_names(folder: Path) -> None:
    """Have a power cut take no name away that is in a folder, where the system can promise that."""
    if not hasattr(os, "O_DIRECTORY"):  # as on Windows, which opens no folders
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(opened)
