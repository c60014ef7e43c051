"""What fetching images may take: bytes shared by all, and time for each; it fetches nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class ByteBudget:
    """A number of bytes shared by all who hold some, given out first come, first served."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        """Bytes that nobody holds."""
        return self._free

    def hold(self) -> Reservation:
        """Return a reservation that holds nothing yet."""
        return Reservation(self)

    async def _take(self, size: int) -> int:
        wanted = min(size, self._capacity)
        if not self._waiting and wanted <= self._free:
            self._free -= wanted
            return wanted
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._free += wanted
            self._grant()
            raise
        return wanted

    def _give_back(self, size: int) -> None:
        self._free += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            wanted, granted = self._waiting[0]
            if not granted.done():
                if wanted > self._free:
                    return
                self._free -= wanted
                granted.set_result(None)
            self._waiting.popleft()


class Reservation:
    """Bytes of a budget that are held until given back."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    async def take(self, size: int) -> None:
        """Wait for `size` bytes; more than the whole budget counts as the whole budget."""
        self._size += await self._budget._take(size)

    def shrink(self, size: int) -> None:
        """Keep at most `size` bytes and give the rest back."""
        surplus = max(0, self._size - size)
        self._size -= surplus
        self._budget._give_back(surplus)

    def release(self) -> None:
        """Give all bytes back; doing so again does nothing."""
        self.shrink(0)


class TimeAllowance:
    """Seconds that all attempts at one image may take together, by whichever of its URLs."""

    def __init__(self, seconds: float) -> None:
        self.whole = self.left = seconds

    @contextmanager
    def spent(self) -> Iterator[anyio.CancelScope]:
        """Let a block take what is left, and no longer; `TimeoutError` ends it."""
        limit = None
        try:
            with anyio.fail_after(self.left) as limit:
                yield limit
        finally:
            if limit:
                self.left = max(0.0, limit.deadline - anyio.current_time())
