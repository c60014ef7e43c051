"""One run of the main flow for `benchmarks/waking.py`, in a process of its own; prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from flows.land_images import land_images
from nanobanana_blocks import PollPolicy

if __name__ == "__main__":
    task_ids, folder = json.loads(sys.argv[1])
    report = asyncio.run(
        land_images(task_ids, folder, poll=PollPolicy.documented(), allow_partial=True)
    )
    print(json.dumps(report.counts))
