"""Companions end with the block they belong to, and SIGTERM ends the block wherever it arrives."""

import asyncio
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Coroutine, Generator, Iterator
from typing import Any

import pytest

from nanobanana_blocks.concurrency import (
    background_task,
    map_concurrently,
    restarting,
    run_concurrently,
)
from nanobanana_blocks.signals import (
    STOP_SIGNALS,
    cancelled_by_sigterm,
    finish_despite_cancellation,
    handling_stop_signals,
)


class Terminated(BaseException):
    """What the handler raises, as Prefect's does, wherever the process is just then."""


def terminate(*_: object) -> None:
    raise Terminated


class LockedWhenHit:
    """A lock that Python code takes, as `threading.Condition` does: signals come in just after."""

    def __init__(self) -> None:
        self.taken = threading.Lock()

    def __enter__(self) -> None:
        self.taken.acquire()
        signal.raise_signal(signal.SIGTERM)

    def __exit__(self, *_: object) -> None:
        self.taken.release()


@types.coroutine
def hit_while_it_waits(work: Coroutine[Any, Any, object]) -> Generator[Any, Any, None]:
    """Run a coroutine in which a handler raises as soon as it waits for something."""
    work.send(None)
    yield
    awaited = work.throw(Terminated())
    while True:
        try:
            yield awaited
            awaited = work.send(None)
        except StopIteration:
            return


@pytest.fixture
def handler() -> Iterator[None]:
    """A handler like Prefect's is in place."""
    before = signal.signal(signal.SIGTERM, terminate)
    yield
    assert signal.getsignal(signal.SIGTERM) is terminate
    signal.signal(signal.SIGTERM, before)


async def endless() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("its own")


async def crash_with_a_secret() -> None:
    raise LookupError("sk-secret")


async def test_a_companion_ends_with_its_block() -> None:
    """Rule: nothing is left running, whether the block ends well or not."""
    before = asyncio.all_tasks()
    async with background_task(endless()):
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == len(before) + 1
    with pytest.raises(ValueError, match="ours"):
        async with background_task(endless()):
            raise ValueError("ours")
    assert asyncio.all_tasks() == before


async def test_an_error_of_a_companion_is_its_own() -> None:
    """Rule: a convenience that fails does not end what it runs beside."""
    async with background_task(fail()):
        await asyncio.sleep(0.01)


async def test_the_first_to_raise_ends_all() -> None:
    """Rule: the error of any, not only of the first, is raised at once, and the others end."""
    before = asyncio.all_tasks()
    with pytest.raises(ValueError, match="its own"):
        await run_concurrently([endless(), endless(), fail()])
    assert asyncio.all_tasks() == before


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("where", ["in a callback", "in a task", "in the block"])
async def test_sigterm_is_neither_lost_nor_raised_in_the_midst(where: str) -> None:
    """Rule: wherever it comes, the block is cancelled, and a lock just taken is released."""
    lock = LockedWhenHit()

    def be_hit() -> None:
        with lock:
            pass

    async def be_hit_in_a_task() -> None:
        be_hit()

    async def block() -> None:
        async with cancelled_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) is terminate, "whoever asks finds Prefect's"
            if where == "in a task":
                running = asyncio.create_task(be_hit_in_a_task())
            elif where == "in a callback":
                running = asyncio.get_running_loop().call_soon(be_hit)
            else:
                running = be_hit()  # type: ignore[func-returns-value]
            await endless()
            assert running

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(block())
    assert not lock.taken.locked()


@pytest.mark.usefixtures("handler")
async def test_sigterm_after_the_block_is_prefects() -> None:
    """Rule: what comes after the block is as it was before it."""
    async with cancelled_by_sigterm():
        pass
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)


async def test_the_loops_own_handler_stays() -> None:
    """Rule: a server in whose event loop a flow runs goes on to hear its signals."""
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    try:
        async with cancelled_by_sigterm():
            pass
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(heard.wait(), 10)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@pytest.mark.usefixtures("handler")
async def test_a_block_in_another_thread_runs_too() -> None:
    """Rule: where signals cannot be handled the block is run without."""

    async def block() -> str:
        async with cancelled_by_sigterm():
            return "done"

    assert await asyncio.to_thread(lambda: asyncio.run(block())) == "done"


async def test_a_crash_in_the_background_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Rule: what is left out of a run is said, with its class and place, never its text."""
    async with background_task(crash_with_a_secret()):
        await asyncio.sleep(0.01)
    [line] = [record.getMessage() for record in caplog.records]
    assert "crash_with_a_secret crashed (LookupError at test_concurrency.py:" in line
    assert "continuing without it" in line
    assert "sk-secret" not in line


async def test_an_end_in_the_background_is_not_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """Rule: neither the end of the block nor of the work is reported."""
    async with background_task(asyncio.sleep(0)), background_task(endless()):
        await asyncio.sleep(0.01)
    assert not caplog.records


async def test_restarted_work_goes_on_after_crashes(caplog: pytest.LogCaptureFixture) -> None:
    """Rule: work that a run needs is started again, and the same crash is reported once."""
    starts: list[int] = []
    done = asyncio.Event()

    async def work() -> None:
        starts.append(len(starts))
        if len(starts) < 4:
            await crash_with_a_secret()
        done.set()

    async with background_task(restarting(work, pause=0)):
        await asyncio.wait_for(done.wait(), 30)
    assert starts == [0, 1, 2, 3]
    assert len(caplog.records) == 1
    assert "sk-secret" not in caplog.text


@pytest.mark.parametrize("stop_signal", STOP_SIGNALS)
def test_a_stop_signal_is_handled_and_the_handler_put_back(stop_signal: signal.Signals) -> None:
    """Rule: servers stop on SIGINT and SIGTERM alike, and leave signals as they were."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    stopped: list[None] = []
    with handling_stop_signals(lambda: stopped.append(None)):
        signal.raise_signal(stop_signal)
    assert stopped == [None]
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


HANDLER_FROM_C = """
import asyncio, ctypes, signal
from nanobanana_blocks.signals import cancelled_by_sigterm, handling_stop_signals

handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: None)
install = ctypes.CDLL(None).signal
install.argtypes = [ctypes.c_int, type(handler)]
install(signal.SIGTERM, handler)
# Python learns of handlers when it starts; what was set afterwards it takes for its own.
signal.getsignal = lambda number, known=signal.getsignal: None if number == 15 else known(number)
set_handler = signal.signal
signal.signal = lambda n, h, known=signal.signal: (known(n, h), None)[1] if n == 15 else known(n, h)

async def main():
    async with cancelled_by_sigterm():
        print("ran")

asyncio.run(main())
with handling_stop_signals(lambda: print("stopped")):
    signal.raise_signal(signal.SIGTERM)
"""


def test_a_handler_set_from_c_breaks_nothing() -> None:
    """Rule: a program that embeds Python keeps its SIGTERM, and runs and servers do not crash."""
    ended = subprocess.run(
        [sys.executable, "-c", HANDLER_FROM_C], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == ["ran", "stopped"]


def test_work_that_ends_although_its_run_is_interrupted() -> None:
    """Rule: what raises out of the event loop, as at a signal, lets the work end first."""
    ended = []

    async def work() -> None:
        await asyncio.sleep(0.05)
        ended.append(True)

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.01, interrupt)
        await finish_despite_cancellation(work(), 60)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert ended


@pytest.mark.usefixtures("handler")
async def test_work_that_ends_although_sigterm_comes_in_its_midst() -> None:
    """Rule: the handler raises nothing in the work; it ends, and then the run does."""
    ended = []

    async def work() -> None:
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.01)
        with pytest.raises(ValueError, match="its own"):
            await fail()
        ended.append(True)

    async def block() -> None:
        async with cancelled_by_sigterm():
            await finish_despite_cancellation(work(), 60)
            assert signal.getsignal(signal.SIGTERM) is terminate
            await endless()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(block())
    assert ended


async def test_the_end_of_work_is_waited_for_whatever_its_caller_meets() -> None:
    """Rule: what a handler raises in the caller, not in the work, does not leave the work."""
    ended = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        ended.set()

    waiting = finish_despite_cancellation(work(), 60)
    with pytest.raises(Terminated):
        await hit_while_it_waits(waiting)
    assert ended.is_set()


async def test_work_that_takes_too_long_is_not_left_behind() -> None:
    """Rule: when its time is over, cancelled work has ended before its caller goes on."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    running = asyncio.create_task(finish_despite_cancellation(work(), 0.01))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_few_of_many_calls_are_under_way() -> None:
    """Rule: many items are mapped a few at a time, and the results are in their order."""
    under_way = peak = 0

    async def double(number: int) -> int:
        nonlocal under_way, peak
        under_way += 1
        peak = max(peak, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return 2 * number

    assert await map_concurrently(double, range(1000), at_once=7) == list(range(0, 2000, 2))
    assert peak == 7


async def test_calls_that_wait_for_nothing_give_others_a_turn() -> None:
    """Rule: a thousand answers that are known already do not hold the event loop up."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def known(number: int) -> int:
        return number

    async with background_task(take_turns()):
        assert await map_concurrently(known, range(1000)) == list(range(1000))
    assert turns >= 10
