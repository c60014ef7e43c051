"""Which generation tasks of a place are still awaited, as its ledger and its pending tasks tell.

It is what the sweep goes by; it asks the API nothing and lands nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone

import httpx
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from nanobanana_blocks.errors import UnknownTask
from nanobanana_blocks.image_store import ImageStore
from nanobanana_blocks.landing import Landing, Placement
from nanobanana_blocks.ledger import Entry, Ledger, State, open_ledger
from nanobanana_blocks.models import LandingOutcome
from nanobanana_blocks.naming import receipt_name
from nanobanana_blocks.pending import PendingTasks, open_pending
from nanobanana_blocks.wakeups import reveal_from_kept_events

UNKNOWN_FOR = timedelta(days=1)
"""How long a task may be unknown to the API, as with a wrong key, before it is dropped."""


class AwaitedTasks:
    """What a place awaits; made by `open_awaited`.

    Attributes:
        tasks: The tasks that are awaited, each with where its files go.
        younger: How many more are awaited that are too young to be taken for lost.
    """

    def __init__(self, pending: PendingTasks, ledger: Ledger) -> None:
        self.tasks: dict[str, Placement] = {}
        self.younger = 0
        self._pending = pending
        self._ledger = ledger
        self._entries: dict[str, Entry] = {}
        self._announced: dict[str, datetime] = {}

    async def find(self, in_storage: set[str], older_than: float) -> None:
        """Find what is awaited for longer than `older_than` seconds.

        Args:
            in_storage: The names of the files in the place.
            older_than: Seconds since the submit, or the announcement.
        """
        await self._ledger.load()
        await self._recover(older_than)
        self._entries = {e.task_id: e for e in self._ledger.entries() if e.task_id}
        self._announced = {
            task.task_id: task.announced_at for task in await self._pending.older_than(0)
        }
        submitted = {
            task_id: entry.intended_at
            for task_id, entry in self._entries.items()
            if entry.state is State.SUBMITTED
            and not entry.failure
            and (entry.attempt > 1 or receipt_name(entry.name or task_id) not in in_storage)
        }
        since = self._announced | submitted
        latest = _now() - timedelta(seconds=older_than)
        self.tasks = {
            task_id: self._placement(task_id) for task_id, at in since.items() if at <= latest
        }
        self.younger = len(since) - len(self.tasks)

    def _placement(self, task_id: str) -> Placement:
        entry = self._entries.get(task_id)
        return Placement(entry.name, self._ledger.task_ids(entry.key)) if entry else Placement()

    async def settle(self, outcome: LandingOutcome, landing: Landing) -> None:
        """Take note of what became of a task that was awaited.

        Raises:
            StorageError: It could not be noted.
        """
        if not outcome.is_settled:
            return
        error = landing.errors.get(outcome.task_id)
        if entry := self._entries.get(outcome.task_id):
            await self._ledger.ended(entry, error)
        announced_at = self._announced.get(outcome.task_id)
        if isinstance(error, UnknownTask) and announced_at and _now() - announced_at < UNKNOWN_FOR:
            return
        await self._pending.settle(outcome.task_id)

    async def _recover(self, older_than: float) -> None:
        """Find, by their callbacks, the tasks of submits whose answers were lost."""
        unanswered = {
            entry.job_key: entry
            for entry in self._ledger.entries()
            if entry.is_unanswered and entry.age_seconds >= older_than
        }
        if not unanswered:
            return
        told: dict[str, str] = {}
        since = min(entry.intended_at for entry in unanswered.values())
        try:
            await reveal_from_kept_events(list(unanswered), since, told.setdefault)
        except (PrefectException, httpx.HTTPError, OSError) as error:
            get_run_logger().warning("Prefect's events cannot be read: %s", type(error).__name__)
        for job_key, task_id in told.items():
            await self._ledger.submitted(unanswered[job_key], task_id)
        if lost := len(unanswered) - len(told):
            get_run_logger().warning(
                "Of %s rows it is not known whether they were submitted", f"{lost:,}"
            )


def _now() -> datetime:
    return datetime.now(timezone.utc)


@asynccontextmanager
async def open_awaited(store: ImageStore, older_than: float) -> AsyncIterator[AwaitedTasks]:
    """Find what is awaited in a store for longer than `older_than` seconds.

    Raises:
        DestinationError: The store cannot be reached.
        StorageError: The ledger cannot be read.
    """
    async with (
        await store.open() as place,
        open_pending(store, check=False) as pending,
        open_ledger(store, check=False) as ledger,
    ):
        awaited = AwaitedTasks(pending, ledger)
        await awaited.find(set(await place.list()), older_than)
        try:
            yield awaited
        finally:
            await ledger.summarise()
