"""Measures the plan of a dry run over 10,000 rows, in fresh processes: new ones, and landed ones.

It is planned as `nanobanana batch --dry-run` does it, against the sandbox and a local disk. Of what
has landed there are only images and receipts, each of which is read, as where the ledger was lost.

Run ``python -m benchmarks.plan``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.goals import at_most, begin, counts
from benchmarks.processes import measure
from benchmarks.rows import IMAGE_BYTES, run_batch, write_manifest
from benchmarks.sandbox_process import sandbox_process
from nanobanana_blocks.sandbox import SandboxSettings

ROWS = 10_000
MAX_SECONDS = 10.0
MAX_MEGABYTES = 300.0


class Job(NamedTuple):
    """The manifest's path, where its images would go, and the service."""

    manifest: str
    folder: str
    base_url: str
    api_key: str


async def plan(job: Job) -> dict[str, Any]:
    """Plan a batch, and tell what it took."""
    began = time.perf_counter()
    from nanobanana_blocks import NanoBananaClient, PollPolicy
    from nanobanana_blocks.batches.manifest import RowDefaults
    from nanobanana_blocks.batches.opening import open_batch, read_manifest_near
    from nanobanana_blocks.batches.planning import plan_batch
    from nanobanana_blocks.landing.generation_times import learned_so_far
    from nanobanana_blocks.storage.destination import StorageLocation

    images, poll = StorageLocation(job.folder), PollPolicy()
    found = await read_manifest_near(job.manifest, images, RowDefaults())
    async with (
        NanoBananaClient(job.api_key, job.base_url) as client,
        open_batch(
            client,
            images,
            job.manifest,
            found.digest,
            found.rows,
            timeout=900,
            in_flight=200,
            poll=poll,
            read_only=True,
            log=logging.getLogger(__name__),
        ) as batch,
    ):
        made = await plan_batch(batch, await learned_so_far(images), in_flight=200, poll=poll)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak": _peak_megabytes(), "counts": made.counts}


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def repeat(folder: Path, rows: int) -> None:
    """Make images and receipts of all rows from those of the first; the ledger is lost."""
    receipt = (folder / "p-0.json").read_text()
    image = next(path for path in folder.glob("p-0.*") if path.suffix != ".json")
    data = image.read_bytes()
    for number in range(1, rows):
        (folder / f"p-{number}{image.suffix}").write_bytes(data)
        named = receipt.replace("p-0", f"p-{number}")
        (folder / f"p-{number}.json").write_text(named)
    shutil.rmtree(folder / ".nanobanana")


def main() -> None:
    smoke = begin(__doc__, "few rows").smoke
    rows = 60 if smoke else ROWS
    settings = SandboxSettings(image_bytes=IMAGE_BYTES, credits=10**9)
    print(f"A dry run of {rows:,} rows, imports included")
    with tempfile.TemporaryDirectory(prefix="nanobanana-plan-") as temporary:
        folder = Path(temporary)
        manifest = write_manifest(folder / "rows.jsonl", rows)
        with sandbox_process(settings) as sandbox:
            job = Job(manifest, str(folder / "images"), sandbox.base_url, sandbox.api_key)
            new = measure("benchmarks.plan", job._asdict())
            counts("rows to submit", new["counts"]["submit"], rows)
            counts("submits", sandbox.stats().submits, 0)
            one = write_manifest(folder / "one.jsonl", 1)
            run_batch(one, job.folder, sandbox)
            repeat(Path(job.folder), rows)
            landed = measure("benchmarks.plan", job._asdict())
            counts("rows to skip", landed["counts"]["skip"], rows)
            counts("submits of the one row that landed", sandbox.stats().submits, 1)
    for name, measured in (("new", new), ("landed", landed)):
        at_most(f"{rows:,} {name} rows planned", measured["seconds"], MAX_SECONDS, " s")
        at_most(f"{name}, peak memory", measured["peak"], MAX_MEGABYTES, " MB")


if __name__ == "__main__":
    if len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        print(json.dumps(asyncio.run(plan(Job(**json.loads(sys.argv[1]))))))
    else:
        main()
