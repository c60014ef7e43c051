"""One row of `benchmarks/scale.py`: a crowd of generation tasks in one process; prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pulse import Pulse
from flows.land_images import land_images
from nanobanana_blocks import LandingReport, NanoBananaClient, PollPolicy
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.sandbox import SandboxControl, TaskPlan
from nanobanana_blocks.storage.destination import Destination


class Job(NamedTuple):
    """What to land through (`flow` or `landing`), and how many tasks that take how many seconds."""

    through: str
    tasks: int
    seconds: float
    folder: str
    base_url: str
    api_key: str
    poll: dict[str, Any]


async def run(job: Job) -> dict[str, Any]:
    """Land one task, then the crowd, and tell how both went."""
    sandbox = SandboxControl(job.base_url, job.api_key)
    sandbox.reset()
    warm_up = [sandbox.add_task(TaskPlan(seconds=0))]
    first = await feel(warm_up, job, Path(job.folder) / "warm-up")
    sandbox.reset()
    task_ids = sandbox.add_tasks([TaskPlan(seconds=job.seconds)] * job.tasks)
    row = await feel(task_ids, job, Path(job.folder) / "images")
    stats = sandbox.stats()
    return row | {
        "first_stalls": first["stalls"],
        "first_bytes": first["peak_bytes"],
        "looks_received": stats.requests["record-info"],
        "images_asked_for": stats.requests["files"],
        "rate_limited": stats.rate_limited,
    }


async def feel(task_ids: list[str], job: Job, folder: Path) -> dict[str, Any]:
    """Land generation tasks, and tell how the event loop fared meanwhile."""
    pulse, started = Pulse(), time.monotonic()
    beating = asyncio.create_task(pulse.beat())
    report = await land(task_ids, job, folder)
    beating.cancel()
    return {
        "seconds": time.monotonic() - started,
        "landed": report.counts["landed"],
        "looks_taken": sum(outcome.polls for outcome in report.outcomes),
        "stalls": pulse.stalls,
        "peak_bytes": pulse.peak_bytes,
    }


async def land(task_ids: list[str], job: Job, folder: Path) -> LandingReport:
    poll = PollPolicy(**job.poll)
    if job.through == "flow":
        return await land_images(task_ids, str(folder), poll=poll, allow_partial=True)
    async with (
        NanoBananaClient(job.api_key, job.base_url) as client,
        aclosing(await Destination.open(str(folder))) as destination,
        open_lander(task_ids, client, destination, poll=poll) as landing,
    ):
        await landing.land_each(task_ids)
        return landing.report()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Job(**json.loads(sys.argv[1]))))))
