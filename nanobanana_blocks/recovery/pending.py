"""Which generation tasks are outstanding in a place: one small file each, beside the images.

A task is announced when it is submitted or when its callback comes, and settled when its receipt
is there or never will be. It asks and lands nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from nanobanana_blocks.landing.naming import receipt_name
from nanobanana_blocks.storage.destination import Destination, StorageLocation

FOLDER = ".nanobanana/pending"


class PendingTask(BaseModel):
    """A generation task that is outstanding; `announced_at` is UTC."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    announced_at: AwareDatetime


class PendingTasks:
    """The generation tasks outstanding in one place; made by `open_pending`."""

    def __init__(self, folder: Destination) -> None:
        self._folder = folder

    async def announce(self, task_id: str) -> None:
        """Note that a task is outstanding; noting it again does not make it younger.

        Raises:
            StorageError: It was not noted.
        """
        name = receipt_name(task_id)
        if await self._folder.size_of(name) is not None:
            return
        pending = PendingTask(task_id=task_id, announced_at=datetime.now(UTC))
        await self._folder.publish(name, pending.model_dump_json().encode(), "application/json")

    async def settle(self, task_id: str) -> None:
        """Forget a task; one that is not noted is no error."""
        await self._folder.delete(receipt_name(task_id))

    async def older_than(self, seconds: float) -> list[PendingTask]:
        """The tasks that have been outstanding for longer than `seconds`, the oldest first."""
        names = await self._folder.list()
        contents = await asyncio.gather(*(self._folder.read(name) for name in names))
        found = [_read(content) for content in contents if content is not None]
        latest = datetime.now(UTC) - timedelta(seconds=seconds)
        outstanding = [pending for pending in found if pending and pending.announced_at <= latest]
        return sorted(outstanding, key=lambda pending: pending.announced_at)


def _read(content: bytes) -> PendingTask | None:
    try:
        return PendingTask.model_validate_json(content)
    except ValidationError:
        return None


@asynccontextmanager
async def open_pending(
    images: StorageLocation, *, check: bool = True
) -> AsyncIterator[PendingTasks]:
    """Reach the notes of the tasks that are outstanding beside the images.

    Raises:
        DestinationError: The storage cannot be written to, where that is checked.
    """
    async with await images.child(FOLDER).open() as folder:
        if check:
            await folder.check_writable()
        yield PendingTasks(folder)
