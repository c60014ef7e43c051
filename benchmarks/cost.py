"""Measures what the main flow costs beside a plain asyncio and httpx script that does the same.

Both wait for the same generation tasks, with the same schedule and request budget, and write the
same 60 kB images into a local folder; the flow also verifies them, leaves receipts and reports to
a real Prefect server. Each run is a fresh process; sandbox and Prefect server have their own. The
contenders take turns, and ratios are medians over the pairs.

*wall* is from the first look until everything has ended. *CPU* is that of the contender's process
with all its threads until the process is gone, imports and a first run of one task aside.

Generation times are drawn as the sandbox does, `SPEED` times faster, so that nobody waits for long.
The policy is asked for more looks than by default to make up for it: with `LOOKS`, a task gets
about 4 looks after the first, as with the default policy and real times. Nothing is remembered of
earlier runs, which the script cannot do either and which would change how many looks there are.

Run ``python -m benchmarks.cost``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.contender import Job
from benchmarks.goals import at_most, begin
from benchmarks.prefect_server import prefect_server
from benchmarks.processes import measure
from benchmarks.sandbox_process import sandbox_process
from nanobanana_blocks.api.client import BASE_URL_VARIABLE, KEY_VARIABLE
from nanobanana_blocks.sandbox import SandboxControl, SandboxSettings

IMAGE_BYTES = 60_000
SPEED = 3.0
LOOKS = 12.0
AMPLE_REQUESTS_PER_SECOND = 1000.0
MAX_WALL, MAX_CPU = 1.05, 1.25
NAMES = {"plain": "plain asyncio + httpx", "flow": "land_images"}


class Run(NamedTuple):
    """One run of one contender; `wall` and `cpu` in seconds."""

    wall: float
    cpu: float
    requests: int
    images: int


def run_contender(
    name: str, tasks: int, sandbox: SandboxControl, environment: Mapping[str, str]
) -> Run:
    with tempfile.TemporaryDirectory(prefix="nanobanana-cost-") as folder:
        poll = {
            "requests_per_task": LOOKS,
            "requests_per_second": AMPLE_REQUESTS_PER_SECOND,
            "remember": False,
        }
        job = Job(name, tasks, folder, sandbox.base_url, sandbox.api_key, poll)
        report = measure("benchmarks.contender", job._asdict(), environment)
        images = list((Path(folder) / "images").glob("*.jpg"))
        assert all(image.stat().st_size == images[0].stat().st_size for image in images)
        return Run(report["wall"], report["cpu"], report["requests"], len(images))


def compare(
    tasks: int, pairs: int, sandbox: SandboxControl, environment: Mapping[str, str]
) -> tuple[float, float]:
    """Run both contenders in turns, print what came of it, and give the ratios of wall and CPU."""
    runs: dict[str, list[Run]] = {name: [] for name in NAMES}
    for _ in range(pairs):
        for name, done in runs.items():
            done.append(run_contender(name, tasks, sandbox, environment))
    print(f"\n{tasks:,} generation tasks, median of {pairs} runs each")
    print(f"  {'':<24}{'wall s':>8}{'CPU s':>8}{'requests':>10}{'images':>8}")
    for name, done in runs.items():
        wall, cpu, requests, images = (median(column) for column in zip(*done, strict=True))
        print(f"  {NAMES[name]:<24}{wall:8.1f}{cpu:8.2f}{requests:10,.0f}{images:8,.0f}")
    ratios = [
        (flow.wall / plain.wall, flow.cpu / plain.cpu)
        for plain, flow in zip(runs["plain"], runs["flow"], strict=True)
    ]
    wall, cpu = (median(column) for column in zip(*ratios, strict=True))
    spread = "; ".join(f"{wall:.2f}, {cpu:.2f}" for wall, cpu in ratios)
    print(f"  {'ratio':<24}{wall:7.2f}x{cpu:7.2f}x   by pair (wall, CPU): {spread}")
    return wall, cpu


def main() -> None:
    smoke = begin(__doc__, "few tasks").smoke
    speed = 10 * SPEED if smoke else SPEED
    settings = SandboxSettings(image_bytes=IMAGE_BYTES, speed=speed)
    with prefect_server() as environment, sandbox_process(settings) as sandbox:
        environment |= {KEY_VARIABLE: sandbox.api_key, BASE_URL_VARIABLE: sandbox.base_url}
        print("Cost: the flow with a real Prefect server beside a plain script")
        if smoke:
            compare(60, 1, sandbox, environment)
            return
        compare(50, 3, sandbox, environment)
        print("  for information: a batch this small has a Prefect task run for each image")
        wall, cpu = compare(1000, 3, sandbox, environment)
        at_most("1,000 images, wall", wall, MAX_WALL, "x", plain="1")
        at_most("1,000 images, CPU", cpu, MAX_CPU, "x", plain="1")


if __name__ == "__main__":
    main()
