"""One run of one contender of `benchmarks/cost.py`, in a process of its own; prints JSON.

Before the clocks start, the contender has landed one image: what is only imported, or set up once
in a process, is done by then.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import plain_script
from flows.land_images import land_images
from nanobanana_blocks import PollPolicy
from nanobanana_blocks.sandbox import SandboxControl, TaskPlan


class Job(NamedTuple):
    """What a contender is to do; times are seconds."""

    contender: str
    tasks: int
    folder: str
    base_url: str
    api_key: str
    requests_per_second: float


async def run(job: Job) -> dict[str, Any]:
    sandbox = SandboxControl(job.base_url, job.api_key)
    sandbox.reset()
    await land([sandbox.add_task(TaskPlan(seconds=0))], job, Path(job.folder) / "warm-up")
    sandbox.reset()
    task_ids = sandbox.add_tasks([TaskPlan()] * job.tasks)
    wall, cpu = time.monotonic(), time.process_time()
    await land(task_ids, job, Path(job.folder) / "images")
    return {
        "cpu_at_start": cpu,
        "cpu_inside": time.process_time() - cpu,
        "wall": time.monotonic() - wall,
        "requests": sandbox.stats().requests["record-info"],
        "slowest": max(sandbox.stats().done_at.values()) - min(sandbox.stats().done_at.values()),
    }


async def land(task_ids: list[str], job: Job, folder: Path) -> None:
    policy = PollPolicy(requests_per_second=job.requests_per_second)
    if job.contender == "flow":
        await land_images(task_ids, str(folder), poll=policy)
    else:
        await plain_script.land(task_ids, folder, job.base_url, job.api_key, policy)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Job(**json.loads(sys.argv[1]))))))
