"""Background tasks that belong to a block of code: none outlives it, no signal is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def alongside(coroutine: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Run a coroutine for as long as the block lasts.

    What it raises is not told, but for one thing: Prefect's workers end a run by a signal, which
    raises wherever the process is just then. Where that is in the coroutine, the block is
    cancelled.
    """
    owner = asyncio.current_task()
    companion = asyncio.create_task(coroutine)

    def end_owner(_: object) -> None:
        if owner and termination_of(companion):
            owner.cancel()

    companion.add_done_callback(end_owner)
    try:
        yield
    finally:
        companion.remove_done_callback(end_owner)
        companion.cancel()
        await asyncio.gather(companion, return_exceptions=True)


def termination_of(task: asyncio.Task[Any]) -> BaseException | None:
    """What a task that is done was ended by, if it is meant to end the process."""
    failure = None if task.cancelled() else task.exception()
    return None if isinstance(failure, Exception) else failure
