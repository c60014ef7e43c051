"""Brings the rows of a batch to their images and tells what became of each; knows no Prefect.

Landing starts while later rows are still being submitted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio

from nanobanana_blocks.batches.ledger import AttemptState, SubmissionAttempt
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.batches.report import BatchReport, RowOutcome, report_name
from nanobanana_blocks.batches.submitter import UNANSWERED, Submitter
from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import InvalidInput, NanoBananaError, StorageError
from nanobanana_blocks.landing.lander import Lander, log_unforeseen, not_attempted
from nanobanana_blocks.landing.report import ErrorSummary, LandingOutcome, LandingStatus
from nanobanana_blocks.storage.destination import Destination

logger = logging.getLogger(__name__)

REPORT_SECONDS = 10.0


class Batch:
    """The rows that one run submits and lands.

    Args:
        source: The manifest, as the report names it.
        digest: SHA-256 of the manifest.
        rows: The rows, in the order of the manifest.
        submitter: Submits them.
        landing: Lands their images.
        in_flight: Rows that may be under way at a time.
        on_outcome: Told what became of each row, as soon as it is known.

    Attributes:
        outcomes: What became of each row so far, by its number.
        abort_error: What ended the run as a whole, such as a refused key.
        credits_before: What the account had, where the API told.
    """

    def __init__(
        self,
        source: str,
        digest: str,
        rows: Sequence[Row],
        submitter: Submitter,
        landing: Lander,
        *,
        in_flight: int,
        on_outcome: Callable[[RowOutcome], None] | None = None,
    ) -> None:
        self.source = source
        self.digest = digest
        self.rows = rows
        self.submitter = submitter
        self.landing = landing
        self.outcomes: dict[int, RowOutcome] = {}
        self.abort_error: NanoBananaError | None = None
        self.credits_before: int | None = None
        self._ledger = submitter.ledger
        self._on_outcome = on_outcome
        self._started_at = datetime.now(UTC)
        self._slots = asyncio.Semaphore(in_flight)

    @property
    def rows_to_submit(self) -> list[Row]:
        """The rows that this run will submit, as far as the ledger tells now."""
        return [row for row in self.rows if row.request and self.submitter.is_due(row)]

    def is_changed(self, row: Row) -> bool:
        """Whether a row is not any more what a task was submitted for under its key."""
        entry = self._ledger.latest(row.key)
        return (
            entry is not None
            and entry.state is AttemptState.SUBMITTED
            and entry.digest != row.digest
        )

    async def refuse_taken_names(self) -> None:
        """Make sure, before anything is spent, that no row's name is another's already.

        Raises:
            InvalidInput: Some are.
        """
        named = [row for row in self.rows if row.name]
        await self.landing.folder.list_once()
        reasons = await asyncio.gather(*map(self._why_taken, named))
        taken = [
            f"row {row.number}: {row.name} {why}"
            for row, why in zip(named, reasons, strict=True)
            if why
        ]
        if taken:
            more = f"; and {len(taken) - 20:,} more" if len(taken) > 20 else ""
            raise InvalidInput(
                f"names are taken in {self.landing.destination.path}: {'; '.join(taken[:20])}"
                f"{more}. Give other names, or another destination."
            )

    async def _why_taken(self, row: Row) -> str | None:
        known = self._ledger.task_ids(row.key) + ([row.task_id] if row.task_id else [])
        return await self.landing.folder.why_taken(row.name or "", known)

    def report(self, *, finished: bool) -> BatchReport:
        """What became of the rows; of those that were not attempted too, once it is finished."""
        now = datetime.now(UTC)
        outcomes = (
            self.outcomes.get(row.number) or (self._without_end(row) if finished else None)
            for row in self.rows
        )
        return BatchReport(
            manifest=self.source,
            destination=self.landing.destination.path,
            rows=len(self.rows),
            started_at=self._started_at,
            updated_at=now,
            finished_at=now if finished else None,
            credits_before=self.credits_before,
            outcomes=[outcome for outcome in outcomes if outcome],
        )

    async def catch_up(self) -> None:
        """Read what other runs have noted of these rows meanwhile."""
        await self._ledger.load(row.key for row in self.rows)

    def _without_end(self, row: Row) -> RowOutcome:
        entry = self._ledger.latest(row.key)
        if row.request is None or entry is None:
            return _row_outcome(row, not_attempted(row.task_id or ""))
        error = entry.error
        if entry.state is AttemptState.SUBMITTED:
            error = error or _ENDED_BEFORE
        elif entry.is_unanswered:
            error = error or UNANSWERED
        landed = LandingOutcome(
            task_id=entry.task_id or "", status=LandingStatus.FAILED, error=error
        )
        is_new = bool(entry.task_id) and entry.reserved_at >= self._started_at
        return _row_outcome(row, landed, submitted=is_new)

    async def process_each(self, rows: Iterable[Row]) -> None:
        """Submit and land rows side by side, begun in their order; `outcomes` tells of each.

        Raises:
            NanoBananaError: What concerns the whole run, such as a refused key.
        """
        await run_concurrently(self.process(row) for row in rows)

    async def process(self, row: Row) -> RowOutcome:
        """Submit one row, if that is still to be done, and land its images.

        Raises:
            NanoBananaError: What concerns the whole run, such as a refused key.
        """
        async with self._slots:
            progress = _Progress(row, changed=self.is_changed(row))
            try:
                await self._process(progress)
            except NanoBananaError as error:
                if error.is_fatal:
                    self.abort_error = error
                    raise
                progress.error = ErrorSummary.of(error)
            except Exception as error:
                log_unforeseen(f"Row {row.number}", error)
                progress.error = ErrorSummary.of(
                    NanoBananaError(f"an unexpected {type(error).__name__}; the log has its trace.")
                )
        outcome = self.outcomes[row.number] = progress.outcome(
            submitted=row.key in self.submitter.submitted
        )
        try:
            if self._on_outcome:
                self._on_outcome(outcome)
        except Exception as error:
            log_unforeseen(f"Telling of row {row.number}", error)
        return outcome

    async def _process(self, progress: _Progress) -> None:
        row = progress.row
        if row.request is None:
            progress.landed = await self.landing.land(progress.task_id, name=row.name)
            return
        entry = await self.submitter.submit(row, row.request)
        progress.task_id = entry.task_id or ""
        if entry.state is not AttemptState.SUBMITTED:
            progress.error = entry.error or UNANSWERED
            return
        progress.landed = await self.landing.land(
            progress.task_id,
            name=row.name,
            replaces=self._ledger.task_ids(row.key),
            row_key=row.key,
            row_digest=entry.digest,
        )
        await self._note_end(entry, progress)

    async def _note_end(self, entry: SubmissionAttempt, progress: _Progress) -> None:
        """Note in the ledger how a task ended."""
        try:
            await self._ledger.ended(entry, self.landing.errors.get(progress.task_id))
        except StorageError as trouble:
            logger.warning(
                "Row %s: the ledger could not be written: %s", progress.row.number, trouble
            )


class _Progress:
    """How far one row has come in this run."""

    def __init__(self, row: Row, *, changed: bool) -> None:
        self.row = row
        self.task_id = row.task_id or ""
        self.landed: LandingOutcome | None = None
        self.error: ErrorSummary | None = None
        self._changed = changed

    def outcome(self, *, submitted: bool) -> RowOutcome:
        landed = self.landed or LandingOutcome(
            task_id=self.task_id, status=LandingStatus.FAILED, error=self.error
        )
        return _row_outcome(
            self.row,
            landed,
            submitted=submitted,
            changed=self._changed and not submitted,
        )


def _row_outcome(row: Row, landed: LandingOutcome, **facts: Any) -> RowOutcome:
    return RowOutcome(
        **dict(landed),
        row=row.number,
        key=row.key,
        name=row.name,
        credits=row.request.estimated_credits if row.request else 0,
        **facts,
    )


@asynccontextmanager
async def keeping_report(
    batch: Batch, place: Destination | None = None, name: str | None = None
) -> AsyncIterator[None]:
    """Keep the batch's report up to date until the context ends; beside the images by default."""
    place = place or batch.landing.destination
    ended = asyncio.Event()
    keeper = asyncio.create_task(_keep_report(batch, place, name, ended))
    try:
        yield
    finally:
        ended.set()  # a publish that is cancelled may still take place, after the last one
        await asyncio.gather(keeper, return_exceptions=True)
        await write_report(place, batch.report(finished=True), name)


async def write_report(place: Destination, report: BatchReport, name: str | None = None) -> None:
    """Write a report; that it cannot be written is logged."""
    data = await asyncio.to_thread(report.model_dump_json, indent=2, exclude_defaults=True)
    try:
        name = name or report_name(report.manifest)
        await place.publish(name, data.encode(), "application/json")
    except NanoBananaError as error:
        logger.warning("The report of the batch could not be written: %s", error)


async def _keep_report(
    batch: Batch, place: Destination, name: str | None, ended: asyncio.Event
) -> None:
    while not ended.is_set():
        await write_report(place, batch.report(finished=False), name)
        with anyio.move_on_after(REPORT_SECONDS):
            await ended.wait()


_ENDED_BEFORE = ErrorSummary.of(
    NanoBananaError("the run ended before it landed. Running again goes on with it.")
)
