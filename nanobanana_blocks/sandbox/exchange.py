"""One HTTP exchange seen from the server, down to the socket.

ASGI has no word for a connection that simply breaks, so the protocol class here lends the
application its transport. It knows nothing of the API.
"""

from __future__ import annotations

import hmac
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from asyncio import Transport
    from collections.abc import Awaitable, Callable

    Scope = dict[str, Any]
    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

TRANSPORT = "nanobanana.transport"
REQUEST_NUMBER = "nanobanana.request_number"

OPEN_TO_BROWSERS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"retry-after"),
)
"""Headers by which a page from anywhere may read an answer; no cookies are sent or kept here."""


class BreakableProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with the connection's transport in the ASGI scope."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override] # as its base
        super().connection_made(transport)
        application: Any = self.app

        requests = itertools.count(1)

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            scope[TRANSPORT] = transport
            scope[REQUEST_NUMBER] = next(requests)
            await application(scope, receive, send)

        self.app = with_transport


@dataclass(slots=True)
class Answer:
    """A complete answer, ready to be sent or to be thrown away."""

    body: bytes
    status: int = 200
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class BodyTooLargeError(Exception):
    """The client sent more than it may; `read_body` raises it."""


class Exchange:
    """One request and the means to answer it, properly or not."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.query: bytes = scope["query_string"]
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.is_first_on_connection: bool = scope[REQUEST_NUMBER] == 1
        self.opens_to_browsers = False
        self._transport: Transport = scope[TRANSPORT]
        self._receive = receive
        self._send = send

    def header(self, name: bytes) -> bytes:
        """A request header by its lower-case name; empty when absent."""
        for key, value in self._headers:
            if key == name:
                return value
        return b""

    def bears(self, key: str) -> bool:
        """Whether the request is authorized by this key."""
        return hmac.compare_digest(self.header(b"authorization"), f"Bearer {key}".encode())

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._transport.is_closing()

    async def read_body(self, at_most: int) -> bytes:
        """The request body; raises `BodyTooLargeError` beyond `at_most` bytes."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > at_most:
                raise BodyTooLargeError
            if not message.get("more_body", False):
                return b"".join(parts)

    async def answer(self, answer: Answer) -> None:
        """Send a complete answer."""
        await self.begin(
            answer.status, answer.media_type, length=len(answer.body), headers=answer.headers
        )
        await self._send({"type": "http.response.body", "body": answer.body})

    async def begin(
        self,
        status: int,
        media_type: str,
        *,
        length: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Send the head of an answer; without a length the body is chunked."""
        lines = [(b"content-type", media_type.encode())]
        if length is not None:
            lines.append((b"content-length", b"%d" % length))
        lines.extend((name.encode(), value.encode()) for name, value in headers)
        if self.opens_to_browsers:
            lines.extend(OPEN_TO_BROWSERS)
        await self._send({"type": "http.response.start", "status": status, "headers": lines})

    async def answer_preflight(self) -> None:
        """Let a browser send what it asks whether it may."""
        wanted = self.header(b"access-control-request-headers").decode("latin-1")
        headers = (
            ("access-control-allow-methods", "GET, HEAD, POST"),
            ("access-control-allow-headers", wanted or "authorization, content-type"),
            ("access-control-allow-private-network", "true"),
            ("access-control-max-age", "600"),
        )
        await self.answer(Answer(b"", headers=headers))

    async def piece(self, data: bytes) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the body as HTTP wants it."""
        await self._send({"type": "http.response.body", "body": b""})

    async def close(self) -> None:
        """Close the connection once what was written is out, whatever was promised."""
        self._transport.close()
        await self._departure()

    async def drop(self) -> None:
        """Break the connection at once."""
        self._transport.abort()
        await self._departure()

    async def raw(self, data: bytes) -> None:
        """Write bytes past HTTP, then close."""
        self._transport.write(data)
        await self.close()

    async def _departure(self) -> None:
        # uvicorn would otherwise take the unanswered request for a bug and report it.
        while (await self._receive())["type"] != "http.disconnect":
            pass
