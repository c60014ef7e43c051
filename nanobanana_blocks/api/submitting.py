"""Submits generation tasks, a few at a time and each in its turn; what is asked is `requests`'s.

The API's documentation knows no idempotency key: a second submit may be paid for as well. Only what
cannot have created a task is therefore tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, Protocol

from nanobanana_blocks.api import envelope
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.connection import Answer
from nanobanana_blocks.api.dialects import Dialect
from nanobanana_blocks.api.references import check_references
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.api.wait_state import Patience
from nanobanana_blocks.api.waiting import check_timeout
from nanobanana_blocks.errors import (
    APIError,
    BadRequest,
    Forbidden,
    InvalidInput,
    NetworkError,
    OutOfCredits,
    RateLimited,
    ServerError,
    Unauthorized,
    UnconfirmedSubmit,
)

SubmitInTurn = Callable[[GenerationRequest, "str | None", float], Awaitable[str]]
"""Takes what to generate, the callback address, and for how many seconds to try."""


class Ask(Protocol):
    """Sends one request and reads its answer; `limit` is the budget that learns from it."""

    async def __call__(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], str],
        *,
        limit: RequestBudget | None = None,
        **sending: Any,
    ) -> str: ...


class SubmitQueue:
    """The submits of one client.

    Args:
        ask: Sends a request to the API.
        base_url: The API server.
        dialect: How it is asked.
        budget: The request budget that submits share with everything else.
        at_once: Submits under way at most.
        answer_timeout: Seconds after which the answer to a submit is given up.
        patience: How long to pause where no connection can be made.

    Attributes:
        budget: The submits' own request budget: what is refused of them slows down no polls.
    """

    def __init__(
        self,
        ask: Ask,
        base_url: str,
        *,
        dialect: Dialect,
        budget: RequestBudget,
        at_once: int,
        answer_timeout: float,
        patience: Patience,
    ) -> None:
        self.budget = RequestBudget(budget.ceiling, first_pause_seconds=budget.first_pause_seconds)
        self._patience = patience
        self._ask = ask
        self._base_url = base_url
        self._dialect = dialect
        self._shared_budget = budget
        self._answer_timeout = answer_timeout
        self._places = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[SubmitInTurn]:
        """Wait until a submit may be sent, and give what sends it."""
        async with self._places:
            await self._acquire()
            yield self._submit

    async def _acquire(self) -> None:
        await self.budget.acquire()
        await self._shared_budget.acquire()

    async def _submit(
        self, request: GenerationRequest, callback_url: str | None, timeout: float
    ) -> str:
        check_timeout(timeout)
        check_references(request, self._base_url)
        if problem := self._dialect.problem(request):
            raise InvalidInput(f"endpoint {problem}. Nothing was sent.")
        path, body = self._dialect.submission(request, callback_url)
        give_up_at = time.monotonic() + timeout
        pause = self._patience.first_connect_pause_seconds
        while True:
            try:
                return await self._ask(
                    "POST",
                    path,
                    _read_submitted,
                    limit=self.budget,
                    fresh=True,
                    seconds=self._answer_timeout,
                    json=body,
                )
            except APIError as error:
                if isinstance(error, RateLimited):
                    wait = self.budget.pause_left
                elif isinstance(error, NetworkError) and not error.sent:
                    wait = pause
                    pause = min(pause * 2, self._patience.max_connect_pause_seconds)
                else:
                    _raise_outcome(error)
                if time.monotonic() + wait > give_up_at:
                    raise
            await asyncio.sleep(wait)
            await self._acquire()


def _read_submitted(answer: Answer) -> str:
    return envelope.read_submitted(envelope.read_envelope(answer.http_status, answer.body))


def _raise_outcome(error: APIError) -> NoReturn:
    """Raise what is known of a submit: that it was refused, or that nothing is."""
    is_maintenance = isinstance(error, ServerError) and 455 in (error.http_status, error.code)
    if is_maintenance or isinstance(error, (Unauthorized, Forbidden, OutOfCredits, BadRequest)):
        raise error
    raise UnconfirmedSubmit(
        f"{error.message} Whether a generation task was created, and billed, is not known. Compare "
        "the account's credits before submitting it again: that may be paid for twice.",
        http_status=error.http_status,
        code=error.code,
        retry_after=error.retry_after,
    ) from None
