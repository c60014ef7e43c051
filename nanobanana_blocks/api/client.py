"""The API for Python: one request budget over one set of connections, and one waiter a policy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from pydantic import SecretStr

from nanobanana_blocks.api import envelope
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.connection import Answer, Connection
from nanobanana_blocks.api.details import TaskDetails, check_task_id
from nanobanana_blocks.api.dialects import DialectName, dialect_named
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.submitting import SubmitInTurn, SubmitQueue
from nanobanana_blocks.api.times import read_time
from nanobanana_blocks.api.uploads import FileUploads
from nanobanana_blocks.api.wait_state import DEFAULT_PATIENCE, Patience
from nanobanana_blocks.api.waiting import TaskWaiter
from nanobanana_blocks.errors import (
    APIError,
    InvalidInput,
    NanoBananaError,
    ProtocolError,
    RateLimited,
)

T = TypeVar("T")

DEFAULT_BASE_URL = "https://api.nanobananaapi.ai"
KEY_VARIABLE = "NANOBANANA_API_KEY"
BASE_URL_VARIABLE = "NANOBANANA_BASE_URL"
DIALECT_VARIABLE = "NANOBANANA_DIALECT"
UPLOAD_URL_VARIABLE = "NANOBANANA_UPLOAD_URL"


class NanoBananaClient:
    """Submits generation tasks and asks about them; an async context manager.

    Args:
        api_key: The API key.
        base_url: The API server. Plain http is accepted for this machine and private addresses.
        timeout: Seconds after which a request is given up.
        submit_timeout: Seconds after which the answer to a submit is given up: not to know it costs
            more than time. Connecting is given up after 10 seconds, as for all requests.
        max_connections: Requests in flight at most.
        budget: The request budget, to share one between clients; its rate is the most that a
            policy may set. Submits have a second one besides, `submit_budget`: what is refused of
            them does not slow the polls down.
        patience: What errors are borne, and how long.
        dialect: How the API is asked; `jobs` was tested against its documentation alone.
        upload_url: The provider's server for uploads, which gets the key; see `uploads`.

    Attributes:
        dialect: How the API is asked.
        uploads: The provider's place for files, where an `upload_url` was given.

    Raises:
        InvalidInput: The key or the base URL is invalid.

    Example:
        ```python
        async with NanoBananaClient(key) as client:
            details = await client.wait_for_task("933259930a1fc855a4e3835b7c60a028")
        ```
    """

    def __init__(
        self,
        api_key: str | SecretStr,
        base_url: str = DEFAULT_BASE_URL,
        *,
        timeout: float = 30.0,
        submit_timeout: float = 300.0,
        max_connections: int = 8,
        budget: RequestBudget | None = None,
        patience: Patience = DEFAULT_PATIENCE,
        dialect: DialectName = "nanobanana",
        upload_url: str | None = None,
    ) -> None:
        self._patience = patience
        self.uploads = FileUploads(api_key, upload_url) if upload_url else None
        self.dialect = dialect_named(dialect)
        self._connection = Connection(
            api_key, base_url, timeout=timeout, max_connections=max_connections
        )
        self.budget = budget or RequestBudget()
        self._max_requests_per_second = budget.ceiling if budget else math.inf
        self._max_connections = max_connections
        self._submits = SubmitQueue(
            self._ask,
            self.base_url,
            dialect=self.dialect,
            budget=self.budget,
            # Submits are slow: the other half of the connections is kept for polls.
            at_once=max(1, max_connections // 2),
            answer_timeout=submit_timeout,
            patience=patience,
        )
        self._waiters: dict[PollPolicy, TaskWaiter] = {}

    @property
    def base_url(self) -> str:
        """The API server."""
        return self._connection.base_url

    @property
    def submit_budget(self) -> RequestBudget:
        """The request budget of submits alone, which they take from besides `budget`."""
        return self._submits.budget

    def __repr__(self) -> str:
        return f"NanoBananaClient(base_url={self.base_url!r})"

    async def __aenter__(self) -> NanoBananaClient:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all waits and close the connections."""
        while self._waiters:
            await self._waiters.popitem()[1].aclose()
        if self.uploads:
            await self.uploads.aclose()
        await self._connection.aclose()

    async def get_task_details(self, task_id: str) -> TaskDetails:
        """Ask record-info about one generation task, once.

        Raises:
            InvalidInput: `task_id` is invalid; nothing was sent.
            APIError: One of its subclasses; `retryable` says whether asking again may help.
        """
        check_task_id(task_id)

        def read(answer: Answer) -> TaskDetails:
            read = self.dialect.read_record_info
            details = read(answer.http_status, answer.body, task_id=task_id)
            return details.model_copy(update={"answered_at": read_time(answer.server_time)})

        return await self._ask(
            "GET",
            self.dialect.record_info,
            read,
            params={"taskId": task_id},
            task_id=task_id,
            turn=self.budget.acquire,
        )

    async def wait_for_task(
        self,
        task_id: str,
        timeout: float = 900.0,
        poll: PollPolicy | None = None,
        *,
        just_submitted: bool = False,
    ) -> TaskDetails:
        """Poll until the generation task has ended, which `raise_for_status()` checks for failure.

        All waits of a client share its request budget, whose rate the policy sets.

        Args:
            task_id: The generation task.
            timeout: Seconds to wait at most; one final poll follows.
            poll: When to ask; `PollPolicy()` learns when an answer is likely.
            just_submitted: The service itself has just given this id. It may then be unknown to
                record-info for as long as it is waited for, and not for 15 s.

        Raises:
            WaitTimedOut: The task had not ended in time.
            APIError: A failure that waiting does not mend, or that outlasted its bound.
        """
        waiter = self.waiter(poll or PollPolicy())
        return await waiter.watch(task_id, timeout, just_submitted=just_submitted).ended()

    async def submit(
        self,
        request: GenerationRequest,
        *,
        callback_url: str | None = None,
        timeout: float = 120.0,
    ) -> str:
        """Submit a generation task, which costs credits, and return its id.

        What cannot have created a task is tried again with growing pauses: a connection that was
        not made, and a 429. Nothing else is, as a second submit may be paid for as well.

        Args:
            request: What to generate.
            callback_url: Where the service is to post the outcome. Where the API wants an address
                and none is given, it gets one that leads nowhere.
            timeout: Seconds for which it is tried again, from the first attempt on.

        Raises:
            InvalidInput: A parameter is invalid, or leads where the service cannot fetch an image;
                nothing was sent.
            UnconfirmedSubmit: It is not known whether a task was created, and billed.
            APIError: Another of its subclasses: no task was created.
        """
        async with self.turn_to_submit() as submit:
            return await submit(request, callback_url, timeout)

    def turn_to_submit(self) -> AbstractAsyncContextManager[SubmitInTurn]:
        """Wait until a submit may be sent; what is given does what `submit` does, at once.

        For those who must note, right before it, that they are about to submit.
        """
        return self._submits.turn()

    async def get_credits(self) -> int | float:
        """Ask how many credits the account has left, once.

        A whole number is documented; sister products give decimals.

        Raises:
            APIError: One of its subclasses; `retryable` says whether asking again may help.
        """
        return await self._ask("GET", self.dialect.credits, _read_credits, turn=self.budget.acquire)

    def waiter(self, poll: PollPolicy) -> TaskWaiter:
        """The one waiter of this client for a policy; it ends with the client."""
        if self._connection.is_closed:
            raise NanoBananaError("the client is closed.")
        rate = min(poll.requests_per_second, self._max_requests_per_second)
        for budget in (self.budget, self.submit_budget):
            budget.allow(rate)
        if poll not in self._waiters:
            self._waiters[poll] = TaskWaiter(
                self.get_task_details,
                poll,
                max_in_flight=self._max_connections,
                patience=self._patience,
            )
        return self._waiters[poll]

    async def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        *,
        task_id: str | None = None,
        limit: RequestBudget | None = None,
        **sending: Any,
    ) -> T:
        """Send one request and read its answer; the budgets learn from it.

        `limit` is the budget that learns of refusals; the ordinary one by default.
        """
        limit = limit or self.budget
        answer = await self._connection.exchange(method, path, task_id=task_id, **sending)
        try:
            found = read(answer)
        except ProtocolError as error:
            error.args = (f"{self.base_url}: {error.message}",)
            raise
        except APIError as error:
            error.retry_after = answer.retry_after
            if isinstance(error, RateLimited):
                limit.refused(answer.retry_after, sent_at=answer.sent_at)
            raise
        limit.answered()
        return found


def _read_credits(answer: Answer) -> int | float:
    return envelope.read_credits(envelope.read_envelope(answer.http_status, answer.body))


class Access(NamedTuple):
    """Which API is asked, with which key, and how."""

    api_key: SecretStr
    base_url: str
    dialect: DialectName
    upload_url: str


def access_from_environment() -> Access | None:
    """What the variables `NANOBANANA_…` say; None where there is no key.

    Raises:
        InvalidInput: There is no such dialect.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return Access(SecretStr(key), *address_from_environment()) if key else None


def address_from_environment() -> tuple[str, DialectName, str]:
    """Base URL, dialect and upload URL, of which each has a default.

    Raises:
        InvalidInput: There is no such dialect.
    """
    base_url = os.environ.get(BASE_URL_VARIABLE, "").strip() or DEFAULT_BASE_URL
    try:
        dialect = dialect_named(os.environ.get(DIALECT_VARIABLE, "").strip() or "nanobanana")
    except InvalidInput as error:
        raise InvalidInput(f"{DIALECT_VARIABLE}: {error.message}") from None
    return base_url, dialect.name, os.environ.get(UPLOAD_URL_VARIABLE, "").strip()
