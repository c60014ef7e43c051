"""Measures how one process bears waiting for 10,000 and for 100,000 generation tasks at a time.

There is no network: each poll is answered "generating" after 20 ms, within the request budget.
Measured are what the waits add to resident memory and the event loop's longest stall, while waits
begin, while they are polled, and when a refused key ends all of them at once. Each row is a process
of its own. What landing adds to a wait is measured by `benchmarks.scale`.

Run ``python -m benchmarks.waits``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.polling import goal
from benchmarks.processes import interrupt_on_sigterm, measure
from benchmarks.pulse import Pulse
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.waiting import TaskWaiter
from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import NanoBananaError, Unauthorized

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


def report(tasks: int, seconds: float) -> bool:
    row = measure("benchmarks.waits", [tasks, seconds])
    late, at, busy = row["stalls"][0]
    most = MAX_MEGABYTES.get(tasks, 150)
    rate = row["polls"] / max(row["seconds"], 1.0)
    print(f"\n{tasks:,} tasks waited for at {REQUESTS_PER_SECOND:g} requests/s")
    print(
        f"  longest stall at {at:.1f} s; CPU of the loop's thread in it: {busy:.3f} s. Longest run "
        f"of Python's garbage collector: {row['longest_collection']:.3f} s"
    )
    return all(
        [
            goal(f"resident {row['megabytes']:.0f} MB <= {most} MB", met=row["megabytes"] <= most),
            goal(
                f"longest stall {late:.3f} s < {MAX_STALL_SECONDS:g} s",
                met=late < MAX_STALL_SECONDS,
            ),
            goal(
                f"{rate:.1f} requests/s within the budget; {row['left']} waits left",
                met=rate <= REQUESTS_PER_SECOND * 1.01 + 1 and row["left"] == 0,
            ),
        ]
    )


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1].startswith("["):
        print(json.dumps(asyncio.run(crowd(*json.loads(sys.argv[1])))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few tasks, too few to judge")
    smoke = parser.parse_args().smoke
    interrupt_on_sigterm()
    print("Waits: what waiting alone costs, without network, images and storage")
    if smoke:
        report(1000, 1.0)
        return 0
    met = [report(tasks, POLLED_SECONDS) for tasks in MAX_MEGABYTES]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
