"""A server that answers every request with the same bytes, for what the sandbox never says."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Respond = Callable[[bytes, asyncio.StreamWriter], object]


@dataclass
class RawServer:
    """Where it listens, and the heads of the requests that came."""

    url: str = ""
    requests: list[bytes] = field(default_factory=list)


def answer(body: bytes, status: str = "200 OK", media_type: str = "application/json") -> bytes:
    """One whole HTTP answer, after which the connection closes."""
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def success(task_id: str, *urls: str, **data: object) -> bytes:
    """record-info's answer for a task that is done, with these result URLs."""
    fields = {"taskId": task_id, "successFlag": 1, "response": {"resultImageUrl": urls}} | data
    return answer(json.dumps({"code": 200, "msg": "success", "data": fields}).encode())


@asynccontextmanager
async def raw_server(
    response: bytes,
    *,
    then_every: tuple[float, bytes] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RawServer]:
    """Serve `response` on a free port; `then_every` goes on with (seconds, bytes) without end."""
    server = RawServer()
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)
        while then_every:
            await asyncio.sleep(then_every[0])
            writer.write(then_every[1])
            await writer.drain()
        await writer.drain()
        writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.ensure_future(serve(reader, writer))
        clients.add(client)
        client.add_done_callback(clients.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
