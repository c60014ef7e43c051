"""Brings the rows of a batch to their images and reports what became of each; knows no Prefect.

Landing starts while later rows are still being submitted. A row that waits for another run takes
the place of none that could be submitted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from nanobanana_blocks.api.prices import Credits
from nanobanana_blocks.batches.attempts import AttemptState, SubmissionAttempt
from nanobanana_blocks.batches.chains import Chains, blocked_from_start
from nanobanana_blocks.batches.claims import Claims
from nanobanana_blocks.batches.credit_limit import CreditLimit, require_first
from nanobanana_blocks.batches.leases import Leases, Liveness
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.batches.progress import RowProgress, row_outcome
from nanobanana_blocks.batches.provenance import provenance_of
from nanobanana_blocks.batches.report import BatchReport, RowOutcome
from nanobanana_blocks.batches.submitter import UNANSWERED, Submitter
from nanobanana_blocks.batches.taken_names import refuse_taken_names
from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import (
    CreditLimitReached,
    InvalidInput,
    NanoBananaError,
    RowBlocked,
    StorageError,
)
from nanobanana_blocks.landing.lander import Lander, log_unforeseen, not_attempted
from nanobanana_blocks.landing.provenance import Provenance
from nanobanana_blocks.landing.report import ErrorSummary, LandingOutcome, LandingStatus
from nanobanana_blocks.references import References

logger = logging.getLogger(__name__)

ANOTHER_LANDS = "the images that another run, which is at work, is landing"


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
        claims: Keep other runs from landing what this one lands; without them, they may.
        references: Makes the landed images reachable that other rows build on.

    Attributes:
        outcomes: What became of each row so far, by its number.
        references: As given.
        taken: The rows that are not begun because of their names, by their numbers.
        abort_error: What ended the run as a whole, such as a refused key.
        credits_before: What the account had, where the API told; `credits_after` likewise.
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
        claims: Claims | None = None,
        references: References | None = None,
    ) -> None:
        self.source = source
        self.digest = digest
        self.rows = rows
        self.submitter = submitter
        self.landing = landing
        self.outcomes: dict[int, RowOutcome] = {}
        self.abort_error: NanoBananaError | None = None
        self.credits_before: Credits | None = None
        self.credits_after: Credits | None = None
        self._ledger = submitter.ledger
        self._on_outcome = on_outcome
        self._claims = claims
        self.references = references
        self._chains = Chains(rows, references)
        self.taken: dict[int, InvalidInput] = {}
        self._surveying = asyncio.Lock()
        self._surveyed_at = float("-inf")
        self._started_at = datetime.now(UTC)
        self._slots = asyncio.Semaphore(in_flight)

    @property
    def rows_to_submit(self) -> list[Row]:
        """The rows that this run will submit, as far as the ledger tells now."""
        limit = self.submitter.limit
        return [row for row in self._due if limit is None or limit.allows(row)]

    @property
    def _due(self) -> list[Row]:
        return [row for row in self.rows if row.request and self.submitter.is_due(row)]

    def limit_credits(self, limit: Credits, share: Credits | None = None) -> None:
        """Choose the rows that may be submitted, before anything is spent.

        Args:
            limit: What they may cost together; of a batch in parts, all of them.
            share: What this part of a batch may spend.

        Raises:
            InvalidInput: Not even the first may be submitted, where this is no part of a batch.
        """
        hopeless = blocked_from_start(self.rows, self._hopeless())
        due = [row for row in self._due if row.number not in hopeless]
        if share is None:
            require_first(limit, due)
        self.submitter.limit = CreditLimit(limit, limit if share is None else share, due)

    def _hopeless(self) -> list[int]:
        """The rows that will certainly not land in this run."""
        failed = (AttemptState.FAILED,)
        return [
            row.number
            for row in self.rows
            if row.number in self.taken
            or (
                ((entry := self._ledger.latest(row.key)) and entry.state in failed)
                and not self.submitter.is_due(row)
            )
        ]

    def is_changed(self, row: Row) -> bool:
        """Whether a row is not any more what a task was submitted for under its key."""
        entry = self._ledger.latest(row.key)
        return entry is not None and entry.state is AttemptState.SUBMITTED and entry.is_changed(row)

    async def refuse_taken_names(self) -> None:
        """Make sure, before anything is spent, that no row's name is another's already.

        Raises:
            InvalidInput: Some names are those of other rows, or of files that are not ours.
        """
        self.taken = await refuse_taken_names(self.rows, self._ledger, self.landing)

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
            credits_after=self.credits_after,
            max_credits=self.submitter.limit.limit if self.submitter.limit else None,
            outcomes=[outcome for outcome in outcomes if outcome],
        )

    async def catch_up(self) -> None:
        """Read what other runs have noted of these rows meanwhile."""
        await self._ledger.load(row.key for row in self.rows)

    def _without_end(self, row: Row) -> RowOutcome:
        entry = self._ledger.latest(row.key)
        if row.request is None or entry is None:
            return row_outcome(row, not_attempted(row.task_id or ""))
        error = entry.error
        if entry.state is AttemptState.SUBMITTED:
            error = error or _ENDED_BEFORE
        elif entry.is_unanswered:
            error = error or UNANSWERED
        landed = LandingOutcome(
            task_id=entry.task_id or "", status=LandingStatus.FAILED, error=error
        )
        is_new = bool(entry.task_id) and entry.reserved_at >= self._started_at
        submits = max(int(is_new), self.submitter.submitted[row.key])
        return row_outcome(
            row,
            landed,
            submits=submits,
            alternative_prompt=entry.alternative is not None,
            unconfirmed=self._is_unconfirmed(row),
        )

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
        progress = RowProgress(row, changed=self.is_changed(row))
        try:
            await self._process(progress)
        except NanoBananaError as error:
            if error.is_fatal:
                self.abort_error = error
                self._chains.abort(error)
                raise
            progress.error = ErrorSummary.of(error)
            progress.blocked_by = error.by if isinstance(error, RowBlocked) else None
            progress.is_held_back = isinstance(error, CreditLimitReached)
        except Exception as error:
            log_unforeseen(f"Row {row.number}", error)
            progress.error = ErrorSummary.of(
                NanoBananaError(f"an unexpected {type(error).__name__}; the log has its trace.")
            )
        outcome = self.outcomes[row.number] = progress.outcome(
            submits=self.submitter.submitted[row.key], unconfirmed=self._is_unconfirmed(row)
        )
        self._chains.note(outcome)
        try:
            if self._on_outcome:
                self._on_outcome(outcome)
        except Exception as error:
            log_unforeseen(f"Reporting row {row.number}", error)
        return outcome

    def _is_unconfirmed(self, row: Row) -> bool:
        """Whether this run has sent a row's submit, and it is not known what came of it."""
        entry, leases = self._ledger.latest(row.key), self.submitter.leases
        is_ours = entry is not None and leases is not None and entry.owner == leases.owner
        return is_ours and entry is not None and entry.is_unanswered

    async def _process(self, progress: RowProgress) -> None:
        row = progress.row
        if row.number in self.taken:
            raise self.taken[row.number]
        if row.request is None:
            await self._let_other_run_land(row, progress.task_id, None)
            async with self._slots:
                progress.landed = await self.landing.land(
                    progress.task_id, name=row.name, provenance=self._place_of(row)
                )
            return
        entry = await self.submitter.await_answer(row.key)
        is_due = self.submitter.is_due(row)
        while True:
            if is_due or not entry:
                await self._chains.ready(row)  # which takes the place of nobody
            if entry and not is_due and entry.task_id and not entry.failure:
                await self._let_other_run_land(row, entry.task_id, entry.owner)
            async with self._slots:
                is_anothers = False
                if is_due or not entry:
                    before = self.submitter.submitted[row.key]
                    entry = await self.submitter.submit(row)
                    is_anothers = self.submitter.submitted[row.key] == before
                if not entry.is_unanswered and not (is_anothers and entry.task_id):
                    await self._finish(entry, progress)
                    if not self.submitter.goes_on(row, entry):
                        return
                    progress.begin_again()
                    is_due = True
                    continue
            # Whoever waits for an answer keeps nobody from being submitted.
            entry = await self.submitter.await_answer(row.key)
            is_due = entry is None
            if entry and entry.is_unanswered:
                progress.is_alternative = entry.alternative is not None
                progress.error = entry.error or UNANSWERED
                return

    async def _finish(self, entry: SubmissionAttempt, progress: RowProgress) -> None:
        """Land what a row's answered attempt has become, or say why there is nothing."""
        row = progress.row
        progress.task_id = entry.task_id or ""
        progress.is_alternative = entry.alternative is not None
        if entry.state is not AttemptState.SUBMITTED:
            progress.error = entry.error or UNANSWERED
            return
        progress.landed = await self.landing.land(
            progress.task_id,
            name=row.name,
            replaces=self._ledger.task_ids(row.key),
            row_key=row.key,
            row_digest=entry.digest,
            provenance=self._place_of(row).including(provenance_of(row, entry, self.references)),
            just_submitted=row.key in self.submitter.submitted,
        )
        await self._note_end(entry, progress)

    def _place_of(self, row: Row) -> Provenance:
        return Provenance(row=row.number if self.landing.facts.manifest else None)

    async def _let_other_run_land(self, row: Row, task_id: str, submitted_by: str | None) -> None:
        """Wait while another run at work lands a task, until its receipt is there.

        It is not waited for longer than for a generation; fetching twice costs no credits.
        """
        leases = self.submitter.leases
        if leases is None or submitted_by == leases.owner:
            return
        give_up_at = _now() + self.submitter.timeout
        while not await self._has_landed(row, task_id):
            left = give_up_at - _now()
            if left <= 0 or not await self._is_anothers(task_id, submitted_by, leases):
                return
            with self.submitter.waits.waiting(ANOTHER_LANDS, left):
                await asyncio.sleep(min(left, self.submitter.patience.poll))
            await self._survey_again()
            if entry := self._ledger.latest(row.key):
                with suppress(StorageError):
                    entry = await self._ledger.read_again(entry)
                if entry.failure:
                    return

    async def _has_landed(self, row: Row, task_id: str) -> bool:
        """Whether there is the task's receipt, which a listing tells unless it may be another's."""
        stem = row.name or task_id
        if len(self._ledger.task_ids(row.key)) <= 1:
            return await self.landing.folder.has_receipt(stem)
        receipt = await self.landing.folder.any_receipt(stem)
        return receipt is not None and receipt.task_id == task_id

    async def _is_anothers(self, task_id: str, submitted_by: str | None, leases: Leases) -> bool:
        """Whether a run at work, other than this one, is to land a task."""
        if submitted_by and await leases.liveness(submitted_by) in (
            Liveness.AT_WORK,
            Liveness.UNKNOWN,
        ):
            return True
        if self._claims is None:
            return False
        try:
            return await self._claims.owner_of(task_id) != leases.owner
        except NanoBananaError as error:
            logger.warning("Could not claim the landing of %s; continuing: %s", task_id, error)
            return False

    async def _survey_again(self) -> None:
        """List the destination anew, once for all rows that wait."""
        async with self._surveying:
            if _now() - self._surveyed_at >= self.submitter.patience.poll:
                with suppress(StorageError):
                    await self.landing.folder.list_again()
                self._surveyed_at = _now()

    async def _note_end(self, entry: SubmissionAttempt, progress: RowProgress) -> None:
        """Note in the ledger how a task ended."""
        try:
            await self._ledger.ended(entry, self.landing.errors.get(progress.task_id))
        except StorageError as trouble:
            logger.warning(
                "Row %s: could not write the ledger; continuing: %s", progress.row.number, trouble
            )


_ENDED_BEFORE = ErrorSummary.of(
    NanoBananaError("the run ended before it landed. Running again goes on with it.")
)


def _now() -> float:
    return asyncio.get_running_loop().time()
