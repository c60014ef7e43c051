"""One run of a batch for `benchmarks/rows.py`, in a process of its own; prints JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any, NamedTuple

from benchmarks.pulse import Pulse
from nanobanana_blocks import NanoBananaClient, PollPolicy
from nanobanana_blocks.batches.manifest import RowDefaults
from nanobanana_blocks.batches.opening import open_batch, read_manifest_near, summarise_ledger
from nanobanana_blocks.batches.reporting import keeping_report
from nanobanana_blocks.garbage import short_collections
from nanobanana_blocks.storage.destination import StorageLocation

REQUESTS_PER_SECOND = 1000.0
IN_FLIGHT = 200

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """The manifest's path, and where its images go."""

    manifest: str
    url: str
    options: dict[str, Any]
    base_url: str
    api_key: str


async def run(job: Job) -> dict[str, Any]:
    """Do what the command `nanobanana batch` does, and tell what it took."""
    began, cpu, pulse = time.monotonic(), time.process_time(), Pulse()
    beating = asyncio.create_task(pulse.beat())
    images = StorageLocation(job.url, job.options)
    poll = PollPolicy(requests_per_second=REQUESTS_PER_SECOND)
    found = await read_manifest_near(job.manifest, images, RowDefaults())
    async with (
        short_collections(),
        NanoBananaClient(job.api_key, job.base_url) as client,
        open_batch(
            client,
            images,
            job.manifest,
            found.digest,
            found.rows,
            timeout=600,
            in_flight=IN_FLIGHT,
            poll=poll,
            log=log,
        ) as batch,
    ):
        opened = time.monotonic() - began
        async with keeping_report(batch):
            await batch.process_each(batch.rows)
        await summarise_ledger(batch, log)
        counts = batch.report(finished=True).counts
    beating.cancel()
    return {
        "opened": opened,
        "wall": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "landed": counts["landed"],
        "already_landed": counts["already_landed"],
        "stalls": pulse.stalls,
        "megabytes": pulse.peak_bytes / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Job(**json.loads(sys.argv[1]))))))
