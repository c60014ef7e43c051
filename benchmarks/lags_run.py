"""One path of `benchmarks/lags.py`, in a process of its own; prints what landed, as JSON.

Before the tasks are made, one image has landed: what is only imported is imported by then.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import plain_script
from flows.land_images import land_images
from flows.run_batch import run_batch
from nanobanana_blocks import PollPolicy
from nanobanana_blocks.sandbox import SandboxControl, TaskPlan


class Job(NamedTuple):
    """By which path so many tasks are to land in a folder; `receiver` is a callback address."""

    path: str
    tasks: int
    folder: str
    base_url: str
    api_key: str
    poll: dict[str, Any]
    receiver: str | None = None


async def run(job: Job) -> None:
    sandbox = SandboxControl(job.base_url, job.api_key)
    folder, warm_up = Path(job.folder) / "images", Path(job.folder) / "warm-up"
    folder.mkdir()
    poll = PollPolicy(**job.poll)
    await land_images([sandbox.add_task(TaskPlan(seconds=0))], str(warm_up))
    sandbox.reset()
    if job.path == "batch":
        manifest = Path(job.folder) / "prompts.jsonl"
        rows = (json.dumps({"prompt": f"Product {number}"}) for number in range(job.tasks))
        manifest.write_text("".join(f"{row}\n" for row in rows))
        await run_batch(str(manifest), str(folder), poll=poll, allow_partial=True)
        return
    task_ids = sandbox.add_tasks([TaskPlan(callback_url=job.receiver)] * job.tasks)
    if job.path == "plain":
        await plain_script.land(task_ids, folder, job.base_url, job.api_key, poll)
    else:
        await land_images(task_ids, str(folder), poll=poll, allow_partial=True)


if __name__ == "__main__":
    asyncio.run(run(Job(**json.loads(sys.argv[1]))))
    print("{}")
