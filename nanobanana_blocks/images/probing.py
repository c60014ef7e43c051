"""Whether a URL gives an image to anyone: its first bytes are asked for, without any key.

Nothing is kept of the image, and nothing is decoded.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from types import TracebackType

import anyio
import httpx

from nanobanana_blocks.errors import ImageGone, ImageRejected, ImageUnavailable
from nanobanana_blocks.images.egress import EgressRules, redacted
from nanobanana_blocks.images.transport import (
    ConnectionFailed,
    ImageTransport,
    Resolver,
    Response,
    resolve,
)
from nanobanana_blocks.tls import trusted_authorities

PROBED_BYTES = 1024
MAX_REDIRECTS = 5
PROBES_AT_ONCE = 16

_KINDS = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "image/avif"),
)


@dataclass(frozen=True)
class Probed:
    """What the head of an answer tells: the kind by content, and the whole size if it is told."""

    media_type: str
    size: int | None


def kind_of(head: bytes) -> str | None:
    """The media type of the image that begins with these bytes, if it is one."""
    return next((media_type for sign, media_type in _KINDS if sign.match(head)), None)


class UrlProbe:
    """Asks for the first bytes of images, as strangers would; an async context manager.

    Args:
        rules: Where it may connect.
        attempts: Times that a host which fails, or does not answer, is asked.
        first_pause_seconds: Pause after the first failed attempt; it doubles after each.
        connect_seconds: Time to find an address and connect to it.
        read_seconds: Time between two pieces of a body.
        resolver: How host names are resolved.
    """

    def __init__(
        self,
        rules: EgressRules,
        *,
        attempts: int = 3,
        first_pause_seconds: float = 0.5,
        connect_seconds: float = 10.0,
        read_seconds: float = 20.0,
        resolver: Resolver = resolve,
    ) -> None:
        self.rules = rules
        self._attempts = attempts
        self._first_pause = first_pause_seconds
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._resolver = resolver
        self._slots = asyncio.Semaphore(PROBES_AT_ONCE)
        self._connecting = asyncio.Lock()
        self._transport: ImageTransport | None = None

    async def __aenter__(self) -> UrlProbe:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    async def probe(self, url: str) -> Probed:
        """Ask for the beginning of what `url` gives.

        Raises:
            ImageGone: The host refuses it: 403, 404 or another 4xx.
            ImageRejected: What it gives is no image.
            ForbiddenAddress: It, or a redirect, leads where this product must not go.
            ImageUnavailable: The host failed or was out of reach, after all attempts.
        """
        for attempt in range(self._attempts):
            if attempt:
                await anyio.sleep(self._first_pause * 2 ** (attempt - 1))
            try:
                async with self._slots:
                    return await self._follow(url)
            except ImageUnavailable as error:
                if isinstance(error, ImageGone) or attempt == self._attempts - 1:
                    raise error.with_traceback(None) from None
        raise AssertionError(self._attempts)

    async def _connected(self) -> ImageTransport:
        """The connections, made when the first URL is asked for: many runs have none."""
        async with self._connecting:
            if self._transport is None:
                self._transport = ImageTransport(
                    self.rules,
                    self._resolver,
                    tls=await asyncio.to_thread(trusted_authorities),
                    connect_seconds=self._connect_seconds,
                    read_seconds=self._read_seconds,
                )
            return self._transport

    async def _follow(self, url: str) -> Probed:
        transport = await self._connected()
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            raise ImageRejected("it is not a URL.") from None
        for _ in range(MAX_REDIRECTS + 1):
            self.rules.check_url(target)
            try:
                async with transport.get(target, at_most=PROBED_BYTES) as response:
                    if response.status in (200, 206):
                        return await _probed(target, response)
                    target = _next_url(target, response)
            except ConnectionFailed as failure:
                raise ImageUnavailable(
                    f"{redacted(target)} did not answer ({failure.kind})."
                ) from None
        raise ImageUnavailable(f"{redacted(target)}: more than {MAX_REDIRECTS} redirects.")


async def _probed(url: httpx.URL, response: Response) -> Probed:
    head = b""
    async for chunk in response.chunks():
        head += chunk
        if len(head) >= 16:  # enough for every signature, and none is waited for in vain
            break
    media_type = kind_of(head)
    if media_type is None:
        what = "an HTML page" if head.lstrip()[:1] == b"<" else "something else"
        raise ImageRejected(f"{redacted(url)} gives no image but {what if head else 'nothing'}.")
    if response.status == 206:
        _, _, total = response.header(b"content-range").partition("/")
    else:
        total = response.header(b"content-length")
    return Probed(media_type, int(total) if total.isdecimal() else None)


def _next_url(url: httpx.URL, response: Response) -> httpx.URL:
    status = response.status
    if status in (408, 425, 429) or status >= 500:
        raise ImageUnavailable(f"{redacted(url)} answered {status}.")
    if 400 <= status < 500:
        raise ImageGone(f"{redacted(url)} answered {status} to a request without credentials.")
    location = response.header(b"location")
    if status not in (301, 302, 303, 307, 308) or not location:
        raise ImageRejected(f"{redacted(url)} answered {status} and no image.")
    try:
        return url.join(location)
    except httpx.InvalidURL:
        raise ImageRejected(f"{redacted(url)} redirects to what is not a URL.") from None
