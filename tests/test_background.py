"""Companions end with the block they belong to; what is meant to end the process gets through."""

import asyncio

import pytest

from nanobanana_blocks.background import alongside
from nanobanana_blocks.landing import side_by_side


class Terminated(BaseException):
    """What a signal handler raises, wherever the process is just then."""


async def endless() -> None:
    await asyncio.Event().wait()


async def fails_with(error: BaseException) -> None:
    raise error


async def test_a_companion_ends_with_its_block() -> None:
    """Rule: nothing is left running, whether the block ends well or not."""
    before = asyncio.all_tasks()
    async with alongside(endless()):
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == len(before) + 1
    with pytest.raises(ValueError, match="ours"):
        async with alongside(endless()):
            raise ValueError("ours")
    assert asyncio.all_tasks() == before


async def test_an_error_of_a_companion_is_its_own() -> None:
    """Rule: a convenience that fails does not end what it runs beside."""
    async with alongside(fails_with(ValueError("its own"))):
        await asyncio.sleep(0.01)


async def test_a_termination_in_a_companion_cancels_the_block() -> None:
    """Rule: a signal that raises in a background task ends the run all the same."""

    async def work() -> None:
        async with alongside(fails_with(Terminated())):
            await endless()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())


@pytest.mark.parametrize("error", [ValueError("its own"), Terminated()])
async def test_the_first_to_raise_ends_all(error: BaseException) -> None:
    """Rule: the error of any, not only of the first, is raised at once, and the others end."""
    before = asyncio.all_tasks()
    with pytest.raises(type(error)):
        await side_by_side([endless(), endless(), fails_with(error)])
    assert asyncio.all_tasks() == before
