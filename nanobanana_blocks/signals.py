"""What SIGINT and SIGTERM end: a block of a flow run, or one of our servers."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handling_stop_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Have SIGINT and SIGTERM call `stop` for as long as the block lasts; for the main thread.

    The handlers from before are put back. One that was not set from Python cannot be: the
    signal's default takes its place.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def wait_for_stop_signal() -> None:
    """Block the main thread until SIGINT or SIGTERM."""
    stopped = threading.Event()
    with handling_stop_signals(stopped.set):
        stopped.wait()


@asynccontextmanager
async def cancelled_by_sigterm() -> AsyncIterator[None]:
    """Have SIGTERM, by which Prefect's workers end a run, cancel the block.

    Prefect's handler raises wherever the process is just then. Where that is in a callback, or in a
    task that nobody awaits, asyncio keeps it there, and the run would go on until it is killed. The
    handler stays in its place: a run that is to be cancelled is asked whether it has it. Nothing is
    done where the event loop listens to signals already, as a server's may, or where the handler
    was not set from Python and so could not be put back.
    """
    loop, block = asyncio.get_running_loop(), asyncio.current_task()

    def end() -> None:
        if block:
            block.cancel()

    handler = signal.getsignal(signal.SIGTERM)
    if handler is None or not _listen(loop, end):
        yield
        return
    signal.signal(signal.SIGTERM, handler)  # beside it, the loop still gets the signal
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, handler)


def _listen(loop: asyncio.AbstractEventLoop, on_sigterm: Callable[[], None]) -> bool:
    """Have the loop listen for SIGTERM, where that is possible and takes it from nobody."""
    try:
        listener = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(listener)
        if listener != -1:
            return False
        loop.add_signal_handler(signal.SIGTERM, on_sigterm)
    except (RuntimeError, ValueError, NotImplementedError):  # not the main thread, or on Windows
        return False
    return True
