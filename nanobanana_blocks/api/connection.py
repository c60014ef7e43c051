"""Requests to the API's host over httpx, and to no other; what answers mean is `protocol`'s.

The key is sent to the base URL's host and nowhere else: redirects are not followed.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import SecretStr

from nanobanana_blocks._version import __version__
from nanobanana_blocks.addresses import is_private_host
from nanobanana_blocks.errors import InvalidInput, NanoBananaError, NetworkError
from nanobanana_blocks.pools import PoolPerRequest
from nanobanana_blocks.tls import trusted_authorities

USER_AGENT = f"nanobanana-blocks/{__version__}"
MAX_ANSWER_BYTES = 1 << 20

MAX_CONNECT_SECONDS = 10.0

LATE_SECONDS = 2.0
"""A deadline noticed so late was missed because the process stood still (a stopped worker, a
suspended machine); the answer may have arrived in its socket all the same."""

GRACE_SECONDS = 10.0
"""How long it may take to read what has arrived there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came, without the key, should it echo that.

    Attributes:
        http_status: The HTTP status.
        body: The first mebibyte of the body.
        retry_after: Seconds that it asks to wait, in whichever form it says so.
        server_time: The service's clock in epoch seconds, by its Date header.
        sent_at: When the request was sent, on the event loop's clock.
    """

    http_status: int
    body: bytes
    retry_after: float | None
    server_time: float | None
    sent_at: float


class Connection:
    """The connections to the API of one client.

    Args:
        api_key: The API key.
        base_url: The API server. Plain http is accepted for this machine and private addresses.
        timeout: Seconds after which a request is given up, unless it is sent with a limit of its
            own.
        max_connections: Requests in flight at most.
        idle_seconds: How long a connection without a request is kept.

    Raises:
        InvalidInput: The key or the base URL is invalid.
    """

    def __init__(
        self,
        api_key: str | SecretStr,
        base_url: str,
        *,
        timeout: float,
        max_connections: int,
        idle_seconds: float = 5.0,
    ) -> None:
        key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self._key = check_api_key(key)
        self.base_url = check_base_url(base_url)
        self._timeout = timeout
        self._idle_seconds = idle_seconds
        self._in_flight = asyncio.Semaphore(max_connections)
        self._fresh = PoolPerRequest(lambda: self._pool(keep=0), idle_seconds=idle_seconds)
        self._kept_alive = PoolPerRequest(lambda: self._pool(keep=1), idle_seconds=idle_seconds)
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._is_closed

    async def aclose(self) -> None:
        """Close all connections."""
        self._is_closed = True
        await self._fresh.aclose()
        await self._kept_alive.aclose()

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        turn: Callable[[], Awaitable[None]] | None = None,
        fresh: bool = False,
        seconds: float | None = None,
        task_id: str | None = None,
        **arguments: Any,
    ) -> Answer:
        """Send a request and return its answer.

        Args:
            method: The HTTP method.
            path: The path below the base URL.
            turn: Waits for the request's turn, once it has a place among those in flight.
            fresh: Use a connection that is certain to be new: the server may be about to close
                one that was kept alive, and whether it has read the request is not known then.
            seconds: How long it may take, instead of the client's `timeout`.
            task_id: The generation task that it is about, for errors.
            arguments: What httpx takes besides, such as ``params`` and ``json``.

        Raises:
            NetworkError: No complete answer came; `sent` says whether the request may have
                reached the service.
        """
        seconds = self._timeout if seconds is None else seconds
        sent = True
        try:
            async with self._in_flight:
                if turn:
                    await turn()
                if self.is_closed:
                    raise NanoBananaError("the client is closed.", task_id=task_id)
                pools = self._fresh if fresh else self._kept_alive
                async with time_limit(seconds), pools.taken() as pool:
                    return await self._send(pool, method, path, arguments)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            sent = False
            failure = f"the connection failed ({type(error).__name__})"
        except (httpx.TimeoutException, TimeoutError):
            failure = f"no answer within {seconds:g} s"
        except httpx.HTTPError as error:
            failure = f"the connection failed ({type(error).__name__})"
        # Raised out here, so that no httpx exception, which holds the key, is its context.
        raise NetworkError(f"{self.base_url}: {failure}.", task_id=task_id, sent=sent)

    async def _send(
        self, pool: httpx.AsyncClient, method: str, path: str, arguments: dict[str, Any]
    ) -> Answer:
        body = bytearray()
        sent_at = asyncio.get_running_loop().time()
        async with pool.stream(method, path, **arguments) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    break
        return Answer(
            http_status=response.status_code,
            # An answer that echoes the request must not carry the key into an error's text.
            body=bytes(body).replace(self._key.encode(), b"********"),
            retry_after=read_retry_after(response.headers.get("Retry-After")),
            server_time=_read_date(response.headers.get("Date")),
            sent_at=sent_at,
        )

    def _pool(self, *, keep: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self._key}", "User-Agent": USER_AGENT},
            # A third each for TCP and TLS: a request that times out while connecting was not sent.
            # How long the rest may take is `time_limit`'s.
            timeout=httpx.Timeout(None, connect=min(self._timeout / 3, MAX_CONNECT_SECONDS)),
            # The semaphore bounds them: httpcore's own bound loses a place for ever when a request
            # is cancelled before it has connected (seen with httpcore 1.0.9).
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=keep,
                keepalive_expiry=self._idle_seconds,
            ),
            follow_redirects=False,
            verify=trusted_authorities(),
            # A proxy of the environment is for public hosts, not for a gateway close by.
            trust_env=not is_private_host(httpx.URL(self.base_url).host),
        )


@asynccontextmanager
async def time_limit(seconds: float, *, late_seconds: float = LATE_SECONDS) -> AsyncIterator[None]:
    """End the block with `TimeoutError` after so many seconds.

    Where the deadline is noticed `late_seconds` late, because the process stood still, what has
    arrived meanwhile is read first.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds

    timer: asyncio.TimerHandle

    def expire() -> None:
        nonlocal timer
        if loop.time() - deadline < late_seconds:
            limit.reschedule(loop.time())
        else:
            timer = loop.call_later(GRACE_SECONDS, limit.reschedule, loop.time())

    timer = loop.call_at(deadline, expire)
    async with asyncio.timeout(None) as limit:
        try:
            yield
        finally:
            timer.cancel()


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
        raise InvalidInput(
            f"the base URL must be https: the key would be sent unencrypted to {url.host}"
        )
    return str(url).rstrip("/")


def read_retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms (RFC 9110).

    A time that has passed, and a number below zero, mean now: 0.
    """
    if value is None:
        return None
    if re.fullmatch(r"\s*-?\d{1,9}(\.\d+)?\s*", value):
        return max(0.0, float(value))
    moment = _read_date(value)
    return None if moment is None else max(0.0, moment - time.time())


def _read_date(value: str | None) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp() if value else None
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
