"""Connections that are kept, each in a pool of its own, the last used first.

Of the connections that one pool keeps, httpcore tests every idle one at each request, which costs
as much as the request itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

import anyio


class Closable(Protocol):
    """What a pool of connections must have."""

    async def aclose(self) -> None:
        """Close its connections."""


P = TypeVar("P", bound=Closable)


class PoolPerRequest(Generic[P]):
    """As many pools as there were requests at once; how many that may be is the caller's.

    Args:
        make: Makes a pool.
        idle_seconds: How long a pool without a request is kept; the last one always is.
    """

    def __init__(self, make: Callable[[], P], *, idle_seconds: float) -> None:
        self._make = make
        self._idle_seconds = idle_seconds
        self._made: list[P] = []
        self._idle: list[tuple[float, P]] = []

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[P]:
        """A pool for one request; it is closed where the block raises.

        httpcore loses sight of a connection whose request is cancelled just when it is made
        (1.0.9): it would stay open for as long as its pool.
        """
        now = asyncio.get_running_loop().time
        while len(self._idle) > 1 and now() - self._idle[0][0] > self._idle_seconds:
            await self._close(self._idle.pop(0)[1])
        if self._idle:
            _, pool = self._idle.pop()
        else:
            pool = self._make()
            self._made.append(pool)
        try:
            yield pool
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._close(pool)
            raise
        self._idle.append((now(), pool))

    async def aclose(self) -> None:
        """Close all pools, those of requests under way included."""
        while self._made:
            await self._close(self._made[-1])

    async def _close(self, pool: P) -> None:
        if pool in self._made:
            self._made.remove(pool)
        await pool.aclose()
