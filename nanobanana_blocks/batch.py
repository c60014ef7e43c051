"""Submits the rows of a batch, each paid for once, and lands their images; knows no Prefect.

A row's intent is durable in the ledger before its submit is sent, and the task that the API answers
with before anything else is done. Landing starts while later rows are still being submitted.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Any

import anyio

from nanobanana_blocks.client import NanoBananaClient, SubmitInTurn
from nanobanana_blocks.errors import (
    InvalidInput,
    NanoBananaError,
    NetworkError,
    OutOfCredits,
    RateLimited,
    ServerError,
    StorageError,
    Unauthorized,
    UnconfirmedSubmit,
)
from nanobanana_blocks.generation import GenerationRequest
from nanobanana_blocks.landing import Landing, log_unforeseen, not_attempted, side_by_side
from nanobanana_blocks.ledger import Entry, Failure, Ledger, State, failure_of
from nanobanana_blocks.manifest import Row
from nanobanana_blocks.models import (
    BatchReport,
    ErrorSummary,
    LandingOutcome,
    LandingStatus,
    RowOutcome,
)
from nanobanana_blocks.naming import report_name
from nanobanana_blocks.storage import Destination

logger = logging.getLogger(__name__)

SUBMIT_SECONDS = 30.0
"""How long a submit refused before it reaches the service is tried again under one intent."""

UNANSWERED_SECONDS = 180.0
"""After so long, no run that lives is still about to answer for an intent."""

LOOK_AGAIN_SECONDS = 5.0

LAST_SUBMIT_SECONDS = 60.0
"""How long a run that is being cancelled waits for the answer to a submit under way."""

REPORT_SECONDS = 10.0

CallbackURL = Callable[[str], str]
"""Makes the callback address that is bound to a job key."""


class Batch:
    """The rows that one run submits and lands.

    Args:
        source: The manifest, as the report names it.
        digest: SHA-256 of the manifest.
        rows: The rows, in the order of the manifest.
        client: Submits; its caller closes it.
        landing: Lands the images.
        ledger: Loaded with what is known of the rows.
        timeout: Seconds to wait for each generation task.
        in_flight: Rows that may be under way at a time.
        retry: Kinds of failures whose rows are submitted again, which may cost again.
        callback_url: Makes callback addresses; None where callbacks are not received.
        on_outcome: Told what became of each row, as soon as it is known.

    Attributes:
        outcomes: What became of each row so far, by its number.
        stopped_by: What ended the run as a whole, such as a refused key.
        credits_before: What the account had, where the API told.
    """

    def __init__(
        self,
        source: str,
        digest: str,
        rows: Sequence[Row],
        client: NanoBananaClient,
        landing: Landing,
        ledger: Ledger,
        *,
        timeout: float,
        in_flight: int,
        retry: Collection[Failure] = (),
        callback_url: CallbackURL | None = None,
        on_outcome: Callable[[RowOutcome], None] | None = None,
    ) -> None:
        self.source = source
        self.digest = digest
        self.rows = rows
        self.client = client
        self.landing = landing
        self.outcomes: dict[int, RowOutcome] = {}
        self.stopped_by: NanoBananaError | None = None
        self.credits_before: int | None = None
        self._ledger = ledger
        self._timeout = timeout
        self._retry = frozenset(retry)
        self._callback_url = callback_url
        self._on_outcome = on_outcome
        self._started_at = datetime.now(timezone.utc)
        self._slots = asyncio.Semaphore(in_flight)
        self._no_more_submits: NanoBananaError | None = None
        self._submitted_here: dict[str, str] = {}
        self._revelations = {entry.job_key: _future() for entry in self.unanswered}

    @property
    def rows_to_submit(self) -> list[Row]:
        """The rows that this run will submit, as far as the ledger tells now."""
        return [
            row
            for row in self.rows
            if row.request and self._is_to_be_submitted(row, self._ledger.latest(row.key))
        ]

    @property
    def unanswered(self) -> list[Entry]:
        """The attempts of these rows of which it is not known what came."""
        latest = (self._ledger.latest(row.key) for row in self.rows)
        return [entry for entry in latest if entry and entry.is_unanswered]

    def is_changed(self, row: Row) -> bool:
        """Whether a row is not any more what a task was submitted for under its key."""
        entry = self._ledger.latest(row.key)
        return entry is not None and entry.state is State.SUBMITTED and entry.digest != row.digest

    def reveal(self, job_key: str, task_id: str) -> None:
        """Take note that a callback has told the task of the attempt with that job key."""
        told = self._revelations.get(job_key)
        if told and not told.done():
            told.set_result(task_id)

    async def refuse_taken_names(self) -> None:
        """Make sure, before anything is spent, that no row's name is another task's already.

        Raises:
            InvalidInput: Some are.
        """
        named = [(row, row.name) for row in self.rows if row.name]
        receipts = await asyncio.gather(*(self.landing.receipt_of(name) for _, name in named))
        taken = []
        for (row, _), receipt in zip(named, receipts, strict=True):
            if receipt and receipt.task_id not in (row.task_id, *self._ledger.task_ids(row.key)):
                taken.append(f"row {row.number}: {row.name} is task {receipt.task_id}'s")
        if taken:
            more = f"; and {len(taken) - 20:,} more" if len(taken) > 20 else ""
            raise InvalidInput(
                f"names are taken in {self.landing.destination.path}: {'; '.join(taken[:20])}"
                f"{more}. Give other names, or another destination."
            )

    def report(self, *, finished: bool) -> BatchReport:
        """What became of the rows; of those that were not attempted too, once it is finished."""
        now = datetime.now(timezone.utc)
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

    def _without_end(self, row: Row) -> RowOutcome:
        task_id = self._submitted_here.get(row.key)
        if task_id is None:
            return _row_outcome(row, not_attempted(row.task_id or ""))
        error = NanoBananaError("the run ended before it landed. Running again goes on with it.")
        landed = LandingOutcome(
            task_id=task_id, status=LandingStatus.FAILED, error=ErrorSummary.of(error)
        )
        return _row_outcome(row, landed, submitted=True)

    async def process_each(self, rows: Iterable[Row]) -> None:
        """Submit and land rows side by side, begun in their order; `outcomes` tells of each.

        Raises:
            NanoBananaError: What concerns the whole run, such as a refused key.
        """
        await side_by_side(self.process(row) for row in rows)

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
                if error.affects_all:
                    self.stopped_by = error
                    raise
                progress.error = ErrorSummary.of(error)
            except Exception as error:
                log_unforeseen(f"Row {row.number}", error)
                progress.error = ErrorSummary.of(
                    NanoBananaError(f"an unexpected {type(error).__name__}; the log has its trace.")
                )
        outcome = self.outcomes[row.number] = progress.outcome(
            submitted=row.key in self._submitted_here
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
        entry = await self._submitted(progress, row.request)
        progress.task_id = entry.task_id or ""
        if entry.state is not State.SUBMITTED:
            progress.error = entry.error or _UNANSWERED
            return
        progress.landed = await self.landing.land(
            progress.task_id, name=row.name, replaces=self._ledger.task_ids(row.key)
        )
        await self._note_end(entry, progress)

    async def _submitted(self, progress: _Progress, request: GenerationRequest) -> Entry:
        """The row's last attempt; it is made now where the row is still to be submitted."""
        row = progress.row
        entry = self._ledger.latest(row.key)
        if entry and entry.is_unanswered:
            entry = await self._await_answer(entry)
        if entry and not self._is_to_be_submitted(row, entry):
            return entry
        while True:
            self._refuse_if_no_more()
            async with self.client.turn_to_submit() as submit:
                self._refuse_if_no_more()
                try:
                    entry = await _to_its_end(self._submit(row, request, submit))
                except (RateLimited, NetworkError) as error:
                    if progress.seconds < self._timeout:
                        continue
                    self._no_more_submits = error
                    raise
            return await self._await_answer(entry)

    def _refuse_if_no_more(self) -> None:
        if self._no_more_submits:
            raise copy.copy(self._no_more_submits)

    async def _submit(self, row: Row, request: GenerationRequest, submit: SubmitInTurn) -> Entry:
        """Submit a row, unless another run is about to, and note before and after it."""
        entry, ours = await self._ledger.intend(row, request)
        if not ours:
            return entry
        self._revelations[entry.job_key] = _future()
        address = self._callback_url(entry.job_key) if self._callback_url else None
        try:
            task_id = await submit(request, address, SUBMIT_SECONDS)
        except UnconfirmedSubmit as error:
            told = UnconfirmedSubmit(f"{error.message} {_ON_REQUEST}")
            return await self._ledger.unconfirmed(entry, ErrorSummary.of(told))
        except (RateLimited, NetworkError):
            await self._ledger.retract(entry)
            raise
        except Unauthorized as error:
            await self._ledger.retract(entry)
            error.affects_all = True
            self._no_more_submits = error
            raise copy.copy(error) from None
        except OutOfCredits as error:
            await self._ledger.retract(entry)
            self._no_more_submits = OutOfCredits(
                f"{error.message} It was not submitted. Top up, and run again to go on."
            )
            raise copy.copy(self._no_more_submits) from None
        except NanoBananaError as error:
            if isinstance(error, ServerError):  # under maintenance, which the other rows would meet
                self._no_more_submits = error
            await self._ledger.failed(entry, Failure.REFUSED, ErrorSummary.of(error))
            raise
        self._submitted_here[entry.key] = task_id
        return await self._note_task(entry, task_id)

    async def _note_task(self, entry: Entry, task_id: str) -> Entry:
        try:
            return await self._ledger.submitted(entry, task_id)
        except NanoBananaError as error:
            logger.error(  # noqa: TRY400 - the message says it all
                "Task %s was submitted for the row %r, and the ledger could not be written (%s). "
                "It is landed now; should this run end before, land it by its id.",
                task_id,
                entry.key,
                error,
            )
            return self._ledger.latest(entry.key) or entry

    async def _await_answer(self, entry: Entry) -> Entry:
        """Wait for as long as another run, or a callback, may still tell what came of it."""
        patience = UNANSWERED_SECONDS if entry.state is State.INTENDED else 0.0
        if self._callback_url:
            patience = max(patience, self._timeout)
        told = self._revelations.setdefault(entry.job_key, _future())
        while entry.is_unanswered:
            if told.done():
                return await self._note_task(entry, told.result())
            left = patience - entry.age_seconds
            if left <= 0:
                break
            await asyncio.wait([told], timeout=min(left, LOOK_AGAIN_SECONDS))
            entry = await self._ledger.look_again(entry)
        return entry

    async def _note_end(self, entry: Entry, progress: _Progress) -> None:
        """Note in the ledger that no image will come of a task."""
        error = self.landing.errors.get(progress.task_id)
        failure = failure_of(error)
        if error is None or failure is None:
            return
        try:
            await self._ledger.failed(entry, failure, ErrorSummary.of(error))
        except StorageError as trouble:
            logger.warning(
                "Row %s: the ledger could not be written: %s", progress.row.number, trouble
            )

    def _is_to_be_submitted(self, row: Row, entry: Entry | None) -> bool:
        if entry is None:
            return True
        changed = entry.digest != row.digest
        if entry.state is State.SUBMITTED:
            return changed and Failure.CHANGED in self._retry
        if entry.state is State.FAILED:
            return changed or entry.failure in self._retry
        return Failure.UNCONFIRMED in self._retry


class _Progress:
    """How far one row has come in this run."""

    def __init__(self, row: Row, *, changed: bool) -> None:
        self.row = row
        self.task_id = row.task_id or ""
        self.landed: LandingOutcome | None = None
        self.error: ErrorSummary | None = None
        self._changed = changed
        self._started = asyncio.get_running_loop().time()

    @property
    def seconds(self) -> float:
        """Seconds since this run took the row up."""
        return asyncio.get_running_loop().time() - self._started

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


def _future() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


async def _to_its_end(submit: Coroutine[Any, Any, Entry]) -> Entry:
    """Have a submit that is under way end, and be noted, even where its run is being cancelled."""
    sending = asyncio.create_task(submit)
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait([sending], timeout=LAST_SUBMIT_SECONDS)
        sending.cancel()
        raise


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
        await publish_report(place, batch.report(finished=True), name)


async def publish_report(place: Destination, report: BatchReport, name: str | None = None) -> None:
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
        await publish_report(place, batch.report(finished=False), name)
        with anyio.move_on_after(REPORT_SECONDS):
            await ended.wait()


_ON_REQUEST = "Running with retry=['unconfirmed'] submits it again."
_UNANSWERED = ErrorSummary.of(
    UnconfirmedSubmit(
        "a run ended, or was killed, before the answer to its submit was noted: it may have been "
        f"paid for. {_ON_REQUEST}"
    )
)
