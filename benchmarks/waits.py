"""Measures how one process bears waiting for 10,000 and for 100,000 generation tasks at a time.

There is no network: each poll is answered "generating" after 20 ms, within the request budget.
Measured are what the waits add to resident memory and the event loop's longest stall, while waits
begin, while they are polled, and when a refused key ends all of them at once. Each row is a process
of its own. What landing adds to a wait is measured by `benchmarks.scale`.

Run ``python -m benchmarks.waits``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.goals import at_most, begin, counts
from benchmarks.processes import measure
from benchmarks.pulse import Pulse
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.waiting import TaskWaiter
from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import NanoBananaError, Unauthorized
from nanobanana_blocks.garbage import short_collections

REQUESTS_PER_SECOND = 200.0
POLLED_SECONDS = 15.0
MAX_STALL_SECONDS = 0.25
MAX_MEGABYTES = {10_000: 150, 100_000: 1000}


async def crowd(tasks: int, seconds: float) -> dict[str, Any]:
    """Wait for tasks that never end, until the key is refused."""
    budget = RequestBudget(REQUESTS_PER_SECOND)
    is_refused = False
    polls: list[float] = []

    async def poll(task_id: str) -> TaskDetails:
        await budget.acquire()
        polls.append(time.monotonic())
        await asyncio.sleep(0.02)
        if is_refused:
            raise Unauthorized("the API refused the key (401).")
        return TaskDetails(task_id=task_id, status=TaskStatus.GENERATING)

    async def wait(task_id: str) -> None:
        with suppress(NanoBananaError):
            await waiter.watch(task_id, 3600).ended()

    async def refuse() -> None:
        nonlocal is_refused
        await asyncio.sleep(seconds)
        is_refused = True

    collections: list[float] = []
    gc.callbacks.append(partial(_note_collection, collections))
    waiter = TaskWaiter(poll, PollPolicy(requests_per_second=REQUESTS_PER_SECOND))
    pulse = Pulse()
    beating = asyncio.create_task(pulse.beat())
    refusing = asyncio.create_task(refuse())
    async with short_collections():
        await run_concurrently(wait(str(number)) for number in range(tasks))
    await refusing
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    left = waiter.waiting
    await waiter.aclose()
    return {
        "megabytes": pulse.peak_bytes / 1e6,
        "stalls": pulse.stalls,
        "polls": len(polls),
        "seconds": polls[-1] - polls[0] if polls else 0.0,
        "left": left,
        "longest_collection": max(collections, default=0.0),
    }


def _note_collection(collections: list[float], phase: str, _: object) -> None:
    now = time.thread_time()
    if phase == "start":
        collections.append(-now)
    else:
        collections[-1] += now


def report(tasks: int, seconds: float) -> None:
    row = measure("benchmarks.waits", [tasks, seconds])
    late, at, _ = row["stalls"][0]
    busy = max(stall[2] for stall in row["stalls"])
    most = MAX_MEGABYTES.get(tasks, 150)
    rate = row["polls"] / max(row["seconds"], 1.0)
    print(f"\n{tasks:,} tasks waited for at {REQUESTS_PER_SECOND:g} requests/s")
    print(
        f"  longest stall {late:.3f} s, at {at:.1f} s. CPU in the longest run of Python's garbage "
        f"collector: {row['longest_collection']:.3f} s"
    )
    at_most(f"{tasks:,} waits: resident", row["megabytes"], most, " MB")
    at_most(f"{tasks:,} waits: longest stall, CPU in it", busy, MAX_STALL_SECONDS, " s")
    at_most(f"{tasks:,} waits: requests/s", rate, REQUESTS_PER_SECOND * 1.01 + 1)
    counts(f"{tasks:,} waits: left when all have ended", row["left"], 0)


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1].startswith("["):
        print(json.dumps(asyncio.run(crowd(*json.loads(sys.argv[1])))))
        return
    smoke = begin(__doc__, "few tasks").smoke
    print("Waits: what waiting alone costs, without network, images and storage")
    for tasks in (1000,) if smoke else tuple(MAX_MEGABYTES):
        report(tasks, 1.0 if smoke else POLLED_SECONDS)


if __name__ == "__main__":
    main()
