"""What SIGINT and SIGTERM end, a block of a flow run or one of our servers, and what ends first."""

from __future__ import annotations

import asyncio
import signal
import threading
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, TypeVar

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")

_listening: set[asyncio.AbstractEventLoop] = set()
"""The event loop that listens for SIGTERM for `cancelled_by_sigterm`, if there is one."""


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
    _listening.add(loop)
    try:
        yield
    finally:
        _listening.discard(loop)
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


async def finish_despite_cancellation(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run what must not be left half done; when cancelled, have it end first, within `seconds`.

    A run is cancelled in three ways. Its own task is, from which a shield keeps the work. Where a
    signal's handler raises out of the event loop, as Prefect's does at the SIGTERM by which its
    workers end a run, `asyncio.run` cancels every task that is registered, the shielded ones too.
    There is no public way not to be among those, so the work's task is taken off asyncio's list;
    here and nowhere else, and never for longer than the work lasts. And the handler may raise in
    the midst of the work, or of the wait for it.
    """

    async def whole() -> T:
        return await _uninterrupted(work)

    task = asyncio.create_task(whole())
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


@types.coroutine
def _uninterrupted(work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Run a coroutine in whose midst the handler of SIGTERM raises nothing.

    While a step of it runs, within `cancelled_by_sigterm`, the event loop alone gets the signal.
    Should Prefect ask for its handler just then, it tells of a crash instead of a cancellation.
    """
    step: Callable[[], Any] = partial(work.send, None)
    while True:
        try:
            awaited = _unheard(step)
        except StopIteration as ended:
            result: T = ended.value
            return result
        try:
            step = partial(work.send, (yield awaited))
        except BaseException as error:  # whatever it is, it is the coroutine's
            step = partial(work.throw, error)


def _unheard(step: Callable[[], T]) -> T:
    if not _listening or threading.current_thread() is not threading.main_thread():
        return step()
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        return step()
    finally:
        signal.signal(signal.SIGTERM, handler)


def _now() -> float:
    return asyncio.get_running_loop().time()
