"""Which connections to the API's host are used, and for how long they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from nanobanana_blocks.api.connection import Connection
from tests.support.until import until

AT_ONCE = 8
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Host:
    """A server that keeps connections open, and counts them."""

    def __init__(self) -> None:
        self.url = ""
        self.open = 0
        self.accepted = 0
        self.answering = asyncio.Event()
        self.answering.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.accepted += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await self.answering.wait()
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.open -= 1
        finally:
            writer.close()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    made = Host()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield made
    listener.close()


async def ask(connection: Connection, times: int = 1) -> None:
    await asyncio.gather(*(connection.exchange("GET", "/x") for _ in range(times)))


async def ask_all_at_once(connection: Connection, host: Host) -> None:
    host.answering.clear()
    asking = asyncio.create_task(ask(connection, 3 * AT_ONCE))
    await until(lambda: host.open == AT_ONCE)
    host.answering.set()
    await asking


async def test_one_request_after_another_needs_one_connection(host: Host) -> None:
    """Rule: what was opened is used again, also after there were more at once."""
    connection = Connection("key", host.url, timeout=60, max_connections=AT_ONCE, idle_seconds=3600)
    for _ in range(5):
        await ask(connection)
    assert host.accepted == 1
    await ask_all_at_once(connection, host)
    for _ in range(5):
        await ask(connection)
    assert host.accepted == host.open == AT_ONCE
    await connection.aclose()
    await until(lambda: host.open == 0)


async def test_connections_that_are_not_needed_are_closed(host: Host) -> None:
    """Rule: after a crowd, a connection is kept only for as long as it is in use now and then."""
    connection = Connection("key", host.url, timeout=60, max_connections=AT_ONCE, idle_seconds=0.2)
    await ask_all_at_once(connection, host)

    async def asked_until_one_is_left() -> bool:
        await ask(connection)
        return host.open == 1

    await until(asked_until_one_is_left)
    await connection.aclose()


async def test_a_request_that_is_cancelled_takes_no_place(host: Host) -> None:
    """Rule: as many requests as before fit in after some were given up half-way."""
    connection = Connection("key", host.url, timeout=60, max_connections=AT_ONCE)
    for _ in range(3):
        host.answering.clear()
        asking = asyncio.create_task(ask(connection, AT_ONCE))
        await until(lambda: host.open == AT_ONCE)
        asking.cancel()
        host.answering.set()
        await until(lambda: host.open == 0)
    await ask_all_at_once(connection, host)
    await connection.aclose()


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_request_that_is_cancelled_leaves_no_connection(host: Host, *, fresh: bool) -> None:
    """Rule: whatever it was about to do, also to use a connection that has just been made."""
    connection = Connection("key", host.url, timeout=60, max_connections=AT_ONCE)
    host.answering.clear()
    for steps in range(60):
        asking = asyncio.create_task(connection.exchange("GET", "/x", fresh=fresh))
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
    host.answering.set()
    await until(lambda: host.open == 0)
    assert host.accepted > 0
    await connection.aclose()
