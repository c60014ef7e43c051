"""A folder on any fsspec file system, written so that no reader ever sees half a file.

It stores bytes under names. What an image or a receipt is, and when one is written, is decided
elsewhere. No fsspec backend is imported until a destination of its kind is opened.

How a file appears in one piece depends on the kind of storage:

* local folders: a temporary name beside the final one, flushed to disk, then renamed;
* s3, gs, az, memory: one single put of all the bytes;
* sftp: a temporary name, its size checked, then a POSIX rename (a server without that extension is
  refused);
* webdav, ftp: a temporary name, its size checked, then the server's own move;
* any other fsspec file system is refused, unless ``accept_partial_files=True`` in its storage
  options accepts a direct write, its size checked afterwards. A process killed during that write
  may leave part of a file.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import partial
from typing import Any, TypeVar

import anyio

from nanobanana_blocks.errors import DestinationError, InvalidInput
from nanobanana_blocks.storage import dates
from nanobanana_blocks.storage.backends import Folder, folder_at, temporary_name
from nanobanana_blocks.storage.causes import (
    CannotCreate,
    Cause,
    Unsettled,
    WrongSize,
    checking_error,
    operation_error,
    refuses_conditions,
    within,
)
from nanobanana_blocks.storage.locations import Location, redact

T = TypeVar("T")

_TRIES = 3
_JITTER = random.SystemRandom()

_PROBE, _PROBE_CONTENT = ".nanobanana-check", b"nanobanana-blocks can write here"
_EXCLUSIVE_PROBE = ".nanobanana-exclusive"
_CHECKS_AT_ONCE = 20
"""How many times a check writes its file again that another check deleted meanwhile."""


class Destination:
    """A folder that images and receipts are published in.

    Made by `open`, which checks the URL; `check_writable` checks whether the place is there and
    can be written. One destination serves one event loop.

    Every method raises `StorageError` where trying again may help, and `DestinationError` where
    something must be changed first: the folder is gone, the credentials are refused. No message
    holds anything of the storage options or of a password in the URL.
    """

    def __init__(
        self,
        shown: str,
        folder: Folder,
        *,
        operation_seconds: float,
        check_seconds: float,
        first_pause_seconds: float,
    ) -> None:
        """For `open`; `shown` is the URL or path without secrets."""
        self._shown = shown
        self._folder = folder
        self._can_create = folder.can_create
        self._can_delete = True
        self._checking = "write to"
        self._operation_seconds = operation_seconds
        self._check_seconds = check_seconds
        self._first_pause = first_pause_seconds
        self._slots = asyncio.Semaphore(folder.width)

    @classmethod
    async def open(
        cls,
        url: str | Location,
        storage_options: Mapping[str, Any] | None = None,
        *,
        operation_seconds: float = 120.0,
        check_seconds: float = 15.0,
        first_pause_seconds: float = 0.5,
        called: str | None = None,
    ) -> Destination:
        """Return the destination that `url` names; nothing is asked of the storage yet.

        Args:
            url: A local path (``~`` is expanded) or an fsspec URL, such as ``s3://bucket/folder``;
                or either of them, checked.
            storage_options: What fsspec's backend takes, credentials for one.
            operation_seconds: How long one operation may take, its retries included.
            check_seconds: How long opening, and `check_writable`, may take.
            first_pause_seconds: The pause before an operation is tried again; it doubles each time.
            called: What messages call it, without secrets; the URL without its secrets by default.

        Raises:
            DestinationError: The URL is invalid, its backend is not installed,
                or the backend does not take the options.
        """
        location = url if isinstance(url, Location) else Location.parse(url)
        called = called or location.redacted
        folder = folder_at(location, storage_options or {})
        try:
            await within(check_seconds, folder.connect)
        except BaseException as error:
            await folder.aclose()
            if not isinstance(error, Exception):
                raise
            raise checking_error(called, "open", error) from None
        return cls(
            called,
            folder,
            operation_seconds=operation_seconds,
            check_seconds=check_seconds,
            first_pause_seconds=first_pause_seconds,
        )

    @property
    def path(self) -> str:
        """The folder's path or URL, without a password."""
        return self._shown

    def __repr__(self) -> str:
        return f"Destination({self._shown!r})"

    @property
    def can_create(self) -> bool:
        """Whether `create` is exclusive here: on local folders, s3, gs, az, sftp and memory.

        That is by the kind of storage. `check_exclusive` finds out whether it holds for this one:
        some services that imitate s3 ignore the condition, and some disks have no hard links.
        """
        return self._can_create

    def path_of(self, name: str) -> str:
        """Return what a person would open to see `name`; it holds no credentials."""
        return self._folder.path_of(_component(name))

    async def check_writable(self) -> None:
        """Make sure that files can be written, listed and read, by doing so with a small one.

        Missing folders are made where the storage has folders; a bucket or container never is.
        The small file, ``.nanobanana-check``, is deleted afterwards; where deleting is refused, it
        stays, one for all checks. On local folders, temporary files that killed processes left more
        than a day ago are deleted. Elsewhere they are not looked for; their names begin with
        ``.nanobanana-`` and end with ``.part``.

        Raises:
            DestinationError: The destination cannot be used, or did not answer in time.
            StorageError: The disk is full.
        """
        await self._check(self._try_writing)

    async def _check(self, trial: Callable[[], Awaitable[T]]) -> T:
        self._checking = "write to"
        try:
            return await within(self._check_seconds, trial)
        except Exception as error:
            right = self._folder.right_to(self._checking)
            raise checking_error(self._shown, self._checking, error, right) from None

    async def _try_writing(self) -> None:
        await self._folder.prepare()
        self._checking = "list"
        await self._folder.try_listing()
        try:
            for attempt in range(1, _CHECKS_AT_ONCE + 1):
                self._checking = "write to"
                with suppress(Unsettled):
                    await self._folder.write(_PROBE, _PROBE_CONTENT, "text/plain")
                    self._checking = "read from"
                    if await self._has_probe():
                        return
                # Another check, at the same time, may have deleted it in between.
                await anyio.sleep(attempt * _JITTER.uniform(0.0, 0.01))
        finally:
            await self._delete_probe(_PROBE)
        raise WrongSize

    async def _has_probe(self) -> bool:
        try:
            size = await self._folder.size_of(_PROBE)
            if size not in (None, len(_PROBE_CONTENT)):
                raise WrongSize
            return size is not None and await self._folder.read(_PROBE) == _PROBE_CONTENT
        except Exception as error:
            if Cause.of(error) is Cause.MISSING:
                return False
            raise

    async def _delete_probe(self, name: str) -> None:
        try:
            await self._folder.delete(name)
        except Exception as error:
            if Cause.of(error) is not Cause.MISSING:
                self._can_delete = False

    async def check_exclusive(self) -> None:
        """Have `can_create` tell what is so here, by creating a small file twice.

        It takes three requests, and none where this kind of storage cannot create exclusively.
        Call it after `check_writable`, which makes the folder.

        Raises:
            DestinationError: The destination cannot be used, or did not answer in time.
            StorageError: The disk is full.
        """
        if self._can_create:
            self._can_create = await self._check(self._try_creating_twice)

    async def _try_creating_twice(self) -> bool:
        # What cannot be deleted is created once for all checks, and refused ever after.
        probe = temporary_name() if self._can_delete else _EXCLUSIVE_PROBE
        create = partial(self._folder.create, probe, b"only the first may do this", "text/plain")
        try:
            created = await create()
            return not await create() if created else not self._can_delete
        except CannotCreate:
            return False
        except Exception as error:
            if not refuses_conditions(error):
                raise
            return False
        finally:
            await self._delete_probe(probe)

    async def list(self) -> dict[str, int]:
        """Return the size in bytes of every file in the folder, by name, as the storage has it now.

        Folders inside it and names with a leading dot are left out. A missing folder is empty.
        """
        return await self._perform("list", self._folder.list, missing={})

    async def list_times(self) -> dict[str, datetime | None]:
        """Return when each file that `list` tells of was last written, in UTC; None: not told."""
        return await self._perform("list", self._folder.times, missing={})

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
            DestinationError: This storage has no exclusive creation (see `can_create`).
        """
        if not self.can_create:
            raise DestinationError(
                f"{self._shown}: this storage cannot create a file exclusively. Use a local disk "
                "with hard links, s3, gs, az or sftp."
            )
        operation = partial(self._folder.create, _component(name), data, media_type)
        return await self._perform("write to", operation, tries=1)

    async def delete(self, name: str) -> None:
        """Delete `name`; that it is not there is no error."""
        operation = partial(self._folder.delete, _component(name))
        await self._perform("delete from", operation, missing=None)

    async def __aenter__(self) -> Destination:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release threads and connections; operations under way are not waited for."""
        await self._folder.aclose()

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
                return await within(self._operation_seconds, partial(self._retry, operation, tries))
            except Exception as error:
                if "missing" in missing and Cause.of(error) is Cause.MISSING:
                    return missing["missing"]
                right = self._folder.right_to(doing)
                raise operation_error(self._shown, doing, error, right) from None

    async def _retry(self, operation: Callable[[], Awaitable[T]], tries: int) -> T:
        for attempt in range(1, tries):
            used = self._folder.connection
            try:
                return await operation()
            except Exception as error:
                if not Cause.of(error).transient:
                    raise
            await anyio.sleep(self._first_pause * 2 ** (attempt - 1) * _JITTER.uniform(0.5, 1.0))
            await self._folder.reconnect(used)
        return await operation()


def _component(name: str) -> str:
    if name in ("", ".", "..") or any(character in name for character in "/\\\0"):
        raise InvalidInput(f"not a file name: {name!r:.80}")
    return name


@dataclass(frozen=True)
class StorageLocation:
    """A folder on any storage that is not reached yet: its URL and its fsspec backend's options."""

    url: str = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return redact(self.url)

    async def open(self) -> Destination:
        """Reach the folder, to be used as an async context manager.

        Raises:
            DestinationError: The URL is invalid, or its fsspec backend is not installed.
        """
        return await Destination.open(self.url, self.options)

    def child(self, folder: str) -> StorageLocation:
        """The folder inside this one."""
        return replace(self, url=Location.child(self.url, folder))

    def for_date(self, day: date) -> StorageLocation:
        """The folder of a day, where the URL holds ``{date}``."""
        return replace(self, url=dates.for_date(self.url, day))
