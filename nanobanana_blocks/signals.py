"""What SIGINT and SIGTERM end, a block of a flow run or one of our servers, and what ends first."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


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
    """Have SIGTERM, by which Prefect's workers end a run, cancel the block and do nothing else.

    Prefect's handler raises wherever the process is just then: in a callback, where asyncio keeps
    the exception and the run goes on; in the midst of a submit, which is then in doubt; or where a
    lock was taken a moment ago, which stays locked. So the event loop hears the signal instead.

    Prefect asks, before it cancels a run, whether the handler is its own, which it knows by a name
    in its module: meanwhile, the event loop's handler has that name. Nothing is done where the
    event loop listens to signals already, as a server's may, or where the handler was not set from
    Python and so could not be put back.
    """
    loop, block = asyncio.get_running_loop(), asyncio.current_task()

    def end() -> None:
        if block:
            block.cancel()

    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or not _listen(loop, end):
        yield
        return
    names, name = getattr(handler, "__globals__", {}), getattr(handler, "__name__", "")
    is_named = names.get(name) is handler
    if is_named:
        names[name] = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, handler)
        if is_named:
            names[name] = handler


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


async def finish_despite_cancellation(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run what must not be left half done; when cancelled, have it end first, within `seconds`.

    A run is cancelled in two ways. Its own task is, from which a shield keeps the work. And where
    an exception leaves the event loop, as at a second Ctrl-C, `asyncio.run` cancels every task that
    is registered, the shielded ones too. There is no public way not to be among those, so the
    work's task is taken off asyncio's list; here and nowhere else, and never for longer than the
    work lasts.
    """
    task = asyncio.create_task(work)
    asyncio._unregister_task(task)
    try:
        return await asyncio.shield(task)
    except BaseException:
        give_up_at = _now() + seconds
        while not task.done() and (left := give_up_at - _now()) > 0:
            with suppress(asyncio.CancelledError):  # whoever runs this is being cancelled as well
                await asyncio.wait([task], timeout=left)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _now() -> float:
    return asyncio.get_running_loop().time()
