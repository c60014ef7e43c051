"""The API over httpx: one connection pool, one account's pace; what answers mean is `protocol`'s.

The key is sent to the base URL's host and nowhere else: redirects are not followed.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NoReturn

import anyio
import httpx
from pydantic import SecretStr

from nanobanana_blocks._version import __version__
from nanobanana_blocks.addresses import is_private_host
from nanobanana_blocks.api import protocol
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.details import TaskDetails, check_task_id
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.waiting import TaskWaiter, check_timeout
from nanobanana_blocks.errors import (
    APIError,
    BadRequest,
    InvalidInput,
    NanoBananaError,
    NetworkError,
    OutOfCredits,
    ProtocolError,
    RateLimited,
    ServerError,
    Unauthorized,
    UnconfirmedSubmit,
)

DEFAULT_BASE_URL = "https://api.nanobananaapi.ai"
KEY_VARIABLE = "NANOBANANA_API_KEY"
BASE_URL_VARIABLE = "NANOBANANA_BASE_URL"
USER_AGENT = f"nanobanana-blocks/{__version__}"
MAX_ANSWER_BYTES = 1 << 20

IDLE_CONNECTIONS = 4
"""Connections kept open between requests; httpcore looks at each of them for every request."""

FIRST_SUBMIT_PAUSE_SECONDS, MAX_SUBMIT_PAUSE_SECONDS = 1.0, 30.0
"""Between tries to submit while no connection can be made; doubled each time."""

SubmitInTurn = Callable[[GenerationRequest, "str | None", float], Awaitable[str]]
"""Takes what to generate, the callback address, and for how many seconds to try."""


class NanoBananaClient:
    """Submits generation tasks and asks about them; an async context manager.

    Args:
        api_key: The API key.
        base_url: The API server. Plain http is accepted for this machine and private addresses.
        timeout: Seconds after which a request is given up.
        max_connections: Requests in flight at most; a few cost less CPU than many.
        budget: The request budget, to share one between clients. Submits have a second one besides,
            `submit_budget`: what is refused of them does not slow the looks down.

    Raises:
        InvalidInput: The key or the base URL cannot be meant.

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
        max_connections: int = 8,
        budget: RequestBudget | None = None,
    ) -> None:
        key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self._key = check_api_key(key)
        self.base_url = check_base_url(base_url)
        self.budget = budget or RequestBudget()
        self.submit_budget = RequestBudget()
        self._timeout = timeout
        self._max_connections = max_connections
        self._in_flight = asyncio.Semaphore(max_connections)
        # Submits are slow: the other half of the connections is kept for looks.
        self._submitting = asyncio.Semaphore(max(1, max_connections // 2))
        self._waiters: dict[PollPolicy, TaskWaiter] = {}
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self._key}", "User-Agent": USER_AGENT},
            # A third each for TCP and TLS: what runs out while connecting was surely not sent.
            timeout=httpx.Timeout(timeout, connect=min(timeout / 3, 10.0), pool=None),
            # The semaphore bounds them: httpcore's own bound loses a place for ever when a request
            # is cancelled before it has connected (seen with httpcore 1.0.9).
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS),
            follow_redirects=False,
            # A proxy of the environment is for the world outside, not for a gateway close by.
            trust_env=not is_private_host(httpx.URL(self.base_url).host),
        )

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
        await self._http.aclose()

    async def get_task_details(self, task_id: str) -> TaskDetails:
        """Ask record-info about one generation task, once.

        Raises:
            InvalidInput: `task_id` cannot be one; nothing was sent.
            APIError: One of its subclasses; `retryable` tells whether asking again may help.
        """
        check_task_id(task_id)
        data = await self._ask(
            "GET", protocol.RECORD_INFO, params={"taskId": task_id}, task_id=task_id
        )
        return protocol.read_task_details(data, task_id=task_id)

    async def wait_for_task(
        self, task_id: str, timeout: float = 900.0, poll: PollPolicy | None = None
    ) -> TaskDetails:
        """Ask until the generation task has ended, well or badly; `raise_for_status()` tells.

        All waits of a client share its request budget, whose rate the policy sets.

        Args:
            task_id: The generation task.
            timeout: Seconds to wait at most; one last look follows.
            poll: When to ask; `PollPolicy()` learns when an answer is likely.

        Raises:
            WaitTimedOut: The task had not ended in time.
            APIError: A failure that waiting does not mend, or that outlasted its bound.
        """
        return await self.waiter(poll or PollPolicy()).watch(task_id, timeout).ended()

    async def submit(
        self,
        request: GenerationRequest,
        *,
        callback_url: str | None = None,
        timeout: float = 120.0,
    ) -> str:
        """Submit a generation task, which costs credits, and return its id.

        What cannot have created a task is tried again with growing pauses: a connection that was
        not made, and a 429. Nothing else is: the API's documentation knows no idempotency key, so
        a second submit may be paid for as well.

        Args:
            request: What to generate.
            callback_url: Where the service is to post the outcome. Where the API wants an address
                and none is given, it gets one that leads nowhere.
            timeout: Seconds for which it is tried again, from the first try on.

        Raises:
            InvalidInput: A parameter cannot be meant; nothing was sent.
            UnconfirmedSubmit: It is not known whether a task was created, and billed.
            APIError: Another of its subclasses: no task was created.
        """
        async with self.turn_to_submit() as submit:
            return await submit(request, callback_url, timeout)

    @asynccontextmanager
    async def turn_to_submit(self) -> AsyncIterator[SubmitInTurn]:
        """Wait until a submit may be sent; what is given does what `submit` does, at once.

        For those who must note, right before it, that they are about to submit.
        """
        async with self._submitting:
            await self.submit_budget.acquire()
            await self.budget.acquire()
            yield self._submit_in_turn

    async def _submit_in_turn(
        self, request: GenerationRequest, callback_url: str | None, timeout: float
    ) -> str:
        check_timeout(timeout)
        body = request.body(callback_url)
        path = protocol.SUBMIT[request.endpoint]
        give_up_at = time.monotonic() + timeout
        pause = FIRST_SUBMIT_PAUSE_SECONDS
        while True:
            try:
                data = await self._ask(
                    "POST", path, limit=self.submit_budget, has_turn=True, json=body
                )
                return protocol.read_submitted(data)
            except APIError as error:
                if isinstance(error, RateLimited):
                    wait = self.submit_budget.pause_left
                elif isinstance(error, NetworkError) and not error.sent:
                    wait = pause
                    pause = min(pause * 2, MAX_SUBMIT_PAUSE_SECONDS)
                else:
                    _raise_outcome(error)
                if time.monotonic() + wait > give_up_at:
                    raise
            await asyncio.sleep(wait)
            await self.submit_budget.acquire()
            await self.budget.acquire()

    async def get_credits(self) -> int:
        """Ask how many credits the account has left, once.

        Raises:
            APIError: One of its subclasses; `retryable` tells whether asking again may help.
        """
        return protocol.read_credits(await self._ask("GET", protocol.CREDITS))

    def waiter(self, poll: PollPolicy) -> TaskWaiter:
        """The one waiter of this client for a policy; it ends with the client."""
        if self._http.is_closed:
            raise NanoBananaError("the client is closed.")
        self.budget.allow(poll.requests_per_second)
        if poll not in self._waiters:
            self._waiters[poll] = TaskWaiter(
                self.get_task_details, poll, max_in_flight=self._max_connections
            )
        return self._waiters[poll]

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        task_id: str | None = None,
        limit: RequestBudget | None = None,
        has_turn: bool = False,
        **arguments: Any,
    ) -> Any:
        """Send one request within the budget and return the `data` of an answer that says yes.

        `limit` is the budget that learns whether the service minds; the ordinary one by default.
        `has_turn` tells that the request's turn has been waited for already.
        """
        limit = limit or self.budget
        response, body = await self._exchange(method, path, task_id, has_turn, arguments)
        try:
            data = protocol.read_envelope(response.status_code, body, task_id=task_id)
        except ProtocolError as error:
            error.args = (f"{self.base_url}: {error.message}",)
            raise
        except APIError as error:
            error.retry_after = read_retry_after(response.headers.get("Retry-After"))
            if isinstance(error, RateLimited):
                limit.refused(error.retry_after)
            raise
        limit.answered()
        return data

    async def _exchange(
        self,
        method: str,
        path: str,
        task_id: str | None,
        has_turn: bool,
        arguments: dict[str, Any],
    ) -> tuple[httpx.Response, bytes]:
        body = bytearray()
        sent = True
        try:
            async with self._in_flight:
                if not has_turn:
                    await self.budget.acquire()
                if self._http.is_closed:
                    raise NanoBananaError("the client is closed.", task_id=task_id)
                with anyio.fail_after(self._timeout):
                    async with self._http.stream(method, path, **arguments) as response:
                        async for chunk in response.aiter_bytes():
                            body += chunk
                            if len(body) > MAX_ANSWER_BYTES:
                                break
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            sent = False
            failure = f"the connection failed ({type(error).__name__})"
        except (httpx.TimeoutException, TimeoutError):
            failure = f"no answer within {self._timeout:g} s"
        except httpx.HTTPError as error:
            failure = f"the connection failed ({type(error).__name__})"
        else:
            # An answer that echoes the request must not carry the key into an error's text.
            return response, bytes(body).replace(self._key.encode(), b"********")
        # Raised out here, so that no httpx exception, which holds the key, is its context.
        raise NetworkError(f"{self.base_url}: {failure}.", task_id=task_id, sent=sent)


def _raise_outcome(error: APIError) -> NoReturn:
    """Raise what is known of a submit: that the service said no, or that nothing is."""
    is_maintenance = isinstance(error, ServerError) and 455 in (error.http_status, error.code)
    if is_maintenance or isinstance(error, (Unauthorized, OutOfCredits, BadRequest)):
        raise error
    raise UnconfirmedSubmit(
        f"{error.message} Whether a generation task was created, and billed, is not known. Compare "
        "the account's credits before submitting it again: that may be paid for twice.",
        http_status=error.http_status,
        code=error.code,
        retry_after=error.retry_after,
    ) from None


def key_and_base_url_from_environment() -> tuple[SecretStr, str] | None:
    """What `NANOBANANA_API_KEY` and `NANOBANANA_BASE_URL` say; None where there is no key."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return None
    return SecretStr(key), os.environ.get(BASE_URL_VARIABLE, "").strip() or DEFAULT_BASE_URL


def check_base_url(base_url: str) -> str:
    """Return the base URL without a final slash, or raise `InvalidInput`."""
    try:
        url = httpx.URL(base_url.strip())
    except (httpx.InvalidURL, AttributeError):
        url = httpx.URL("")
    port = url.port or 443
    if url.scheme not in ("https", "http") or not url.host or not 0 < port < 65536:
        raise InvalidInput("the base URL must be like https://api.nanobananaapi.ai")
    if url.userinfo or url.query or url.fragment:
        raise InvalidInput("the base URL must have no user, password, query or fragment")
    if url.scheme == "http" and not is_private_host(url.host):
        raise InvalidInput(f"the base URL must be https: the key would travel open to {url.host}")
    return str(url).rstrip("/")


def read_retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms (RFC 9110)."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def check_api_key(key: str) -> str:
    """Return the key without blanks around it, or raise `InvalidInput`, which does not hold it."""
    key = key.strip()
    if not key:
        raise InvalidInput("the API key is blank")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInput("the API key holds a space, a line break or a non-ASCII character")
    return key
