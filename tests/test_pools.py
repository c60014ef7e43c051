"""Pools of connections, one for each request at a time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from nanobanana_blocks.pools import PoolPerRequest
from tests.support.virtual_time import run_in_virtual_time


class Pool:
    """Something to close."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


def test_the_last_used_comes_first_and_the_others_go() -> None:
    """Rule: no more pools than requests at once, and after a crowd only those that are used."""

    async def use() -> None:
        pools = PoolPerRequest(Pool, idle_seconds=5)
        async with AsyncExitStack() as requests:
            crowd = [await requests.enter_async_context(pools.taken()) for _ in range(3)]
        first_opened = crowd[0]
        for _ in range(4):
            await asyncio.sleep(2)
            async with pools.taken() as pool:
                assert pool is first_opened
        assert [one.closed for one in crowd] == [0, 1, 1]
        await asyncio.sleep(3600)
        async with pools.taken() as pool:
            assert pool is first_opened
            await pools.aclose()
        assert [one.closed for one in crowd] == [1, 1, 1]

    run_in_virtual_time(use())
