"""Submits the rows of a batch, each paid for once; it lands nothing.

A row's intent is durable in the ledger before its submit is sent, and the task that the API answers
with before anything else is done.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any

from nanobanana_blocks.api.client import NanoBananaClient, SubmitInTurn
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.batches.ledger import AttemptState, Failure, Ledger, SubmissionAttempt
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.errors import (
    BadRequest,
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

logger = logging.getLogger(__name__)

SUBMIT_SECONDS = 30.0
"""How long a submit refused before it reaches the service is tried again under one intent."""

UNANSWERED_SECONDS = 180.0
"""After so long, no run that lives is still about to answer for an intent."""

LOOK_AGAIN_SECONDS = 5.0

MAX_UNCONFIRMED_IN_A_ROW = 8
"""After so many submits without an answer between them, no more are sent: each may have cost."""

LAST_SUBMIT_SECONDS = 20.0
"""How long a run that is being cancelled waits for the answer to a submit under way.

Prefect's workers kill a run half a minute after they have told it to end.
"""

_ON_REQUEST = "Running with retry=['unconfirmed'] submits it again."

UNANSWERED = ErrorSummary.of(
    UnconfirmedSubmit(
        "a run ended, or was killed, before the answer to its submit was noted: it may have been "
        f"paid for. {_ON_REQUEST}"
    )
)

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
        callback_url: Makes callback addresses; None where callbacks are not received.

    Attributes:
        submitted: The keys of the rows that it has submitted.
    """

    def __init__(
        self,
        client: NanoBananaClient,
        ledger: Ledger,
        *,
        timeout: float,
        retry: Collection[Failure] = (),
        callback_url: CallbackURL | None = None,
    ) -> None:
        self.client = client
        self.ledger = ledger
        self.submitted: set[str] = set()
        self._timeout = timeout
        self._retry = frozenset(retry)
        self._callback_url = callback_url
        self._no_more: NanoBananaError | None = None
        self._unconfirmed_in_a_row = 0
        self._asking_whether_up = asyncio.Lock()
        self._revelations = {entry.job_key: _future() for entry in self.unanswered}

    @property
    def unanswered(self) -> list[SubmissionAttempt]:
        """The attempts of which it is not known what came."""
        return [entry for entry in self.ledger.entries() if entry.is_unanswered]

    def is_due(self, row: Row) -> bool:
        """Whether a row is to be submitted, as far as the ledger tells now."""
        entry = self.ledger.latest(row.key)
        if entry is None:
            return True
        changed = entry.digest != row.digest
        if entry.state is AttemptState.SUBMITTED:
            return (changed and Failure.CHANGED in self._retry) or entry.failure in self._retry
        if entry.state is AttemptState.FAILED:
            return changed or entry.failure in self._retry
        return Failure.UNCONFIRMED in self._retry

    def reveal(self, job_key: str, task_id: str) -> None:
        """Take note that a callback has told the task of the attempt with that job key."""
        told = self._revelations.get(job_key)
        if told and not told.done():
            told.set_result(task_id)

    async def submit(self, row: Row, request: GenerationRequest) -> SubmissionAttempt:
        """Return a row's last attempt, which is made now where the row is due.

        Raises:
            APIError: The service has not taken it, or takes no more; `is_fatal` tells that it is
                about the key.
            StorageError: The ledger cannot be written; nothing was submitted.
        """
        entry = self.ledger.latest(row.key)
        if entry and entry.is_unanswered:
            entry = await self._await_answer(entry)
        if entry and not self.is_due(row):
            return entry
        give_up_at = None
        while True:
            self._refuse_if_no_more()
            async with self.client.turn_to_submit() as submit:
                await self._wait_until_up()
                give_up_at = give_up_at or _now() + self._timeout
                try:
                    entry = await _to_its_end(self._submit(row, request, submit))
                except (RateLimited, NetworkError) as error:
                    if _now() < give_up_at:
                        continue
                    self._no_more = error
                    raise
            if answered := await self._await_answer(entry):
                return answered

    def _refuse_if_no_more(self) -> None:
        if self._no_more:
            raise copy.copy(self._no_more)

    async def _wait_until_up(self) -> None:
        """After a submit that was not answered, wait until the API answers what costs nothing."""
        async with self._asking_whether_up:
            give_up_at = _now() + self._timeout
            while self._unconfirmed_in_a_row and not self._no_more:
                try:
                    await self.client.get_credits()
                except (ServerError, RateLimited, NetworkError) as error:
                    if _now() >= give_up_at:
                        self._no_more = error
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
                else:
                    break
        self._refuse_if_no_more()

    async def _submit(
        self, row: Row, request: GenerationRequest, submit: SubmitInTurn
    ) -> SubmissionAttempt:
        """Submit a row, unless another run is about to, and note before and after it."""
        entry, ours = await self.ledger.reserve(row, request)
        if not ours:
            return entry
        self._revelations[entry.job_key] = _future()
        address = self._callback_url(entry.job_key) if self._callback_url else None
        try:
            task_id = await submit(request, address, SUBMIT_SECONDS)
        except UnconfirmedSubmit as error:
            self._count_unconfirmed(error)
            told = UnconfirmedSubmit(f"{error.message} {_ON_REQUEST}")
            with suppress(StorageError):  # what the file says then, that it was intended, is true
                return await self.ledger.unconfirmed(entry, ErrorSummary.of(told))
            return self.ledger.latest(entry.key) or entry
        except (RateLimited, NetworkError):
            await self.ledger.release(entry)
            raise
        except Unauthorized as error:
            await self.ledger.release(entry)
            error.is_fatal = True
            self._no_more = error
            raise copy.copy(error) from None
        except OutOfCredits as error:
            await self.ledger.release(entry)
            self._no_more = OutOfCredits(f"{error.message} This row was not submitted.")
            raise copy.copy(self._no_more) from None
        except BadRequest as error:
            await self.ledger.refused(entry, ErrorSummary.of(error))
            raise
        except NanoBananaError as error:
            await self.ledger.release(entry)
            if isinstance(error, ServerError):  # under maintenance, which the other rows would meet
                self._no_more = error
            raise
        self._unconfirmed_in_a_row = 0
        self.submitted.add(entry.key)
        return await self._note_task(entry, task_id)

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

    async def _await_answer(self, entry: SubmissionAttempt) -> SubmissionAttempt | None:
        """Wait for as long as another run, or a callback, may still tell what came of it.

        None: the other run has taken its attempt back.
        """
        patience = UNANSWERED_SECONDS if entry.state is AttemptState.RESERVED else 0.0
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
            found = await self.ledger.look_again(entry)
            if found is None:
                return None
            entry = found
        return entry


async def _to_its_end(submit: Coroutine[Any, Any, SubmissionAttempt]) -> SubmissionAttempt:
    """Have a submit that is under way end, and be noted, even where its run is being cancelled."""
    sending = asyncio.create_task(submit)
    # Prefect's workers end a run by a signal, at which asyncio.run() cancels every task that is
    # registered, shielded or not.
    asyncio._unregister_task(sending)
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        give_up_at = _now() + LAST_SUBMIT_SECONDS
        while not sending.done() and (left := give_up_at - _now()) > 0:
            with suppress(asyncio.CancelledError):  # whoever runs this is being cancelled as well
                await asyncio.wait([sending], timeout=left)
        sending.cancel()
        raise


def _future() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


def _now() -> float:
    return asyncio.get_running_loop().time()
