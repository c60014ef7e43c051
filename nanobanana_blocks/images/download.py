"""Fetching images from URLs that others wrote: without a key, past no wall, and only sound ones.

It holds a fetched image in memory for as long as its caller needs it; storing it, and deciding
which URL to try, is done elsewhere.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import anyio
import httpx

from nanobanana_blocks.errors import ImageError, ImageGone, ImageRejected, ImageUnavailable
from nanobanana_blocks.images.egress import EgressRules, redacted
from nanobanana_blocks.images.limits import ByteBudget, Reservation, TimeAllowance
from nanobanana_blocks.images.transport import (
    ConnectionFailed,
    ImageTransport,
    Resolver,
    Response,
    resolve,
)
from nanobanana_blocks.images.verification import CutShort, VerifiedImage, verify_image
from nanobanana_blocks.tls import trusted_authorities

_T = TypeVar("_T")

MEBIBYTE = 2**20
MAX_REDIRECTS = 5
MAX_PIXELS = 2**26


class ImageDownloader:
    """Fetches images, some at a time, and holds them within a budget; an async context manager.

    It sends no key, cookie or referrer, and asks no proxy, since a proxy would choose the address
    that is connected to. It asks for unencoded bodies; gzip and deflate are undone where they come
    nevertheless. At most 5 redirects are followed, each checked like the URL itself.

    Attributes:
        fresh_url_seconds: As given.
        rules: Where it may connect.
        budget: The bytes that all images fetched and not yet let go of may have together. Decoding
            needs more: up to 6 bytes a pixel for each of at most 4 threads.
    """

    def __init__(
        self,
        rules: EgressRules,
        *,
        max_bytes: int = 64 * MEBIBYTE,
        max_pixels: int = MAX_PIXELS,
        budget_bytes: int = 256 * MEBIBYTE,
        connections: int = 8,
        seconds_per_image: float = 120.0,
        connect_seconds: float = 10.0,
        read_seconds: float = 20.0,
        attempts: int = 6,
        first_pause_seconds: float = 0.5,
        fresh_url_seconds: float = 3.0,
        resolver: Resolver = resolve,
    ) -> None:
        """All limits hold for one image, except `budget_bytes` and `connections`.

        Args:
            rules: Where it may connect.
            max_bytes: The largest image, in bytes.
            max_pixels: The largest image, in pixels.
            budget_bytes: Bytes held at a time.
            connections: Connections at a time; several small ones are slower than few.
            seconds_per_image: Time for one image over all attempts, without the waiting for a
                connection, for bytes of the budget, and for a thread to verify it.
            connect_seconds: Time to find an address and connect to it.
            read_seconds: Time between two pieces of a body.
            attempts: Attempts at each URL of an image, where another may help: by default they ride
                out a failure of some 10 s. Nothing above the downloader retries.
            first_pause_seconds: Pause after the first failed attempt; it doubles after each.
            fresh_url_seconds: Pause before URLs that the API has just given again are tried once
                more; for those who ask it.
            resolver: How host names are resolved.
        """
        self.rules = rules
        self.budget = ByteBudget(budget_bytes)
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._seconds = seconds_per_image
        self._attempts = attempts
        self._first_pause = first_pause_seconds
        self.fresh_url_seconds = fresh_url_seconds
        self._resolver = resolver
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._slots = asyncio.Semaphore(connections)
        self._transport: ImageTransport | None = None
        self._threads = ThreadPoolExecutor(
            min(4, os.cpu_count() or 1), thread_name_prefix="nanobanana-verify"
        )

    async def __aenter__(self) -> ImageDownloader:
        self._transport = ImageTransport(
            self.rules,
            self._resolver,
            tls=await self._in_thread(trusted_authorities),
            connect_seconds=self._connect_seconds,
            read_seconds=self._read_seconds,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._transport is not None:
            await self._transport.aclose()

    @asynccontextmanager
    async def fetch(
        self,
        urls: str | Sequence[str],
        *,
        task_id: str,
        thumbnail: bool = False,
        allowance: TimeAllowance | None = None,
    ) -> AsyncIterator[VerifiedImage]:
        """Fetch and verify an image, and hold its bytes until the context is left.

        Of several URLs of the image, each is tried before one is tried again, so that one that
        hangs does not take the time of the others. What is raised is about the first.

        Args:
            urls: The image's URL, or all of them, the preferred one first.
            task_id: The generation task, for messages.
            thumbnail: Whether to make one.
            allowance: The time left for the image, where it has been fetched from other URLs
                before; by default `seconds_per_image`.

        Leave the context before entering another: who waits for bytes while holding some can wait
        for ever.

        Raises:
            ImageGone: The host answered 403, 404, 410 or another 4xx.
            ImageUnavailable: The host failed, or was out of reach or time, after all attempts.
            ImageRejected: What came is not a whole, sound image within the limits.
            ForbiddenAddress: The URL, or a redirect, leads where it must not.
        """
        held = self.budget.hold()
        try:
            allowance = allowance or self.new_allowance()
            tried = (urls,) if isinstance(urls, str) else tuple(urls)
            fetching = self._fetch(tried, held, allowance, thumbnail=thumbnail)
            yield await self._translated(fetching, task_id)
        finally:
            held.release()

    async def _translated(self, fetching: Awaitable[_T], task_id: str) -> _T:
        try:
            return await fetching
        except ImageError as error:
            kind = _PUBLIC_KINDS.get(type(error), type(error))
            failure = kind(error.message, task_id=task_id)
        # A new error outside of the handler, for the frames of the old one hold signed URLs.
        raise failure

    def new_allowance(self) -> TimeAllowance:
        """The time that one image may take by all of its URLs together."""
        return TimeAllowance(self._seconds)

    async def _fetch(
        self, urls: Sequence[str], held: Reservation, allowance: TimeAllowance, *, thumbnail: bool
    ) -> VerifiedImage:
        failures: dict[str, ImageError] = {}
        hopeful = list(urls)
        try:
            with allowance.spent() as limit:
                for attempt in range(self._attempts):
                    for url in tuple(hopeful):
                        try:
                            return await self._attempt(url, held, limit, thumbnail=thumbnail)
                        except ImageError as error:
                            held.release()
                            failures[url] = error
                            if not isinstance(error, (_TryAgain, CutShort)):
                                hopeful.remove(url)
                    if not hopeful or attempt == self._attempts - 1:
                        break
                    pause = self._first_pause * 2**attempt
                    await anyio.sleep(pause * _JITTER.uniform(0.5, 1.0))
        except TimeoutError:
            raise ImageUnavailable(
                f"the image did not arrive within {allowance.whole:g} s. Run again later."
            ) from None
        if not failures:
            raise ImageUnavailable("the API gives no URL for it.")
        raise failures[urls[0]].with_traceback(None)

    async def _attempt(
        self, url: str, held: Reservation, limit: anyio.CancelScope, *, thumbnail: bool
    ) -> VerifiedImage:
        with _paused(limit):
            await self._slots.acquire()
        try:
            body = await self._download(url, held, limit)
        finally:
            self._slots.release()
        with _paused(limit):
            image = await self._in_thread(self._verify, body, thumbnail)
        held.shrink(len(image.data))
        return image

    async def _download(self, url: str, held: Reservation, limit: anyio.CancelScope) -> _Body:
        """Follow `url` to its image and return that, as it came."""
        if self._transport is None:
            raise RuntimeError("use `async with` before fetching")
        target = _parsed(url)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self.rules.check_url(target)
                async with self._transport.get(target) as response:
                    if response.status == 200:
                        return await self._receive(target, response, held, limit)
                    target = _next_url(target, response)
        except ConnectionFailed as failure:
            where = redacted(target)
            reason = (
                f"{where} did not answer in time"
                if failure.timed_out
                else f"the connection to {where} failed"
            )
            raise _TryAgain(f"{reason} ({failure.kind}).") from None
        raise ImageUnavailable(f"{redacted(target)}: more than {MAX_REDIRECTS} redirects.")

    async def _receive(
        self,
        url: httpx.URL,
        response: Response,
        held: Reservation,
        limit: anyio.CancelScope,
    ) -> _Body:
        declared = _declared_length(response)
        _check_length(url, declared or 0, self._max_bytes)
        encoding = response.header(b"content-encoding").lower().replace("identity", "")
        with _paused(limit):
            await held.take(self._max_bytes if declared is None or encoding else declared)
        chunks, received = [], 0
        async for chunk in response.chunks():
            received += len(chunk)
            _check_length(url, received, self._max_bytes)
            chunks.append(chunk)
        return _Body(url=url, data=b"".join(chunks), encoding=encoding)

    def _verify(self, body: _Body, thumbnail: bool) -> VerifiedImage:
        data = body.data
        if body.encoding:
            data = _decoded(body, self._max_bytes)
        try:
            return verify_image(data, max_pixels=self._max_pixels, thumbnail=thumbnail)
        except ImageRejected as error:
            raise type(error)(f"{redacted(body.url)}: {error.message}") from None

    async def _in_thread(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


@dataclass(frozen=True)
class _Body:
    """The answer to a request for an image, still encoded as it came."""

    url: httpx.URL
    data: bytes
    encoding: str


class _TryAgain(ImageUnavailable):
    """Raised where another attempt at the same URL may help."""


_PUBLIC_KINDS: dict[type[ImageError], type[ImageError]] = {
    CutShort: ImageRejected,
    _TryAgain: ImageUnavailable,
}
_JITTER = random.SystemRandom()


@contextmanager
def _paused(limit: anyio.CancelScope) -> Iterator[None]:
    """Stop the clock of a time limit while waiting for what this process has too little of."""
    remaining = limit.deadline - anyio.current_time()
    limit.deadline = math.inf
    try:
        yield
    finally:
        limit.deadline = anyio.current_time() + remaining


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ImageUnavailable("the API gives an image URL that is not a URL.") from None


def _next_url(url: httpx.URL, response: Response) -> httpx.URL:
    """Where a response without an image redirects to; what else it means is raised."""
    status = response.status
    if status in (408, 425, 429) or status >= 500:
        raise _TryAgain(f"{redacted(url)} answered {status}.")
    if 400 <= status < 500:
        raise ImageGone(f"{redacted(url)} answered {status}: expired, gone or refused.")
    location = response.header(b"location")
    if status not in (301, 302, 303, 307, 308) or not location:
        raise ImageUnavailable(f"{redacted(url)} answered {status} and no image.")
    try:
        return url.join(location)
    except httpx.InvalidURL:
        raise ImageUnavailable(f"{redacted(url)} redirects to what is not a URL.") from None


def _declared_length(response: Response) -> int | None:
    length = response.header(b"content-length")
    return int(length) if length.isdecimal() else None


def _check_length(url: httpx.URL, length: int, most: int) -> None:
    if length > most:
        raise ImageRejected(f"{redacted(url)}: larger than {most:,} bytes.")


def _decoded(body: _Body, max_bytes: int) -> bytes:
    if body.encoding not in ("gzip", "x-gzip", "deflate"):
        raise ImageRejected(f"{redacted(body.url)}: encoded in a way that was not asked for.")
    decoder = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    try:
        data = decoder.decompress(body.data, max_bytes + 1)
    except zlib.error:
        raise ImageRejected(f"{redacted(body.url)}: its {body.encoding} is damaged.") from None
    _check_length(body.url, len(data), max_bytes)
    if not decoder.eof:
        raise CutShort(f"{redacted(body.url)}: its {body.encoding} is cut short.")
    return data
