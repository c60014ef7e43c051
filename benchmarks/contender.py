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
    """What a contender is to do: `flow` or `plain`, with so many tasks, into which folder."""

    contender: str
    tasks: int
    folder: str
    base_url: str
    api_key: str
    poll: dict[str, Any]


async def run(job: Job) -> dict[str, Any]:
    """Land one image, then all, and tell what the latter took."""
    sandbox = SandboxControl(job.base_url, job.api_key)
    sandbox.reset()
    warm_up, images = Path(job.folder) / "warm-up", Path(job.folder) / "images"
    warm_up.mkdir()
    images.mkdir()
    await land([sandbox.add_task(TaskPlan(seconds=0))], job, warm_up)
    sandbox.reset()
    task_ids = sandbox.add_tasks([TaskPlan()] * job.tasks)
    wall, cpu = time.monotonic(), time.process_time()
    await land(task_ids, job, images)
    wall = time.monotonic() - wall
    stats = sandbox.stats()
    return {"cpu_at_start": cpu, "wall": wall, "requests": stats.requests["record-info"]}


async def land(task_ids: list[str], job: Job, folder: Path) -> None:
    poll = PollPolicy(**job.poll)
    if job.contender == "flow":
        await land_images(task_ids, str(folder), poll=poll)
    else:
        await plain_script.land(task_ids, folder, job.base_url, job.api_key, poll)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Job(**json.loads(sys.argv[1]))))))
