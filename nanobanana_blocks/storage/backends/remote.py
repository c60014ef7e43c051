"""A folder that fsspec reaches: how a backend is found, called, connected again and closed.

How a file appears in one piece is the matter of each kind: `objects`, `sftp` and `generic`.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import anyio
from fsspec.dircache import DirCache
from fsspec.registry import get_filesystem_class

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.backends.folder import MAX_THREADS, Folder, temporary_name
from nanobanana_blocks.storage.causes import WrongSize
from nanobanana_blocks.storage.locations import Location

MAX_CLOSING_SECONDS = 5.0
"""How long closing a file system may take; what is not closed then is left to the process's end."""


class RemoteFolder(Folder):
    """A folder that fsspec reaches.

    Asynchronous backends are called, and closed, on fsspec's own event loop. A call of theirs on
    any other loop would tie the instance to that one, and go on failing after it is closed.
    """

    package: str | None = None
    """The backend's package; None where any will do."""
    extra: str | None = None
    """The extra of this project that installs it."""
    defaults: Mapping[str, Any] = {}
    """Storage options that hold unless the user gives others."""
    can_create = False
    width = MAX_THREADS

    def __init__(
        self, location: Location, options: Mapping[str, Any], *, threads: int = MAX_THREADS
    ) -> None:
        super().__init__(threads)
        self._location = location
        self._options = dict(options)
        self._reconnecting = asyncio.Lock()
        self._file_system: Any = None
        self._retired: Any = None
        self._root = ""
        self._closing = threading.Lock()
        self._closed = False

    async def connect(self) -> None:
        await self._in_thread(self._build)

    @property
    def connection(self) -> object:
        return self._file_system

    async def reconnect(self, failed: object) -> None:
        """Object stores connect anew for each request that needs it."""

    async def _replace_connection(self, failed: object) -> None:
        async with self._reconnecting:
            if self._file_system is not failed or self._closed:
                return
            await self.connect()
            # Others may be using the failed one, and it may serve them: it is closed next time.
            retired, self._retired = self._retired, failed
        if retired is not None:
            await _close(retired, self._close_connections)

    async def aclose(self) -> None:
        with self._closing:
            self._closed = True
            held = (self._file_system, self._retired)
            self._file_system = self._retired = None
        for file_system in held:
            if file_system is not None:
                await _close(file_system, self._close_connections)
        await super().aclose()

    async def _close_connections(self, file_system: Any) -> None:
        """Close what `file_system` holds; on fsspec's loop, or in a thread's own."""

    def path_of(self, name: str) -> str:
        return Location.child(self._location.redacted, name)

    async def prepare(self) -> None:
        """A bucket or container is never made."""

    async def list(self) -> dict[str, int]:
        self._file_system.invalidate_cache()
        entries = await self._call("ls", self._root, detail=True)
        return dict(self._files_among(entries))

    async def size_of(self, name: str) -> int | None:
        self._file_system.invalidate_cache()
        found = await self._call("info", self._at(name))
        return int(found["size"]) if found.get("type") == "file" else None

    async def times(self) -> dict[str, datetime | None]:
        self._file_system.invalidate_cache()
        entries = await self._call("ls", self._root, detail=True)
        by_name = {str(entry["name"]).rpartition("/")[2]: entry for entry in entries}
        return {name: _written_at(by_name[name]) for name, _ in self._files_among(entries)}

    async def describe(self, name: str) -> dict[str, Any]:
        self._file_system.invalidate_cache()
        return dict(await self._call("info", self._at(name)))

    async def sign(self, name: str, seconds: int) -> str:
        # What all backends have for it is a plain method, also where the others are asynchronous.
        return str(await self._in_thread(self._file_system.sign, self._at(name), seconds))

    async def read(self, name: str) -> bytes:
        return bytes(await self._call("cat_file", self._at(name)))

    async def delete(self, name: str) -> None:
        await self._remove(name)

    async def _put(self, name: str, data: bytes) -> None:
        await self._call("pipe_file", self._at(name), data)

    async def _remove(self, name: str) -> None:
        await self._call("rm_file", self._at(name))

    async def _write_and_rename(self, name: str, data: bytes) -> None:
        temporary = await self._written_apart(data)
        try:
            await self._rename(temporary, name)
        except Exception:
            await self._discard(temporary)
            raise

    async def _written_apart(self, data: bytes) -> str:
        """Write `data` beside its final place, measure it, and return under which name."""
        temporary = temporary_name()
        try:
            await self._put(temporary, data)
            await self._require_size(temporary, len(data))
        except Exception:
            await self._discard(temporary)
            raise
        return temporary

    async def _rename(self, temporary: str, name: str) -> None:
        await self._call("mv", self._at(temporary), self._at(name))

    async def _discard(self, name: str) -> None:
        with suppress(Exception):
            await self._remove(name)

    async def _require_size(self, name: str, size: int) -> None:
        if await self.size_of(name) != size:
            raise WrongSize

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        file_system = self._file_system
        if not file_system.async_impl:
            return await self._in_thread(getattr(file_system, method), *args, **kwargs)
        return await self._on_its_loop(getattr(file_system, f"_{method}")(*args, **kwargs))

    async def _on_its_loop(self, operation: Coroutine[Any, Any, Any]) -> Any:
        loop = self._file_system.loop
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(operation, loop))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _files_among(self, entries: Iterable[dict[str, Any]]) -> Iterator[tuple[str, int]]:
        parent = self._root.strip("/")
        for entry in entries:
            folder, _, name = entry["name"].strip("/").rpartition("/")
            if entry.get("type") == "file" and folder == parent and not name.startswith("."):
                yield name, int(entry["size"] or 0)

    def _build(self) -> None:
        """Import the backend and make an instance of it, which some do by connecting."""
        file_system_class = self._backend()
        # fsspec keeps cached instances, with the credentials in them, until the process ends.
        options = self._options_for(file_system_class)
        file_system = file_system_class(**options, skip_instance_cache=True)
        if isinstance(listings := getattr(file_system, "dircache", None), DirCache):
            # Others write here too, and a listing that is kept hides what they have made since.
            listings.use_listings_cache = False
        with self._closing:
            if not self._closed:
                root = str(file_system_class._strip_protocol(self._location.url)).rstrip("/")
                self._file_system, self._root = file_system, root
                return
        # Nobody waited for it: the time limit passed, or the destination was closed.
        asyncio.run(_close(file_system, self._close_connections))
        raise DestinationError(f"{self._location.redacted}: closed while it was being opened.")

    def _options_for(self, file_system_class: Any) -> dict[str, Any]:
        from_url = dict(file_system_class._get_kwargs_from_urls(self._location.url))
        options = {**self.defaults, **self._checked_url_options(from_url), **self._options}
        for name, default in self.defaults.items():
            if isinstance(default, Mapping):
                options[name] = {**default, **(self._options.get(name) or {})}
        # An asynchronous instance would belong to one event loop and die with it.
        options.pop("asynchronous", None)
        return options

    def _checked_url_options(self, from_url: dict[str, Any]) -> dict[str, Any]:
        return from_url

    def _backend(self) -> Any:
        protocol, extra = self._location.protocol, self.extra
        try:
            found = get_filesystem_class(protocol)
        except ImportError as error:
            step = f"pip install 'nanobanana-blocks[{extra}]'" if extra else str(error)
            raise DestinationError(
                f"{self._location.redacted}: the fsspec backend for {protocol}:// is not "
                f"installed. {step}"
            ) from None
        package = found.__module__.partition(".")[0]
        if self.package not in (None, package):
            raise DestinationError(
                f"{self._location.redacted}: {protocol}:// would be served by {package}, "
                f"which cannot write safely here. pip install 'nanobanana-blocks[{extra}]'"
            )
        return found


_WRITTEN = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""What backends call the time at which a file was last written."""


def _written_at(entry: Mapping[str, Any]) -> datetime | None:
    """When a file was written, in UTC, in whatever form a backend tells it."""
    told = next((entry[name] for name in _WRITTEN if entry.get(name) is not None), None)
    try:
        if isinstance(told, (int, float)):
            return datetime.fromtimestamp(told, UTC)
        if isinstance(told, str):
            told = datetime.fromisoformat(told)
    except (ValueError, OverflowError, OSError):
        return None
    if not isinstance(told, datetime):
        return None
    return told.astimezone(UTC) if told.tzinfo else told.replace(tzinfo=UTC)


async def _close(file_system: Any, close: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Close a file system where it lives, within a limit, and have nothing close it again.

    The backends' own finalizers run wherever the last reference is dropped: on the caller's event
    loop, which then waits for what belongs to another, or not before the process ends.
    """
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        alive = finalizer.peek()
        if alive is not None and alive[0] is file_system:
            finalizer.detach()
    loop = getattr(file_system, "loop", None) if file_system.async_impl else None
    with anyio.move_on_after(MAX_CLOSING_SECONDS, shield=True), suppress(Exception):
        if loop is None:
            await close(file_system)
        else:
            closing = asyncio.run_coroutine_threadsafe(close(file_system), loop)
            await asyncio.wrap_future(closing)


async def close_quietly(*closers: Callable[[], Any]) -> None:
    """Call each, and await what it returns; a failure of one does not keep the others open."""
    for closer in closers:
        with suppress(Exception):
            closing = closer()
            if inspect.isawaitable(closing):
                await closing
