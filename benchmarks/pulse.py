"""How late an event loop's timers come, and how large its process is; it judges neither."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import NamedTuple

import psutil

TICK_SECONDS = 0.01
TICKS_PER_SAMPLE = 10
STALLS_KEPT = 4


class Stall(NamedTuple):
    """How late a timer came, when, and the CPU that this process spent meanwhile, at most as much.

    All in seconds; what is not CPU of this process went to other processes.
    """

    late: float
    at: float
    busy: float


class Pulse:
    """Feels an event loop's pulse: how late a 10 ms timer comes, and how large the process is.

    Attributes:
        stalls: The worst ones, the longest first.
        peak_bytes: The most resident memory seen, sampled every tenth of a second.
    """

    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self.peak_bytes = 0

    async def beat(self) -> None:
        process, began = psutil.Process(), time.monotonic()
        for tick in itertools.count():
            wall, busy = time.monotonic(), time.process_time()
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            late = now - wall - TICK_SECONDS
            stall = Stall(late, now - began, min(late, time.process_time() - busy))
            self.stalls = heapq.nlargest(STALLS_KEPT, [*self.stalls, stall])
            if tick % TICKS_PER_SAMPLE == 0:
                self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
