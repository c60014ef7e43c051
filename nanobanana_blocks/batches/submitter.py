"""Submits the rows of a batch, each paid for once; it lands nothing.

A row's reservation is durable in the ledger before its submit is sent, and the task that the API
answers with before anything else is done.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.submitting import SubmitInTurn
from nanobanana_blocks.batches.attempts import AttemptState, Failure, SubmissionAttempt
from nanobanana_blocks.batches.credit_limit import CreditLimit
from nanobanana_blocks.batches.leases import Leases, Liveness
from nanobanana_blocks.batches.ledger import Ledger
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.batches.policies import OnContentPolicy, Submission, SubmitPolicy
from nanobanana_blocks.batches.waits import Waits
from nanobanana_blocks.errors import (
    APIError,
    BadRequest,
    DestinationError,
    Forbidden,
    NanoBananaError,
    NetworkError,
    OutOfCredits,
    RateLimited,
    ServerError,
    StorageError,
    Unauthorized,
    UnconfirmedSubmit,
)
from nanobanana_blocks.landing.report import ErrorSummary
from nanobanana_blocks.references import References
from nanobanana_blocks.signals import finish_despite_cancellation

logger = logging.getLogger(__name__)

MAX_UNCONFIRMED_IN_A_ROW = 8
"""After so many submits without an answer between them, no more are sent: each may have cost."""

MAX_FORBIDDEN_IN_A_ROW = 5
"""After so many submits refused with 403, no more are sent: it is not about one row."""

LAST_SUBMIT_SECONDS = 20.0
"""How long a run that is being cancelled waits for the answer to a submit under way.

Prefect's workers kill a run half a minute after they have told it to end.
"""


@dataclass(frozen=True)
class Patience:
    """For how long, in seconds, others are waited for: other runs, and a service out of reach.

    It is counted by this process's own clock, from when it first saw what it waits for.

    Attributes:
        unowned: For the answer to a reservation of which it is not known whose it is, as the
            earlier versions made them; after so long no run is still about to answer.
        living: For the answer to a reservation of a run that is at work.
        poll: The pause between two questions.
        unreachable: For an answer of the API where nothing answers at its address, before anything
            is submitted.
        submit: For a submit to be taken that is refused before it reaches the service, under one
            reservation.
    """

    unowned: float = 180.0
    living: float = 600.0
    poll: float = 5.0
    unreachable: float = 30.0
    submit: float = 30.0


PATIENCE = Patience()

RETRY_UNCONFIRMED = "Running with retry=['unconfirmed'] submits it again."

UNANSWERED = ErrorSummary.of(
    UnconfirmedSubmit(
        "a run ended, or was killed, before the answer to its submit was noted: it may have been "
        f"paid for. {RETRY_UNCONFIRMED}"
    )
)

ANOTHER_RUN = "the answer to a submit of another run, which is at work"
UNKNOWN_RUN = "the answer to a submit of another run, which may be at work"
A_CALLBACK = "a callback about a submit whose answer was lost"

CallbackURL = Callable[[str], str]
"""Makes the callback address that is bound to a job key."""


class Submitter:
    """Submits rows, unless the ledger tells that they were.

    Args:
        client: Asks the API; its caller closes it.
        ledger: Loaded with what is known of the rows.
        timeout: Seconds for which a service that refuses, or is out of reach, is borne; where
            callbacks are received also how long one is waited for.
        retry: Kinds of failures whose rows are submitted again, which may cost again.
        on_content_policy: What is done with rows whose content is refused.
        callback_url: Makes callback addresses; None where callbacks are not received.
        leases: Tell which other runs are at work; without them nobody knows.
        patience: For how long other runs are waited for.
        waits: Where it is counted what rows wait for.
        references: Makes the files that rows work from reachable; without it, none can be sent.

    Attributes:
        limit: Which rows it may submit, where the user has set a limit.
        timeout: As given, and so are `leases`, `patience` and `waits`.
        policy: What it submits.
        submitted: How often it has submitted rows, by key.
    """

    def __init__(
        self,
        client: NanoBananaClient,
        ledger: Ledger,
        *,
        timeout: float,
        retry: Collection[Failure] = (),
        on_content_policy: OnContentPolicy = OnContentPolicy.SKIP,
        callback_url: CallbackURL | None = None,
        leases: Leases | None = None,
        patience: Patience | None = None,
        waits: Waits | None = None,
        references: References | None = None,
    ) -> None:
        self.client = client
        self.ledger = ledger
        self.leases = leases
        self.patience = patience or PATIENCE
        self.waits = waits or Waits()
        self.policy = SubmitPolicy(frozenset(retry), on_content_policy)
        self.submitted: Counter[str] = Counter()
        self.limit: CreditLimit | None = None
        self._ended: set[str] = set()
        self.timeout = timeout
        self._callback_url = callback_url
        self._references = references
        self._no_more: NanoBananaError | None = None
        self._unconfirmed_in_a_row = 0
        self._forbidden_in_a_row = 0
        self._asking_whether_up = asyncio.Lock()
        self._revelations = {entry.job_key: _future() for entry in self.unanswered}
        self._first_seen = {entry.job_key: _now() for entry in self.unanswered}

    @property
    def unanswered(self) -> list[SubmissionAttempt]:
        """The attempts of which it is not known what came."""
        return [entry for entry in self.ledger.entries() if entry.is_unanswered]

    def next_submit(self, row: Row) -> Submission | None:
        """What is to be submitted for a row, as far as the ledger tells now."""
        retrying = row.key not in self.submitted and row.key not in self._ended
        return self.policy.next_submit(row, self.ledger.latest(row.key), retrying=retrying)

    def is_due(self, row: Row) -> bool:
        """Whether a row is to be submitted, as far as the ledger tells now."""
        return self.next_submit(row) is not None

    def goes_on(self, row: Row, entry: SubmissionAttempt) -> bool:
        """Whether a row, whose attempt has just ended, is due again: with its alternative prompt.

        All else that failed in this run is for later ones to retry.
        """
        self._ended.add(row.key)
        due = self.next_submit(row)
        if entry.alternative is not None or due is None or not due.is_alternative:
            return False
        return self.limit is None or self.limit.take_more(row)

    def reveal(self, job_key: str, task_id: str) -> None:
        """Take note that a callback has told the task of the attempt with that job key."""
        told = self._revelations.get(job_key)
        if told and not told.done():
            told.set_result(task_id)

    async def await_answer(self, key: str) -> SubmissionAttempt | None:
        """Wait for as long as another run, or a callback, may tell what came of a row's attempt.

        Returns:
            The row's last attempt now; None where there is none, or it was released.
        """
        entry = self.ledger.latest(key)
        while entry and entry.is_unanswered:
            told = self._revelations.setdefault(entry.job_key, _future())
            if told.done():
                return await self._note_task(entry, told.result())
            left, what = await self._patience_left(entry)
            if left <= 0:
                return self.ledger.latest(key)
            with self.waits.waiting(what, left):
                await asyncio.wait([told], timeout=min(left, self.patience.poll))
                with suppress(StorageError):  # asked again, for as long as there is patience
                    await self.ledger.read_again(entry)
            entry = self.ledger.latest(key)
        return entry

    async def _patience_left(self, entry: SubmissionAttempt) -> tuple[float, str]:
        """For how many seconds an answer is still waited for, and from whom."""
        first_seen = self._first_seen.setdefault(entry.job_key, _now())
        waited = _now() - first_seen
        if entry.state is AttemptState.RESERVED:
            left, what = await self._patience_with_run(entry, waited)
            if left > 0:
                return left, what
        if self._callback_url and entry.job_key:
            # The date in the entry may be of a clock that was ahead, or behind.
            return self.timeout - max(waited, entry.age_seconds), A_CALLBACK
        return 0.0, ""

    async def _patience_with_run(
        self, entry: SubmissionAttempt, waited: float
    ) -> tuple[float, str]:
        if entry.owner is None or self.leases is None:
            return self.patience.unowned - max(waited, entry.age_seconds), UNKNOWN_RUN
        if entry.owner == self.leases.owner:
            return 0.0, ""
        liveness = await self.leases.liveness(entry.owner)
        if liveness in (Liveness.DEAD, Liveness.ENDED):
            with suppress(StorageError):  # its last word may have come since we read
                await self.ledger.read_again(entry)
            return 0.0, ""
        return self.patience.living - waited, ANOTHER_RUN

    async def submit(self, row: Row) -> SubmissionAttempt:
        """Return a row's last attempt, which is made now where the row is due.

        Of an attempt that another run has just made, or whose answer was lost, `await_answer` tells
        more in time.

        Raises:
            APIError: The service has not taken it, or takes no more; `is_fatal` tells that it is
                about the key.
            CreditLimitReached: There is a limit, and it has nothing left for the row.
            DestinationError: The ledger is gone, or cannot be written to; nothing was submitted.
            StorageError: The ledger cannot be written; nothing was submitted.
            UnusableReference: The service would not get an image to work from; nothing was
                submitted.
        """
        entry, due = self.ledger.latest(row.key), self.next_submit(row)
        if entry and not due:
            return entry
        if due is None:
            raise AssertionError(row.number)
        if self.limit:
            self.limit.require(row)
        give_up_at = None
        self._refuse_if_no_more()
        if self._references:
            await self._references.prepare(due.request)
        while True:
            self._refuse_if_no_more()
            async with self.client.turn_to_submit() as submit:
                await self._wait_until_up()
                give_up_at = give_up_at or _now() + self.timeout
                try:
                    return await finish_despite_cancellation(
                        self._submit(row, due, submit), LAST_SUBMIT_SECONDS
                    )
                except (RateLimited, NetworkError) as error:
                    if _now() < give_up_at:
                        continue
                    self._no_more = error
                    raise

    def _refuse_if_no_more(self) -> None:
        if self._no_more:
            raise copy.copy(self._no_more)

    async def _wait_until_up(self) -> None:
        """After a submit that was not answered, wait until the API answers what costs nothing."""
        async with self._asking_whether_up:
            give_up_at = _now() + self.timeout
            while self._unconfirmed_in_a_row and not self._no_more:
                try:
                    await self.client.get_credits()
                except (ServerError, RateLimited, NetworkError) as error:
                    if _now() >= give_up_at:
                        self._no_more = error
                    await asyncio.sleep(self.patience.poll)
                except APIError:  # whatever it says about credits, it answers
                    break
                else:
                    break
        self._refuse_if_no_more()

    async def _submit(self, row: Row, due: Submission, submit: SubmitInTurn) -> SubmissionAttempt:
        """Submit a row, unless another run is about to, and note before and after it."""
        # What is sent may hold signed URLs; it is kept nowhere.
        request, is_alternative = due
        alternative = row.alternative_digest if is_alternative else None
        sent = await self._references.sent(request) if self._references else request
        try:
            entry, ours = await self.ledger.reserve(row, request, alternative=alternative)
        except DestinationError as error:  # which the other rows would meet as well
            self._no_more = error
            raise copy.copy(error) from None
        if not ours:
            return entry
        self._revelations[entry.job_key] = _future()
        self._first_seen[entry.job_key] = _now()
        address = self._callback_url(entry.job_key) if self._callback_url else None
        try:
            task_id = await submit(sent, address, self.patience.submit)
        except UnconfirmedSubmit as error:
            self._count_unconfirmed(error)
            told = UnconfirmedSubmit(f"{error.message} {RETRY_UNCONFIRMED}")
            with suppress(StorageError):  # what the file says then, that it is reserved, is true
                return await self.ledger.unconfirmed(entry, ErrorSummary.of(told))
            return self.ledger.latest(entry.key) or entry
        except BadRequest as error:
            await self.ledger.refused(entry, ErrorSummary.of(error))
            raise
        except NanoBananaError as error:
            await self._raise_refusal(entry, error)
        self._unconfirmed_in_a_row = self._forbidden_in_a_row = 0
        self.submitted[entry.key] += 1
        return await self._note_task(entry, task_id)

    async def _raise_refusal(self, entry: SubmissionAttempt, error: NanoBananaError) -> NoReturn:
        """Release a reservation that certainly made no task, and raise what the row is told.

        What the other rows would meet as well ends the submitting.
        """
        try:
            await self.ledger.release(entry)
        except NanoBananaError as trouble:
            logger.warning(
                "Could not write %s; continuing. Later runs will take the row for unconfirmed, "
                "although nothing was submitted: %s",
                entry.file_name,
                trouble,
            )
        if isinstance(error, Forbidden):
            self._forbidden_in_a_row += 1
            if self._forbidden_in_a_row >= MAX_FORBIDDEN_IN_A_ROW:
                self._no_more = BadRequest(
                    f"the last {self._forbidden_in_a_row} submits were refused with 403: "
                    f"{error.message} This row was not submitted; run again to go on."
                )
        elif isinstance(error, Unauthorized):
            error.is_fatal = True
            self._no_more = error
        elif isinstance(error, OutOfCredits):
            self._no_more = OutOfCredits(f"{error.message} This row was not submitted.")
            error = self._no_more
        elif isinstance(error, ServerError):  # under maintenance
            self._no_more = error
        raise copy.copy(error) from None

    def _count_unconfirmed(self, error: UnconfirmedSubmit) -> None:
        self._unconfirmed_in_a_row += 1
        if self._unconfirmed_in_a_row >= MAX_UNCONFIRMED_IN_A_ROW:
            self._no_more = ServerError(
                f"of the last {self._unconfirmed_in_a_row} submits none was answered, the last "
                f"like this: {error.message} This row was not submitted; run again to go on."
            )

    async def _note_task(self, entry: SubmissionAttempt, task_id: str) -> SubmissionAttempt:
        try:
            return await self.ledger.submitted(entry, task_id)
        except NanoBananaError as error:
            logger.error(  # noqa: TRY400 - the message says it all
                "Task %s was submitted for the row %r, and the ledger could not be written (%s). "
                "It is landed now; should this run end before, land it by its id.",
                task_id,
                entry.key,
                error,
            )
            return self.ledger.latest(entry.key) or entry


def _future() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


def _now() -> float:
    return asyncio.get_running_loop().time()
