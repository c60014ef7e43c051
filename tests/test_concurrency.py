"""Companions end with the block they belong to, and SIGTERM ends the block wherever it arrives."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from nanobanana_blocks.concurrency import background_task, run_concurrently
from nanobanana_blocks.signals import cancelled_by_sigterm


class Terminated(BaseException):
    """What the handler raises, as Prefect's does, wherever the process is just then."""


def terminate(*_: object) -> None:
    raise Terminated


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
@pytest.mark.parametrize("where", ["in a callback", "in a task"])
async def test_sigterm_is_not_lost(where: str) -> None:
    """Rule: a signal whose exception asyncio keeps to itself ends the block all the same."""
    raised = []

    def be_hit() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Terminated as termination:
            raised.append(termination)
            raise

    async def be_hit_in_a_task() -> None:
        be_hit()

    async def block() -> None:
        async with cancelled_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) is terminate
            if where == "in a task":
                running = asyncio.create_task(be_hit_in_a_task())
            else:
                running = asyncio.get_running_loop().call_soon(be_hit)
            assert running
            await endless()

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(block())
    assert len(raised) == 1


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
