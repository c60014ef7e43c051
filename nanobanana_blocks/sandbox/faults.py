"""Carries out faults: the ways in which a service or an image host misbehaves.

Which request a fault strikes is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import anyio

from nanobanana_blocks.sandbox.envelopes import refusal, spring_error
from nanobanana_blocks.sandbox.exchange import Answer
from nanobanana_blocks.sandbox.pictures import bomb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nanobanana_blocks.sandbox.exchange import Exchange
    from nanobanana_blocks.sandbox.settings import Fault

PAGE = b"<!DOCTYPE html><html><head><title>Oops</title></head><body>Try again.</body></html>"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
FILLER = b"banana " * 9362
DRIP_BYTES = 1024


class Misbehaviour:
    """One fault that is about to spoil one answer.

    `image` is what an image request would have got. `pause` waits for some seconds, or less
    when the server is closing.
    """

    def __init__(
        self,
        fault: Fault,
        exchange: Exchange,
        pause: Callable[[float], Awaitable[None]],
        image: Answer | None = None,
    ) -> None:
        self._fault = fault
        self._exchange = exchange
        self._image = image or Answer(b"", media_type="image/png")
        self._pause = pause

    async def happen(self) -> None:
        """Spoil the answer."""
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "drop": self._exchange.drop,
            "drop-kept-alive": self._exchange.drop,
            "huge-body": self._huge_body,
            "truncated-transfer": self._truncated_transfer,
            "truncated-chunked": self._truncated_chunked,
            "chunked-cut": self._chunked_cut,
            "until-close": self._until_close,
            "endless": self._endless,
            "drip": self._drip,
        }
        act = acts.get(self._fault.kind)
        if act is not None:
            await act()
        else:
            await self._exchange.answer(self._whole())

    def _whole(self) -> Answer:
        """The faults that are a complete answer, only not the one asked for."""
        fault, image = self._fault, self._image
        match fault.kind:
            case "http-status":
                return self._http_status(fault.status or 500)
            case "body-code":
                body = refusal(fault.code, fault.message)
                return Answer(body, fault.status or 200, headers=_retry_after(fault))
            case "redirect":
                query = self._exchange.query.decode("latin-1")
                itself = f"{self._exchange.path}?{query}"
                location = itself if fault.url == "self" else fault.url
                return Answer(b"", 302, "text/plain", (("location", location),))
            case "not-json":
                return Answer(b"upstream says hello {")
            case "not-envelope":
                return Answer(b'{"status":"ok","result":[1,2,3]}')
            case "truncated-image":
                return Answer(self._half(), media_type=image.media_type)
            case "bomb":
                return Answer(bomb(), media_type="image/png")
            case "wrong-type":
                return Answer(PDF, media_type="image/png")
            case "empty":
                return Answer(b"", media_type=image.media_type)
            case _:
                return Answer(PAGE, media_type="text/html; charset=utf-8")

    def _http_status(self, status: int) -> Answer:
        retry_after = _retry_after(self._fault)
        if self._fault.target == "files":
            return Answer(PAGE, status, "text/html", retry_after)
        return Answer(spring_error(status, self._exchange.path), status, headers=retry_after)

    def _half(self) -> bytes:
        return self._image.body[: len(self._image.body) // 2]

    async def _truncated_transfer(self) -> None:
        await self._exchange.begin(200, self._image.media_type, length=len(self._image.body))
        await self._exchange.piece(self._half())
        await self._exchange.close()

    async def _truncated_chunked(self) -> None:
        await self._exchange.begin(200, self._image.media_type)
        await self._exchange.piece(self._half())
        await self._exchange.end()

    async def _chunked_cut(self) -> None:
        await self._exchange.begin(200, self._image.media_type)
        await self._exchange.piece(self._half())
        await self._exchange.close()

    async def _until_close(self) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {self._image.media_type}\r\n"
        await self._exchange.raw(head.encode() + b"connection: close\r\n\r\n" + self._half())

    async def _endless(self) -> None:
        await self._exchange.begin(200, self._image.media_type)
        await self._exchange.piece(self._image.body)
        await self._fill(self._fault.size)
        await self._exchange.end()

    async def _huge_body(self) -> None:
        await self._exchange.begin(200, "application/json")
        await self._exchange.piece(b'{"code":200,"msg":"success","data":null,"padding":"')
        await self._fill(self._fault.size)
        await self._exchange.piece(b'"}')
        await self._exchange.end()

    async def _fill(self, size: int) -> None:
        sent = 0
        while sent < size and not self._exchange.gone:
            await self._exchange.piece(FILLER)
            await self._pause(0)
            sent += len(FILLER)

    async def _drip(self) -> None:
        body = self._image.body
        await self._exchange.begin(200, self._image.media_type, length=len(body))
        for start in range(0, len(body), DRIP_BYTES):
            if self._exchange.gone:
                return
            await self._exchange.piece(body[start : start + DRIP_BYTES])
            await self._pause(self._fault.seconds)
        await self._exchange.end()


class ServerClosingError(Exception):
    """The server closes while an answer was still being delayed."""


class Closing:
    """Lets waits end early when the server closes."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def begin(self) -> None:
        """End every wait, and refuse to begin another."""
        self._event.set()

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds; raises `ServerClosingError` when the server closes."""
        if seconds > 0:
            with anyio.move_on_after(seconds):
                await self._event.wait()
        else:
            await asyncio.sleep(0)
        if self._event.is_set():
            raise ServerClosingError


async def endure(struck: list[Fault], pause: Callable[[float], Awaitable[None]]) -> Fault | None:
    """Wait out the latencies; what remains is the fault that spoils the answer, if any."""
    spoiler: Fault | None = None
    for fault in struck:
        if fault.kind == "latency":
            await pause(fault.seconds)
        else:
            spoiler = fault
    return spoiler


def _retry_after(fault: Fault) -> tuple[tuple[str, str], ...]:
    if fault.retry_after is None:
        return ()
    if fault.retry_after_as == "http-date":
        return (("retry-after", formatdate(time.time() + fault.retry_after, usegmt=True)),)
    return (("retry-after", f"{fault.retry_after:g}"),)
