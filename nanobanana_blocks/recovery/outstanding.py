"""Which generation tasks of a destination are still outstanding, as its ledger and notes tell.

It is what the sweep goes by; it asks the API nothing and lands nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from nanobanana_blocks.batches.ledger import AttemptState, Ledger, SubmissionAttempt, open_ledger
from nanobanana_blocks.errors import UnknownTask
from nanobanana_blocks.landing.lander import Lander, Placement
from nanobanana_blocks.landing.naming import receipt_name
from nanobanana_blocks.landing.report import LandingOutcome
from nanobanana_blocks.recovery.pending import PendingTasks, open_pending
from nanobanana_blocks.storage.destination import StorageLocation

FindCallbacks = Callable[[Sequence[str], datetime], Awaitable[dict[str, str]]]
"""Takes job keys and since when; gives the tasks that callbacks have told for them, by job key."""

UNKNOWN_FOR = timedelta(days=1)
"""How long a task may be unknown to the API, as with a wrong key, before it is dropped."""


class OutstandingTasks:
    """What a place awaits; made by `open_outstanding`.

    Attributes:
        tasks: The tasks that are awaited, each with where its files go.
        younger: How many more are awaited that are too young to be taken for lost.
        unconfirmed: Of how many rows it is not known whether they were submitted.
    """

    def __init__(
        self, pending: PendingTasks, ledger: Ledger, find_callbacks: FindCallbacks
    ) -> None:
        self.tasks: dict[str, Placement] = {}
        self.younger = 0
        self.unconfirmed = 0
        self._pending = pending
        self._ledger = ledger
        self._find_callbacks = find_callbacks
        self._entries: dict[str, SubmissionAttempt] = {}
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
            task_id: entry.reserved_at
            for task_id, entry in self._entries.items()
            if entry.state is AttemptState.SUBMITTED
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
        if not entry:
            return Placement()
        replaces = self._ledger.task_ids(entry.key)
        return Placement(entry.name, replaces, row_key=entry.key, row_digest=entry.digest)

    async def settle(self, outcome: LandingOutcome, landing: Lander) -> None:
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
        since = min(entry.reserved_at for entry in unanswered.values())
        found = await self._find_callbacks(list(unanswered), since)
        for job_key, task_id in found.items():
            await self._ledger.submitted(unanswered[job_key], task_id)
        self.unconfirmed = len(unanswered) - len(found)


def _now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def open_outstanding(
    images: StorageLocation, older_than: float, find_callbacks: FindCallbacks
) -> AsyncIterator[OutstandingTasks]:
    """Find what has been outstanding at a destination for longer than `older_than` seconds.

    Raises:
        DestinationError: The destination cannot be reached.
        StorageError: The ledger cannot be read.
    """
    async with (
        await images.open() as destination,
        open_pending(images, check=False) as pending,
        open_ledger(images, check=False) as ledger,
    ):
        outstanding = OutstandingTasks(pending, ledger, find_callbacks)
        await outstanding.find(set(await destination.list()), older_than)
        try:
            yield outstanding
        finally:
            await ledger.summarise()
