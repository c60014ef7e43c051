"""Measures what a row of a large batch costs, and a run over rows that have all landed.

The same batch, as the command `nanobanana batch` does it, with few rows and with many, of images of
4 kB, against the sandbox and a local disk; then again, with everything landed; then again, with the
same files on S3, each of whose answers comes 20 ms late. Each run is a fresh process.

Run ``python -m benchmarks.rows``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.goals import at_most, begin, counts
from benchmarks.processes import measure
from benchmarks.rows_run import Job
from benchmarks.sandbox_process import sandbox_process
from benchmarks.slow_s3 import BUCKET, slow_s3
from nanobanana_blocks.sandbox import SandboxControl, SandboxSettings

FEW, MANY = 2_000, 20_000
IMAGE_BYTES = 4_000
SPEED = 10.0
S3_SECONDS = 0.02
MAX_SLOPE = 1.15
MAX_LOCAL_SECONDS, MAX_S3_SECONDS = 20.0, 60.0
MAX_MEGABYTES = 400.0


def write_manifest(path: Path, rows: int) -> str:
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(json.dumps({"prompt": f"Product {number}", "name": f"p-{number}"}) + "\n")
    return str(path)


def run_batch(
    manifest: str, url: str, sandbox: SandboxControl, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    job = Job(manifest, url, options or {}, sandbox.base_url, sandbox.api_key)
    return measure("benchmarks.rows_run", job._asdict())


def report(name: str, rows: int, row: dict[str, Any]) -> None:
    each = f"{1000 * row['wall'] / rows:.2f} ms a row, {1000 * row['cpu'] / rows:.2f} ms of CPU"
    print(
        f"  {name:<28}{row['wall']:7.1f} s: {each}; {row['opened']:.1f} s until the first row; "
        f"{row['megabytes']:.0f} MB; longest stall {row['stalls'][0][0]:.2f} s"
    )


def main() -> None:
    smoke = begin(__doc__, "few rows").smoke
    few, many = (30, 60) if smoke else (FEW, MANY)
    settings = SandboxSettings(image_bytes=IMAGE_BYTES, speed=SPEED, credits=10**9)
    print(f"Rows: batches of {few:,} and of {many:,} rows, without Prefect")
    with tempfile.TemporaryDirectory(prefix="nanobanana-rows-") as temporary:
        folder = Path(temporary)
        images = folder / "images"
        with sandbox_process(settings) as sandbox:
            first = write_manifest(folder / "few.jsonl", few)
            short = run_batch(first, str(folder / "few"), sandbox)
            report(f"{few:,} rows", few, short)
            manifest = write_manifest(folder / "many.jsonl", many)
            long = run_batch(manifest, str(images), sandbox)
            report(f"{many:,} rows", many, long)
            again = run_batch(manifest, str(images), sandbox)
            report("again, all landed", many, again)
            requests = sandbox.stats().requests
            with slow_s3(images, S3_SECONDS) as options:
                on_s3 = run_batch(manifest, f"s3://{BUCKET}", sandbox, options)
            report("again, on S3 20 ms away", many, on_s3)
            asked = sum(sandbox.stats().requests.values()) - sum(requests.values())
    counts("rows landed", long["landed"], many)
    counts("rows found landed, local", again["already_landed"], many)
    counts("rows found landed, S3", on_s3["already_landed"], many)
    counts("requests to the service, all landed", asked, 0)
    slope = (long["wall"] / many) / (short["wall"] / few)
    at_most(f"wall a row of {many:,} / of {few:,}", slope, MAX_SLOPE)
    at_most("all landed, local disk", again["wall"], MAX_LOCAL_SECONDS, " s")
    at_most("all landed, S3", on_s3["wall"], MAX_S3_SECONDS, " s")
    at_most("resident, first run", long["megabytes"], MAX_MEGABYTES, " MB")
    at_most("resident, all landed", again["megabytes"], MAX_MEGABYTES, " MB")
    at_most("resident, all landed, S3", on_s3["megabytes"], MAX_MEGABYTES, " MB")


if __name__ == "__main__":
    main()
