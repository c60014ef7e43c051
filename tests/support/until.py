"""Waits in tests for what must come to be elsewhere: in another task, thread or process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.02
MAX_LOOKS = 9000


async def until(condition: Callable[[], T | Awaitable[T]]) -> T:
    """Return what a condition gives as soon as it is true; fail where it never is."""
    for _ in range(MAX_LOOKS):
        answer = condition()
        found = await answer if isinstance(answer, Awaitable) else answer
        if found:
            return found
        await asyncio.sleep(LOOK_SECONDS)
    raise AssertionError("it has not come to be")


def block_until(condition: Callable[[], T]) -> T:
    """Likewise, where there is no event loop, or it shall stand still meanwhile."""
    for _ in range(MAX_LOOKS):
        if found := condition():
            return found
        time.sleep(LOOK_SECONDS)
    raise AssertionError("it has not come to be")
