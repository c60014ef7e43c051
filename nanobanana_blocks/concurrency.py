"""Running coroutines together: many at once, or one in the background of a block of code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

STARTED_AT_ONCE = 25
"""After so many coroutines begun, others have a turn on the event loop."""


@asynccontextmanager
async def background_task(coroutine: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Run a coroutine for as long as the block lasts; what it raises is not told."""
    companion = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        companion.cancel()
        await asyncio.gather(companion, return_exceptions=True)


async def run_concurrently(
    coroutines: Iterable[Coroutine[Any, Any, object]], *, started_at_once: int = STARTED_AT_ONCE
) -> None:
    """Run many coroutines at the same time; when one raises, cancel the others and raise that.

    None of them is still running afterwards. `started_at_once` are begun before the event loop has
    a turn.
    """
    running: list[asyncio.Task[object]] = []
    try:
        for number, coroutine in enumerate(coroutines, start=1):
            running.append(asyncio.create_task(coroutine))
            if number % started_at_once == 0:
                await asyncio.sleep(0)
        if running:
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
            for task in ended:
                task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
