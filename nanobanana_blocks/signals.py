"""How a worker's SIGTERM ends a block of code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def cancelled_by_sigterm() -> AsyncIterator[None]:
    """Have SIGTERM, by which Prefect's workers end a run, cancel the block.

    Prefect's handler raises wherever the process is just then. Where that is in a callback, or in a
    task that nobody awaits, asyncio keeps it there, and the run would go on until it is killed. The
    handler stays in its place: a run that is to be cancelled is asked whether it has it. Where the
    event loop listens to signals already, as a server's may, nothing is done.
    """
    loop, block = asyncio.get_running_loop(), asyncio.current_task()

    def end() -> None:
        if block:
            block.cancel()

    prefects = signal.getsignal(signal.SIGTERM)
    if not _listen(loop, end):
        yield
        return
    signal.signal(signal.SIGTERM, prefects)  # beside it, the loop is still woken and told
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, prefects)


def _listen(loop: asyncio.AbstractEventLoop, to_sigterm: Callable[[], None]) -> bool:
    """Have the loop told of SIGTERM, where that is possible and takes it from nobody."""
    try:
        listener = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(listener)
        if listener != -1:
            return False
        loop.add_signal_handler(signal.SIGTERM, to_sigterm)
    except (RuntimeError, ValueError, NotImplementedError):  # not the main thread, or on Windows
        return False
    return True
