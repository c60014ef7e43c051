"""A folder on any fsspec file system, written so that no reader ever sees half a file.

It stores bytes under names. What an image or a receipt is, and when one is written, is decided
elsewhere. No fsspec backend is imported until a destination of its kind is opened.

How a file appears in one piece depends on the kind of storage:

* local folders: a temporary name beside the final one, flushed to disk, then renamed;
* s3, gs, az, memory: one single put of all the bytes;
* sftp: a temporary name, its size checked, then a POSIX rename (a server without that extension
  gets a copy, which a reader may see growing);
* any other fsspec file system: a direct write, its size checked afterwards. A process killed during
  that write may leave part of a file.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import random
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import fsspec
from fsspec.registry import get_filesystem_class

from nanobanana_blocks.errors import DestinationError, InvalidInput, NanoBananaError, StorageError

T = TypeVar("T")

THREADS = 16
"""Threads that one destination uses at most, where its file system is not asynchronous."""

CONNECTIONS = 64
"""Operations that an asynchronous object store is asked to do at a time, each on a connection."""

_TRIES = 3
_FIRST_PAUSE = 0.5
_STALE_AFTER = 24 * 60 * 60.0
_TEMPORARY = re.compile(r"\.nanobanana-[0-9a-f]{32}\.part")
_JITTER = random.SystemRandom()


class Destination:
    """A folder that images and receipts are published in.

    Made by `open`, which tells whether the URL can be meant; `check_writable` tells whether the
    place is there and lets itself be written. One destination serves one event loop.

    Every method raises `StorageError` where trying again may help, and `DestinationError` where
    something must be changed first: the folder is gone, the credentials are refused. No message
    holds anything of the storage options or of a password in the URL.
    """

    def __init__(
        self, shown: str, folder: _Folder, *, operation_seconds: float, check_seconds: float
    ) -> None:
        """For `open`; `shown` is the URL or path without secrets."""
        self._shown = shown
        self._folder = folder
        self._operation_seconds = operation_seconds
        self._check_seconds = check_seconds
        self._slots = asyncio.Semaphore(folder.width)

    @classmethod
    async def open(
        cls,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        operation_seconds: float = 120.0,
        check_seconds: float = 15.0,
    ) -> Destination:
        """Return the destination that `url` names; nothing is asked of the storage yet.

        Args:
            url: A local path (``~`` is expanded) or an fsspec URL, such as ``s3://bucket/folder``.
            storage_options: What fsspec's backend takes, credentials for one.
            operation_seconds: How long one operation may take, its retries included.
            check_seconds: How long opening, and `check_writable`, may take.

        Raises:
            DestinationError: The URL cannot be meant as it stands, its backend is not installed,
                or the backend does not take the options.
        """
        location = _Location.parse(url)
        executor = ThreadPoolExecutor(THREADS, thread_name_prefix="nanobanana-storage")
        folder: _Folder
        if location.local is not None:
            folder = _LocalFolder(executor, location.local)
        else:
            folder = _RemoteFolder(executor, location, dict(storage_options or {}))
        try:
            with anyio.fail_after(check_seconds):
                await folder.connect()
        except Exception as error:
            folder.close()
            raise _destination_error(location.shown, "open", error, check_seconds) from None
        return cls(
            location.shown,
            folder,
            operation_seconds=operation_seconds,
            check_seconds=check_seconds,
        )

    @property
    def path(self) -> str:
        """The folder's path or URL, without a password."""
        return self._shown

    def __repr__(self) -> str:
        return f"Destination({self._shown!r})"

    @property
    def can_create(self) -> bool:
        """Whether `create` is exclusive here: on local folders, s3, gs, az and memory.

        s3 means Amazon's; of the services that imitate it, some ignore the condition.
        """
        return self._folder.can_create

    def path_of(self, name: str) -> str:
        """Return what a person would open to see `name`; it holds no credentials."""
        return self._folder.path_of(_component(name))

    async def check_writable(self) -> None:
        """Make sure that files can be written, by writing, measuring and deleting a small one.

        Missing local and sftp folders are made; a bucket or container never is. On local folders,
        temporary files that killed processes left more than a day ago are deleted. Elsewhere they
        are not looked for; their names begin with ``.nanobanana-`` and end with ``.part``.

        Raises:
            DestinationError: The destination cannot be used, or did not answer in time.
            StorageError: The disk is full.
        """
        try:
            with anyio.fail_after(self._check_seconds):
                await self._folder.prepare()
                await self._try_writing(b"nanobanana-blocks can write here")
        except Exception as error:
            raise _destination_error(self._shown, "write to", error, self._check_seconds) from None

    async def _try_writing(self, content: bytes) -> None:
        probe = _temporary_name()
        await self._folder.write(probe, content, "text/plain")
        try:
            if await self._folder.size_of(probe) != len(content):
                raise _WrongSize
        finally:
            with suppress(Exception):
                await self._folder.delete(probe)

    async def list(self) -> dict[str, int]:
        """Return the size in bytes of every file in the folder, by name, as the storage has it now.

        Folders inside it and names with a leading dot are left out. A missing folder is empty.
        """
        return await self._perform("list", self._folder.list, missing={})

    async def size_of(self, name: str) -> int | None:
        """Return the size of `name` in bytes, or None where there is no such file."""
        operation = partial(self._folder.size_of, _component(name))
        return await self._perform("look into", operation, missing=None)

    async def read(self, name: str) -> bytes | None:
        """Return the content of `name`, or None where there is no such file."""
        operation = partial(self._folder.read, _component(name))
        return await self._perform("read from", operation, missing=None)

    async def publish(self, name: str, data: bytes, media_type: str) -> None:
        """Write `data` under `name`, in place of what is there.

        A reader sees the whole file or what was there before, whenever this process is killed, as
        the module's description tells for each kind of storage. A publish that is cancelled or
        runs out of time may still take place.
        """
        operation = partial(self._folder.write, _component(name), data, media_type)
        await self._perform("write to", operation)

    async def create(self, name: str, data: bytes, media_type: str) -> bool:
        """Write `data` under `name` unless that exists; tell whether it was written here and now.

        Of any number of callers, one is told True. This is tried once only: after a `StorageError`
        the file may or may not have been made; `read` tells by its content. The same holds where a
        backend repeats a request by itself, so put something of your own in `data`.

        Raises:
            DestinationError: This kind of storage has no exclusive creation (see `can_create`).
        """
        if not self.can_create:
            raise DestinationError(
                f"{self._shown}: this kind of storage cannot create a file exclusively. "
                "Use a local folder, s3, gs or az."
            )
        operation = partial(self._folder.create, _component(name), data, media_type)
        return await self._perform("write to", operation, tries=1)

    async def delete(self, name: str) -> None:
        """Delete `name`; that it is not there is no error."""
        operation = partial(self._folder.delete, _component(name))
        await self._perform("delete from", operation, missing=None)

    async def aclose(self) -> None:
        """Let go of threads and connections; operations under way are not waited for."""
        self._folder.close()

    async def _perform(
        self,
        doing: str,
        operation: Callable[[], Awaitable[T]],
        *,
        tries: int = _TRIES,
        **missing: T,
    ) -> T:
        """Run one operation within the limits on number, time and tries.

        `missing` is what to return where the storage says that there is no such file or folder.
        """
        async with self._slots:
            try:
                with anyio.fail_after(self._operation_seconds):
                    return await self._retry(operation, tries)
            except Exception as error:
                if "missing" in missing and _Cause.of(error) is _Cause.MISSING:
                    return missing["missing"]
                raise _operation_error(self._shown, doing, error, self._operation_seconds) from None

    async def _retry(self, operation: Callable[[], Awaitable[T]], tries: int) -> T:
        for attempt in range(1, tries):
            try:
                return await operation()
            except Exception as error:
                if not _Cause.of(error).transient:
                    raise
            await anyio.sleep(_FIRST_PAUSE * 2 ** (attempt - 1) * _JITTER.uniform(0.5, 1.0))
            await self._folder.reconnect()
        return await operation()


# --- what a URL means ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Location:
    """A destination's URL after its check; `shown` holds no password, `url` may."""

    protocol: str
    url: str = field(repr=False)
    shown: str
    local: Path | None = None

    @classmethod
    def parse(cls, url: str) -> _Location:
        """Return the place that `url` names, or raise `DestinationError` with the next step."""
        text = url.strip()
        if not text:
            raise DestinationError(
                "the destination is blank. Give a folder or a URL such as s3://bucket/folder."
            )
        if not text.isprintable():
            raise DestinationError("the destination holds a control character. Retype it.")
        if _CHAINED.match(text) or ("://" in text and "::" in _IPV6_HOST.sub("", text)):
            raise DestinationError(
                f"{_without_secrets(text)}: a chain of file systems cannot be written atomically. "
                "Give the URL of the storage itself."
            )
        scheme = _SCHEME.match(text)
        if scheme is None:
            return cls._local(text, text)
        protocol, separator = scheme.groups()
        if separator != "://":
            if protocol.lower() not in fsspec.available_protocols() and separator != ":/":
                return cls._local(text, text)
            raise DestinationError(
                f"{_without_secrets(text)}: a URL has two slashes after its protocol. "
                f"Write {protocol.lower()}://…"
            )
        if protocol != protocol.lower():
            raise DestinationError(
                f"{_without_secrets(text)}: protocols are written in lower case. "
                f"Write {protocol.lower()}://…"
            )
        if protocol in ("file", "local"):
            return cls._local(text, text[scheme.end() :], absolute=True)
        return cls._remote(text, protocol)

    @classmethod
    def _local(cls, text: str, path: str, *, absolute: bool = False) -> _Location:
        try:
            folder = Path(path).expanduser()
        except RuntimeError:
            raise DestinationError(f"{text}: there is no such user's home folder.") from None
        if absolute and not folder.is_absolute():
            raise DestinationError(
                f"{text}: a file URL names an absolute path. Write file:///folder, with three "
                "slashes, or a plain path."
            )
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 - Path.resolve would follow links
        return cls(protocol="file", url=str(folder), shown=str(folder), local=folder)

    @classmethod
    def _remote(cls, text: str, protocol: str) -> _Location:
        shown = _without_secrets(text)
        if reason := _REFUSED.get(protocol):
            raise DestinationError(f"{shown}: {reason}")
        if protocol not in fsspec.available_protocols():
            raise DestinationError(
                f"{shown}: fsspec knows no protocol {protocol!r}. Known are s3, gs, az, sftp, file "
                "and others; check the spelling."
            )
        if "?" in text or "#" in text:
            raise DestinationError(
                f"{shown}: a destination has no `?` or `#`; some backends would cut the name "
                "there. Put options in storage_options."
            )
        rest = text.split("://", 1)[1]
        if protocol != "memory" and not rest.strip("/"):
            raise DestinationError(f"{shown}: it names no bucket, container or host.")
        if protocol in ("sftp", "ssh") and not urlsplit(text).path.strip("/"):
            raise DestinationError(f"{shown}: it names no folder on the host.")
        return cls(protocol=protocol, url=text.rstrip("/"), shown=shown.rstrip("/"))


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(://|:/|:)")
_CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
_IPV6_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]")

_READ_ONLY = "it can be read only. Give a storage that can be written."
_ARCHIVE = "an archive or a cache cannot be written atomically. Give the storage itself."
_REFUSED = {
    **dict.fromkeys(("http", "https", "data", "git", "github", "gist"), _READ_ONLY),
    **dict.fromkeys(("zip", "tar", "libarchive", "reference"), _ARCHIVE),
    **dict.fromkeys(("simplecache", "filecache", "blockcache", "cached"), _ARCHIVE),
    **dict.fromkeys(("dir", "generic", "async_wrapper", "asyncwrapper"), _ARCHIVE),
    "adl": "Azure Data Lake Gen1 is retired. Write az://container/folder.",
}


def _without_secrets(url: str) -> str:
    """The URL without its password, its query and its fragment."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not at and not re.fullmatch(r"[^:]*(?::[0-9]*)?|\[.*\](?::[0-9]*)?", authority):
        # Perhaps a password with a slash in it, so nothing after the first colon can be shown.
        return f"{scheme}://{authority.partition(':')[0]}:…"
    return f"{scheme}://{user.partition(':')[0]}{at}{host}{slash}{path}"


# --- how each kind of storage is written --------------------------------------------------------


class _Folder(ABC):
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


class _LocalFolder(_Folder):
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
        finally:
            _discard(temporary)
        return True

    def _written_apart(self, data: bytes) -> Path:
        """Write `data` beside its final place and have the disk take it; return where."""
        temporary = self._path / _temporary_name()
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


class _RemoteFolder(_Folder):
    """A folder that fsspec reaches.

    Asynchronous backends are called on fsspec's own event loop. A call of theirs on any other loop
    would tie the instance to that one, and go on failing after it is closed.
    """

    def __init__(
        self, executor: ThreadPoolExecutor, location: _Location, options: dict[str, Any]
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
        return f"{self._location.shown.rstrip('/')}/{name}"

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
            if _refused_to_replace(error):
                return False
            raise
        return True

    async def delete(self, name: str) -> None:
        await self._call("rm_file", self._at(name))

    async def _write_and_rename(self, name: str, data: bytes) -> None:
        temporary = _temporary_name()
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
            raise _WrongSize

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
        options = {
            **self._kind.defaults,
            **file_system_class._get_kwargs_from_urls(url),
            **self._options,
        }
        if "config_kwargs" in self._kind.defaults:
            options["config_kwargs"] = {
                **self._kind.defaults["config_kwargs"],
                **(self._options.get("config_kwargs") or {}),
            }
        if file_system_class.async_impl:
            options["asynchronous"] = False
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
                f"{self._location.shown}: the fsspec backend for {protocol}:// is not installed. "
                f"{step}"
            ) from None
        package = found.__module__.partition(".")[0]
        if self._kind.package not in (None, package):
            raise DestinationError(
                f"{self._location.shown}: {protocol}:// would be served by {package}, which cannot "
                f"write safely here. pip install 'nanobanana-blocks[{extra}]'"
            )
        return found


def _temporary_name() -> str:
    return f".nanobanana-{secrets.token_hex(16)}.part"


def _component(name: str) -> str:
    if name in ("", ".", "..") or any(character in name for character in "/\\\0"):
        raise InvalidInput(f"not a file name: {name!r:.80}")
    return name


# --- what a backend's error means ---------------------------------------------------------------


class _WrongSize(Exception):
    """Raised when the storage holds another number of bytes than was written."""


class _Cause(Enum):
    """Why a storage operation failed, with what to say about it; `transient` is worth a retry."""

    MISSING = "there is no such bucket, container or folder. Check the spelling, or make it first"
    DENIED = "the storage refuses access. Check the credentials and their right to read and write"
    NO_CREDENTIALS = "no credentials were found. Give storage_options, or set the environment up"
    FULL = "no space left. Free some, then run again"
    READ_ONLY = "it is read-only. Choose a folder that can be written"
    NOT_A_FOLDER = "a file stands where a folder should be. Choose another folder"
    NOT_TAKEN = "the backend does not take this. Check the URL and the storage_options"
    UNREACHABLE = "the storage is out of reach. Check the endpoint and the network"
    OTHER = "the storage failed"

    @property
    def transient(self) -> bool:
        return self in (_Cause.UNREACHABLE, _Cause.OTHER)

    @classmethod
    def of(cls, error: BaseException) -> _Cause:
        """Judge by names and codes of the error and its causes, so that no backend is imported."""
        for link in _chain(error):
            signs = {base.__name__ for base in type(link).__mro__} | set(_codes(link))
            if type(link) is OSError and str(link).startswith("Forbidden"):  # gcsfs, for a 403
                return cls.DENIED
            for cause, known in _SIGNS.items():
                if signs & known:
                    return cause
        return cls.OTHER


_SIGNS: dict[_Cause, frozenset[object]] = {
    _Cause.FULL: frozenset(
        {errno.ENOSPC, errno.EDQUOT, "SFTPNoSpaceOnFilesystem", "SFTPQuotaExceeded"}
    ),
    _Cause.READ_ONLY: frozenset({errno.EROFS, "SFTPWriteProtect"}),
    _Cause.NO_CREDENTIALS: frozenset(
        {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
    ),
    _Cause.DENIED: frozenset(
        {"PermissionError", "ClientAuthenticationError", "PermissionDenied", "RefreshError"}
        | {"SFTPPermissionDenied", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
        | {"ExpiredToken", "HTTP 401", "HTTP 403"}
    ),
    _Cause.NOT_A_FOLDER: frozenset(
        {"FileExistsError", "NotADirectoryError", "IsADirectoryError", "SFTPNotADirectory"}
    ),
    _Cause.MISSING: frozenset(
        {"FileNotFoundError", "ResourceNotFoundError", "NoSuchBucket", "NoSuchKey", "HTTP 404"}
        | {"InvalidBucketName", "ParamValidationError", "SFTPNoSuchFile", "SFTPNoSuchPath"}
    ),
    _Cause.UNREACHABLE: frozenset(
        {"TimeoutError", "ConnectionError", "gaierror", "EndpointConnectionError"}
        | {"HTTPClientError", "ClientConnectionError", "ServiceRequestError"}
        | {"ServiceResponseError", "ConnectionLost", "SFTPConnectionLost"}
    ),
    _Cause.NOT_TAKEN: frozenset({"TypeError", "ValueError", "AttributeError", "KeyError"}),
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(8):
        if link is None:
            return
        yield link
        link = link.__cause__


def _codes(error: BaseException) -> Iterator[object]:
    """The error codes in it: an errno, a service's own code, ``HTTP <status>``."""
    if isinstance(error, OSError) and error.errno is not None:
        yield error.errno
    for attribute in ("code", "status_code", "status"):
        status = str(getattr(error, attribute, None))
        if re.fullmatch(r"[1-5][0-9][0-9]", status):
            yield f"HTTP {status}"
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code"))
        yield f"HTTP {response.get('ResponseMetadata', {}).get('HTTPStatusCode')}"


def _refused_to_replace(error: BaseException) -> bool:
    signs = {"FileExistsError", "ResourceExistsError", "PreconditionFailed"}
    conflicts = {"ConditionalRequestConflict", "HTTP 412", "HTTP 409"}
    return any(
        type(link).__name__ in signs or (signs | conflicts) & set(map(str, _codes(link)))
        for link in _chain(error)
    )


def _described(shown: str, doing: str, error: BaseException, seconds: float) -> str:
    if type(error) is TimeoutError:
        return (
            f"{shown}: cannot {doing} it: no answer within {seconds:g} s. "
            "Check the endpoint and the network."
        )
    if isinstance(error, _WrongSize):
        return f"{shown}: the storage holds another number of bytes than was written."
    # Never the error's own text: backends put account names, URLs and options there.
    name = next((str(code) for code in _codes(error) if not isinstance(code, int)), None)
    detail = type(error).__name__ if name is None else f"{type(error).__name__}, {name}"
    return f"{shown}: cannot {doing} it: {_Cause.of(error).value} ({detail})."


def _destination_error(shown: str, doing: str, error: Exception, seconds: float) -> NanoBananaError:
    if isinstance(error, NanoBananaError):
        return error
    kind = StorageError if _Cause.of(error) is _Cause.FULL else DestinationError
    return kind(_described(shown, doing, error, seconds))


def _operation_error(shown: str, doing: str, error: Exception, seconds: float) -> NanoBananaError:
    if isinstance(error, NanoBananaError):
        return error
    cause = _Cause.of(error)
    kind = StorageError if cause.transient or cause is _Cause.FULL else DestinationError
    return kind(_described(shown, doing, error, seconds))
