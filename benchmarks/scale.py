"""Measures how one process bears 10,000 generation tasks that it waits for at the same time.

None of them is done until every one has been looked at; then all are done at once, and all images
land. More looks are due at any time than the request budget allows. Once `open_lander` alone does
it, once the flow with a real Prefect server; each in a fresh process, after a first run of one
task whose figures are given beside.

The budget is checked by the sandbox, which refuses what comes before its time. In any stretch of
T seconds it accepts the budget times T, and 8 more: so many requests are in flight at most, and
each, sent in time, may be late. A request that gave up waiting for a connection (httpx's
PoolTimeout) never arrives, so that looks taken and looks received tell how many did. The event
loop's longest stall is the worst lateness of a 10 ms timer on it.

Run ``python -m benchmarks.scale``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.crowd import Job
from benchmarks.goals import at_most, begin, counts
from benchmarks.prefect_server import prefect_server
from benchmarks.processes import measure
from benchmarks.pulse import Stall
from benchmarks.sandbox_process import sandbox_process
from nanobanana_blocks.api.client import BASE_URL_VARIABLE, KEY_VARIABLE
from nanobanana_blocks.sandbox import RateLimit, SandboxControl, SandboxSettings

IN_FLIGHT = 8
IMAGE_BYTES = 4_000
MAX_STALL_SECONDS = 0.2
MAX_MEGABYTES = 250
NAMES = {"landing": "open_lander, without Prefect", "flow": "land_images"}


class Crowd(NamedTuple):
    """How many generation tasks, the request budget per second, and seconds between looks."""

    tasks: int
    budget: int
    longest_interval: float

    @property
    def seconds_until_done(self) -> float:
        """Until every task was looked at once, and a little more."""
        return self.tasks / self.budget + 1


def report(through: str, crowd: Crowd, row: dict[str, Any]) -> None:
    megabytes, first_megabytes = row["peak_bytes"] / 1e6, row["first_bytes"] / 1e6
    lost = row["looks_taken"] - row["looks_received"]
    stalls = [Stall(*stall) for stall in row["stalls"]]
    print(f"\n{NAMES[through]}: {crowd.tasks:,} tasks at {crowd.budget} requests/s")
    print(f"  {row['landed']:,} landed in {row['seconds']:.0f} s, {row['looks_received']:,} looks")
    print(f"  one task alone: stall {row['first_stalls'][0][0]:.3f} s, {first_megabytes:.0f} MB")
    for stall in stalls:
        print(f"  stall of {stall.late:.3f} s at {stall.at:.0f} s; CPU in it {stall.busy:.3f} s")
    counts(f"{through}: images landed", row["landed"], crowd.tasks)
    counts(f"{through}: images asked for", row["images_asked_for"], crowd.tasks)
    counts(f"{through}: looks that never arrived (PoolTimeout or worse)", lost, 0)
    at_most(f"{through}: requests beyond the budget", row["rate_limited"], 0)
    busy = max(stall.busy for stall in stalls)
    at_most(f"{through}: longest stall, CPU in it", busy, MAX_STALL_SECONDS, " s")
    at_most(f"{through}: resident", megabytes, MAX_MEGABYTES, " MB")


def run_row(
    through: str, crowd: Crowd, sandbox: SandboxControl, environment: Mapping[str, str]
) -> dict[str, Any]:
    poll = {
        "requests_per_second": crowd.budget,
        "max_interval_seconds": crowd.longest_interval,
    }
    with tempfile.TemporaryDirectory(prefix="nanobanana-scale-") as folder:
        job = Job(
            through=through,
            tasks=crowd.tasks,
            seconds=crowd.seconds_until_done,
            folder=folder,
            base_url=sandbox.base_url,
            api_key=sandbox.api_key,
            poll=poll,
        )
        return measure("benchmarks.crowd", job._asdict(), environment)


def main() -> None:
    smoke = begin(__doc__, "few tasks").smoke
    crowd = Crowd(200, 100, 1.0) if smoke else Crowd(10_000, 250, 10.0)
    limit = RateLimit(
        requests=IN_FLIGHT, per_seconds=IN_FLIGHT / crowd.budget, algorithm="token-bucket"
    )
    settings = SandboxSettings(image_bytes=IMAGE_BYTES, rate_limits=(limit,))
    print("Scale: a crowd of generation tasks in one process")
    with prefect_server() as environment, sandbox_process(settings) as sandbox:
        environment |= {KEY_VARIABLE: sandbox.api_key, BASE_URL_VARIABLE: sandbox.base_url}
        for through in NAMES:
            report(through, crowd, run_row(through, crowd, sandbox, environment))


if __name__ == "__main__":
    main()
