"""Full garbage collections stay short while a block lasts, and are as always after it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from nanobanana_blocks.garbage import short_collections

NEVER, ALWAYS = float("inf"), -1.0


@pytest.fixture(autouse=True)
def _nothing_frozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


async def test_what_is_there_at_the_start_is_passed_over() -> None:
    """A full collection looks at none of it, and the collector is as before after the block."""
    callbacks = list(gc.callbacks)
    async with short_collections(NEVER):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == callbacks


async def test_survivors_of_a_long_collection_are_passed_over() -> None:
    """So that no later collection takes as long again."""
    async with short_collections(ALWAYS):
        crowd = [[number] for number in range(5000)]
        gc.collect()
        assert not {id(one) for one in crowd} & {id(one) for one in gc.get_objects()}


async def test_survivors_of_a_short_collection_are_looked_at_again() -> None:
    """Cycles among them are found."""
    async with short_collections(NEVER):
        crowd = [[number] for number in range(5000)]
        gc.collect()
        assert {id(one) for one in crowd} <= {id(one) for one in gc.get_objects()}


async def test_the_outer_of_two_blocks_keeps_what_is_frozen() -> None:
    """A flow may run another one in its process."""
    async with short_collections(NEVER):
        async with short_collections(NEVER):
            pass
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


async def test_an_error_leaves_the_collector_as_it_was() -> None:
    """Whatever ends the block."""
    with pytest.raises(ValueError, match="of the block"):
        async with short_collections():
            raise ValueError("of the block")
    assert gc.get_freeze_count() == 0
