"""Which generation tasks are awaited in a place: one small file each, beside the images.

A task is announced when it is submitted or when its callback comes, and settled when its receipt
is there or never will be. It asks and lands nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from nanobanana_blocks.dates import DATE
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.events import BATCH_JOB_PREFIX
from nanobanana_blocks.image_store import ImageStore, load_store
from nanobanana_blocks.naming import receipt_name
from nanobanana_blocks.storage import Destination

if TYPE_CHECKING:
    from nanobanana_blocks.callbacks import ReceivedCallback

FOLDER = ".nanobanana/pending"


class PendingTask(BaseModel):
    """A generation task that is awaited; `announced_at` is UTC."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    announced_at: AwareDatetime


class PendingTasks:
    """The generation tasks awaited in one place; made by `open_pending`."""

    def __init__(self, folder: Destination) -> None:
        self._folder = folder

    async def announce(self, task_id: str) -> None:
        """Note that a task is awaited; noting it again does not make it younger.

        Raises:
            StorageError: It was not noted.
        """
        name = receipt_name(task_id)
        if await self._folder.size_of(name) is not None:
            return
        pending = PendingTask(task_id=task_id, announced_at=datetime.now(timezone.utc))
        await self._folder.publish(name, pending.model_dump_json().encode(), "application/json")

    async def settle(self, task_id: str) -> None:
        """Forget a task; that it is not awaited is no error."""
        await self._folder.delete(receipt_name(task_id))

    async def older_than(self, seconds: float) -> list[PendingTask]:
        """The tasks that have been awaited for longer than `seconds`, the oldest first."""
        names = await self._folder.list()
        contents = await asyncio.gather(*(self._folder.read(name) for name in names))
        found = [_read(content) for content in contents if content is not None]
        latest = datetime.now(timezone.utc) - timedelta(seconds=seconds)
        awaited = [pending for pending in found if pending and pending.announced_at <= latest]
        return sorted(awaited, key=lambda pending: pending.announced_at)


def _read(content: bytes) -> PendingTask | None:
    try:
        return PendingTask.model_validate_json(content)
    except ValidationError:
        return None


@asynccontextmanager
async def open_pending(store: ImageStore, *, check: bool = True) -> AsyncIterator[PendingTasks]:
    """Reach the tasks that are awaited in a store.

    Raises:
        DestinationError: The store cannot be written to, where that is checked.
    """
    async with await store.beside(FOLDER).open() as folder:
        if check:
            await folder.check_writable()
        yield PendingTasks(folder)


class Announcer:
    """Announces tasks in the place that a `destination` means, which it reaches when first called.

    For as long as the process lasts; made for the callback receiver. The tasks of batches are left
    out: the ledgers of their own places know them.

    Raises:
        InvalidInput: The destination holds ``{date}``; of a saved block that is known, and raised,
            when it is first called.
    """

    def __init__(self, destination: str) -> None:
        _require_one_place(destination)
        self._destination = destination
        self._opening = asyncio.Lock()
        self._place = AsyncExitStack()
        self._pending: PendingTasks | None = None

    async def __call__(self, callback: ReceivedCallback) -> None:
        if callback.job_key and callback.job_key.startswith(BATCH_JOB_PREFIX):
            return
        async with self._opening:
            if self._pending is None:
                store = await load_store(self._destination)
                _require_one_place(store.url)
                self._pending = await self._place.enter_async_context(open_pending(store))
        await self._pending.announce(callback.task_id)


def _require_one_place(destination: str) -> None:
    if DATE in destination:
        raise InvalidInput(
            f"a callback belongs to no day, so its task cannot be announced in a place with {DATE} "
            "in it. Give a place without."
        )
