"""Which generation tasks of a destination are still outstanding, by its ledger and notes.

The sweep lands these; nothing is asked or landed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from nanobanana_blocks.batches.ledger import AttemptState, Ledger, SubmissionAttempt, open_ledger
from nanobanana_blocks.batches.provenance import provenance_of_attempt
from nanobanana_blocks.errors import GenerationFailed, NanoBananaError, UnknownTask
from nanobanana_blocks.landing.lander import Lander, Placement
from nanobanana_blocks.landing.naming import receipt_name
from nanobanana_blocks.landing.receipt import read_receipt
from nanobanana_blocks.landing.report import LandingOutcome
from nanobanana_blocks.recovery.pending import PendingTasks, open_pending
from nanobanana_blocks.storage.destination import Destination, StorageLocation

FindCallbacks = Callable[[Sequence[str], datetime], Awaitable[dict[str, str]]]
"""Takes job keys and since when; gives the tasks that callbacks named for them, by job key."""

DOUBTED_FOR = timedelta(days=1)
"""How long a task is asked about again that the API does not know, as with another account's key,
or of which only a code of the envelope says that it has ended."""


class OutstandingTasks:
    """What is outstanding in one place; made by `open_outstanding`.

    Attributes:
        tasks: The tasks that are outstanding, each with where its files go.
        is_used: Whether anything was ever landed, submitted or announced in the place.
        younger: How many more are outstanding and too young to be taken for lost.
        unconfirmed: Of how many rows it is not known whether they were submitted.
    """

    def __init__(
        self, pending: PendingTasks, ledger: Ledger, find_callbacks: FindCallbacks
    ) -> None:
        self.tasks: dict[str, Placement] = {}
        self.is_used = False
        self.younger = 0
        self.unconfirmed = 0
        self._pending = pending
        self._ledger = ledger
        self._find_callbacks = find_callbacks
        self._entries: dict[str, SubmissionAttempt] = {}
        self._since: dict[str, datetime] = {}

    async def find(self, destination: Destination, older_than: float) -> None:
        """Find what has been outstanding for longer than `older_than` seconds.

        Args:
            destination: Where the images are.
            older_than: Seconds since the submit, or the announcement.
        """
        in_storage = set(await destination.list())
        await self._ledger.load()
        await self._recover(older_than)
        self._entries = {e.task_id: e for e in self._ledger.entries() if e.task_id}
        announced = {task.task_id: task.announced_at for task in await self._pending.older_than(0)}
        self.is_used = bool(in_storage or announced or self._ledger.entries())
        submitted = await self._submitted_without_receipt(destination, in_storage)
        self._since = announced | submitted
        latest = _now() - timedelta(seconds=older_than)
        self.tasks = {
            task_id: self._placement(task_id) for task_id, at in self._since.items() if at <= latest
        }
        self.younger = len(self._since) - len(self.tasks)

    async def _submitted_without_receipt(
        self, destination: Destination, in_storage: set[str]
    ) -> dict[str, datetime]:
        """The tasks that a batch has submitted and that have not landed, with since when."""
        open_entries = [
            entry
            for entry in self._entries.values()
            if entry.state is AttemptState.SUBMITTED and not entry.failure
        ]
        # Where a row was submitted again, the receipt of its name may be an earlier attempt's.
        doubtful = [
            entry
            for entry in open_entries
            if entry.attempt > 1 and receipt_name(entry.stem or "") in in_storage
        ]
        contents = await asyncio.gather(
            *(destination.read(receipt_name(entry.stem or "")) for entry in doubtful)
        )
        superseded = {
            entry.task_id
            for entry, content in zip(doubtful, contents, strict=True)
            if not _is_receipt_of(entry, content)
        }
        return {
            entry.task_id: entry.reserved_at
            for entry in open_entries
            if entry.task_id
            and (entry.task_id in superseded or receipt_name(entry.stem or "") not in in_storage)
        }

    def _placement(self, task_id: str) -> Placement:
        entry = self._entries.get(task_id)
        if not entry:
            return Placement()
        replaces = self._ledger.task_ids(entry.key)
        return Placement(
            entry.name,
            replaces,
            row_key=entry.key,
            row_digest=entry.digest,
            provenance=provenance_of_attempt(entry),
        )

    async def settle(self, outcome: LandingOutcome, landing: Lander) -> None:
        """Note what became of a task that was outstanding.

        Raises:
            StorageError: It could not be noted.
        """
        if not outcome.is_settled:
            return
        error = landing.errors.get(outcome.task_id)
        if _is_doubtful(error) and _now() - self._since[outcome.task_id] < DOUBTED_FOR:
            return
        if entry := self._entries.get(outcome.task_id):
            await self._ledger.ended(entry, error)
        await self._pending.settle(outcome.task_id)

    async def _recover(self, older_than: float) -> None:
        """Find, by their callbacks, the tasks of submits whose answers were lost."""
        unanswered = {
            entry.job_key: entry
            for entry in self._ledger.entries()
            if entry.is_unanswered and entry.job_key and entry.age_seconds >= older_than
        }
        if not unanswered:
            return
        since = min(entry.reserved_at for entry in unanswered.values())
        found = await self._find_callbacks(list(unanswered), since)
        for job_key, task_id in found.items():
            await self._ledger.submitted(unanswered[job_key], task_id)
        self.unconfirmed = len(unanswered) - len(found)


def _is_doubtful(error: NanoBananaError | None) -> bool:
    return isinstance(error, UnknownTask) or (isinstance(error, GenerationFailed) and error.by_code)


def _is_receipt_of(entry: SubmissionAttempt, content: bytes | None) -> bool:
    receipt = read_receipt(content) if content else None
    return receipt is not None and receipt.task_id == entry.task_id


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
        await outstanding.find(destination, older_than)
        try:
            yield outstanding
        finally:
            await ledger.summarise()
