"""A proxy that holds back what clients send, as a long way does; its process prints its port."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.processes import ending, start

CHUNK = 1 << 16


@contextmanager
def slow_proxy(port: int, latency: float) -> Iterator[int]:
    """Stand before a port of this machine for as long as the block lasts; give the own port."""
    process = start(__name__, [port, latency])
    with ending(process):
        assert process.stdout
        yield int(process.stdout.readline())


async def listen(port: int, latency: float) -> tuple[asyncio.Server, int]:
    """Pass connections on to a port, and what comes from clients so many seconds later."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", port)
        ways = (_pass_on(reader, before, latency), _pass_on(behind, writer, 0.0))
        await asyncio.gather(*ways, return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency: float
) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(CHUNK):
        if latency:
            loop.call_later(latency, partial(writer.write, data))
        else:
            writer.write(data)
            await writer.drain()
    loop.call_later(latency, writer.close)


async def _serve(port: int, latency: float) -> None:
    server, own_port = await listen(port, latency)
    print(own_port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*json.loads(sys.argv[1])))
