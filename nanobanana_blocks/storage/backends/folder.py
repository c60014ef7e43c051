"""What every kind of storage offers to a destination: one folder, its files, and their bytes.

Limits, retries and error texts are the destination's; what is raised here is the backend's own.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

MAX_THREADS = 16
"""Threads that one destination uses at most, where its file system is not asynchronous."""


class Folder(ABC):
    """One folder on one kind of storage. Its methods raise whatever the backend raises."""

    can_create: bool
    """Whether `create` is exclusive on this kind of storage."""
    width: int
    """How many operations it is asked to do at a time."""

    def __init__(self, threads: int = MAX_THREADS) -> None:
        self._threads = threads
        self._executor = self._new_executor()

    def _new_executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="nanobanana-storage")

    def _renew_threads(self) -> None:
        """Have what begins now not wait for what is under way; that ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._new_executor()

    async def _in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *args, **kwargs))

    async def aclose(self) -> None:
        """Release threads and connections; operations under way are not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def right_to(self, doing: str) -> str | None:
        """The name of the right that `doing` needs on this kind of storage, where it has one."""
        del doing
        return None

    @abstractmethod
    async def connect(self) -> None: ...

    @property
    def connection(self) -> object:
        """What operations that begin now go through."""
        return None

    @abstractmethod
    async def reconnect(self, failed: object) -> None:
        """Connect anew where `failed` is still what operations go through, and may be lost."""

    @abstractmethod
    def path_of(self, name: str) -> str: ...

    @abstractmethod
    async def prepare(self) -> None:
        """Make the folder where folders are made, and find out what a publication relies on."""

    async def try_listing(self) -> None:
        """Raise what a listing would, at a price that does not grow with the folder."""
        await self.list()

    @abstractmethod
    async def list(self) -> dict[str, int]: ...

    @abstractmethod
    async def size_of(self, name: str) -> int | None: ...

    async def times(self) -> dict[str, datetime | None]:
        """When each file was last written, where the storage tells."""
        return dict.fromkeys(await self.list())

    async def describe(self, name: str) -> dict[str, Any]:
        """What the storage tells of a file or folder, in fsspec's words."""
        raise NotImplementedError

    async def sign(self, name: str, seconds: int) -> str:
        """A URL by which anyone can read `name`, for so long; `NotImplementedError` where none."""
        del name, seconds
        raise NotImplementedError

    @abstractmethod
    async def read(self, name: str) -> bytes: ...

    @abstractmethod
    async def write(self, name: str, data: bytes, media_type: str) -> None: ...

    @abstractmethod
    async def create(self, name: str, data: bytes, media_type: str) -> bool: ...

    @abstractmethod
    async def delete(self, name: str) -> None: ...


def temporary_name() -> str:
    """A name that no listing shows and that no other writer uses."""
    return f".nanobanana-{secrets.token_hex(16)}.part"
