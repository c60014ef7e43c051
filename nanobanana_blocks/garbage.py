"""Python's garbage collector in a program that holds very many objects for a long time.

It is for entry points, a flow or a command: the collector is the whole process's, which no library
call should change. What is not part of a cycle is freed as always.
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LONGEST_COLLECTION_SECONDS = 0.03
"""A full collection that took longer is the last one that looked at those objects."""

_OLDEST = 2


@asynccontextmanager
async def short_collections(longest: float = LONGEST_COLLECTION_SECONDS) -> AsyncIterator[None]:
    """Keep full collections short, and so the event loop responsive, while the block lasts.

    A full collection looks at every object that is tracked: with a hundred thousand waits it stops
    the event loop for seconds. Here, what is there at the start, and what a long collection has
    left, is frozen, so that later collections pass it over. Cycles among what is frozen are
    collected after the block.

    Args:
        longest: Seconds of CPU that a full collection takes before its survivors are frozen.
    """
    watch = _CollectionWatch(longest)
    gc.freeze()
    gc.callbacks.append(watch.note)
    _Depth.blocks += 1
    try:
        yield
    finally:
        gc.callbacks.remove(watch.note)
        _Depth.blocks -= 1
        if not _Depth.blocks:
            gc.unfreeze()


class _Depth:
    """How many blocks are under way: a flow may run another in the same process."""

    blocks = 0


class _CollectionWatch:
    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._began = 0.0

    def note(self, phase: str, about: dict[str, int]) -> None:
        if about["generation"] < _OLDEST:
            return
        if phase == "start":
            self._began = time.thread_time()
        elif time.thread_time() - self._began > self._longest:
            gc.freeze()
