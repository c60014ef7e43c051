"""One folder on one kind of storage, and how that kind is written in one piece.

What is raised is the backend's own; `storage` gives it limits, retries and words.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fsspec.registry import get_filesystem_class

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.causes import (
    CannotCreate,
    WrongSize,
    knows_no_exclusive_creation,
    refused_to_replace,
)
from nanobanana_blocks.storage.locations import Location

T = TypeVar("T")

THREADS = 16
"""Threads that one destination uses at most, where its file system is not asynchronous."""

CONNECTIONS = 64
"""Operations that an asynchronous object store is asked to do at a time, each on a connection."""

_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
    | {errno.EINVAL, errno.EMLINK, errno.EXDEV}
)
"""What file systems without hard links say to one, in a folder where a file was just written."""

_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_STALE_AFTER = 24 * 60 * 60.0
_TEMPORARY = re.compile(r"\.nanobanana-[0-9a-f]{32}\.part")


class Folder(ABC):
    """One folder on one kind of storage. Its methods raise whatever the backend raises."""

    can_create: bool
    width: int

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    async def _in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *args, **kwargs))

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    @abstractmethod
    async def connect(self) -> None: ...

    @abstractmethod
    async def reconnect(self) -> None: ...

    @abstractmethod
    def path_of(self, name: str) -> str: ...

    @abstractmethod
    async def prepare(self) -> None: ...

    @abstractmethod
    async def list(self) -> dict[str, int]: ...

    @abstractmethod
    async def size_of(self, name: str) -> int | None: ...

    @abstractmethod
    async def read(self, name: str) -> bytes: ...

    @abstractmethod
    async def write(self, name: str, data: bytes, media_type: str) -> None: ...

    @abstractmethod
    async def create(self, name: str, data: bytes, media_type: str) -> bool: ...

    @abstractmethod
    async def delete(self, name: str) -> None: ...


class LocalFolder(Folder):
    can_create = True
    width = THREADS

    def __init__(self, executor: ThreadPoolExecutor, folder: Path) -> None:
        super().__init__(executor)
        self._path = folder

    async def connect(self) -> None:
        """A local folder is always connected."""

    async def reconnect(self) -> None:
        """A local folder is always connected."""

    def path_of(self, name: str) -> str:
        return str(self._path / name)

    async def prepare(self) -> None:
        await self._in_thread(self._prepare)

    async def list(self) -> dict[str, int]:
        return await self._in_thread(self._list)

    async def size_of(self, name: str) -> int | None:
        return (await self._in_thread((self._path / name).stat)).st_size

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


@dataclass(frozen=True)
class _Kind:
    """What is particular to writing through one fsspec backend.

    Attributes:
        package: The backend's package; None where any will do.
        extra: The extra of this project that installs it.
        defaults: Storage options that hold unless the user gives others.
        media_type: The keyword arguments of a write that carry a media type.
        exclusive: Whether a write with ``mode="create"`` refuses to replace.
        single_put: Whether a write appears in one piece or not at all.
        posix: Whether folders are made and files renamed, and the connection may be lost.
        width: How many operations it is asked to do at a time.
    """

    package: str | None = None
    extra: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    media_type: Callable[[str], dict[str, Any]] = lambda _: {}
    exclusive: bool = False
    single_put: bool = False
    posix: bool = False
    width: int = THREADS


def _azure_media_type(media_type: str) -> dict[str, Any]:
    # The class rather than a dictionary, because only newer releases of adlfs take the latter.
    settings = importlib.import_module("azure.storage.blob").ContentSettings
    return {"content_settings": settings(content_type=media_type)}


_OBJECT_STORE: dict[str, Any] = {"exclusive": True, "single_put": True, "width": CONNECTIONS}
_S3 = _Kind(
    package="s3fs",
    extra="s3",
    # botocore keeps ten connections otherwise, and all other writes wait for one of them.
    defaults={"config_kwargs": {"max_pool_connections": CONNECTIONS}},
    media_type=lambda media_type: {"ContentType": media_type},
    **_OBJECT_STORE,
)
_GS = _Kind(
    package="gcsfs",
    extra="gs",
    media_type=lambda media_type: {"content_type": media_type},
    **_OBJECT_STORE,
)
_AZURE = _Kind(package="adlfs", extra="azure", media_type=_azure_media_type, **_OBJECT_STORE)
_SFTP = _Kind(
    # fsspec's own sftp, on paramiko, is not safe under threads.
    package="sshfs",
    extra="sftp",
    defaults={"connect_timeout": 15, "keepalive_interval": 30},
    posix=True,
)
_MEMORY = _Kind(exclusive=True, single_put=True)
_OTHER = _Kind()
_KINDS = {
    **dict.fromkeys(("s3", "s3a"), _S3),
    **dict.fromkeys(("gs", "gcs"), _GS),
    **dict.fromkeys(("az", "abfs", "abfss"), _AZURE),
    **dict.fromkeys(("sftp", "ssh"), _SFTP),
    "memory": _MEMORY,
}


class RemoteFolder(Folder):
    """A folder that fsspec reaches.

    Asynchronous backends are called on fsspec's own event loop. A call of theirs on any other loop
    would tie the instance to that one, and go on failing after it is closed.
    """

    def __init__(
        self, executor: ThreadPoolExecutor, location: Location, options: dict[str, Any]
    ) -> None:
        super().__init__(executor)
        self._location = location
        self._options = options
        self._kind = _KINDS.get(location.protocol, _OTHER)
        self._reconnecting = asyncio.Lock()
        self._file_system: Any = None
        self._root = ""
        self.can_create = self._kind.exclusive
        self.width = self._kind.width

    async def connect(self) -> None:
        self._file_system, self._root = await self._in_thread(self._build)

    async def reconnect(self) -> None:
        if not self._kind.posix:
            return
        failed = self._file_system
        async with self._reconnecting:
            if self._file_system is failed:
                await self.connect()

    def close(self) -> None:
        super().close()
        self._file_system = None

    def path_of(self, name: str) -> str:
        return Location.child(self._location.redacted, name)

    async def prepare(self) -> None:
        if self._kind.posix:
            await self._call("makedirs", self._root, exist_ok=True)

    async def list(self) -> dict[str, int]:
        self._file_system.invalidate_cache()
        entries = await self._call("ls", self._root, detail=True)
        return dict(self._files_among(entries))

    async def size_of(self, name: str) -> int | None:
        self._file_system.invalidate_cache()
        found = await self._call("info", self._at(name))
        return int(found["size"]) if found.get("type") == "file" else None

    async def read(self, name: str) -> bytes:
        return bytes(await self._call("cat_file", self._at(name)))

    async def write(self, name: str, data: bytes, media_type: str) -> None:
        if self._kind.posix:
            await self._write_and_rename(name, data)
            return
        await self._call("pipe_file", self._at(name), data, **self._kind.media_type(media_type))
        if not self._kind.single_put:
            await self._require_size(name, len(data))

    async def create(self, name: str, data: bytes, media_type: str) -> bool:
        settings = self._kind.media_type(media_type)
        try:
            await self._call("pipe_file", self._at(name), data, mode="create", **settings)
        except Exception as error:
            if refused_to_replace(error):
                return False
            if knows_no_exclusive_creation(error):
                raise CannotCreate from None
            raise
        return True

    async def delete(self, name: str) -> None:
        await self._call("rm_file", self._at(name))

    async def _write_and_rename(self, name: str, data: bytes) -> None:
        temporary = temporary_name()
        try:
            await self._call("pipe_file", self._at(temporary), data)
            await self._require_size(temporary, len(data))
            await self._call("mv", self._at(temporary), self._at(name))
        except Exception:
            with suppress(Exception):
                await self.delete(temporary)
            raise

    async def _require_size(self, name: str, size: int) -> None:
        if await self.size_of(name) != size:
            raise WrongSize

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        file_system = self._file_system
        if not file_system.async_impl:
            return await self._in_thread(getattr(file_system, method), *args, **kwargs)
        operation = getattr(file_system, f"_{method}")(*args, **kwargs)
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(operation, file_system.loop)
        )

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _files_among(self, entries: Iterable[dict[str, Any]]) -> Iterator[tuple[str, int]]:
        parent = self._root.strip("/")
        for entry in entries:
            folder, _, name = entry["name"].strip("/").rpartition("/")
            if entry.get("type") == "file" and folder == parent and not name.startswith("."):
                yield name, int(entry["size"] or 0)

    def _build(self) -> tuple[Any, str]:
        """Import the backend and make an instance of it, which some do by connecting."""
        file_system_class = self._backend()
        url = self._location.url
        defaults = self._kind.defaults
        options = {**defaults, **file_system_class._get_kwargs_from_urls(url), **self._options}
        for name, default in defaults.items():
            if isinstance(default, Mapping):
                options[name] = {**default, **(self._options.get(name) or {})}
        # An asynchronous instance would belong to one event loop and die with it.
        options.pop("asynchronous", None)
        # fsspec keeps cached instances, with the credentials in them, until the process ends.
        file_system = file_system_class(**options, skip_instance_cache=True)
        return file_system, str(file_system_class._strip_protocol(url)).rstrip("/")

    def _backend(self) -> Any:
        protocol, extra = self._location.protocol, self._kind.extra
        try:
            found = get_filesystem_class(protocol)
        except ImportError as error:
            step = f"pip install 'nanobanana-blocks[{extra}]'" if extra else str(error)
            raise DestinationError(
                f"{self._location.redacted}: the fsspec backend for {protocol}:// is not "
                f"installed. {step}"
            ) from None
        package = found.__module__.partition(".")[0]
        if self._kind.package not in (None, package):
            raise DestinationError(
                f"{self._location.redacted}: {protocol}:// would be served by {package}, "
                f"which cannot write safely here. pip install 'nanobanana-blocks[{extra}]'"
            )
        return found


def temporary_name() -> str:
    return f".nanobanana-{secrets.token_hex(16)}.part"
