"""Measures what a user waits for: from done at the service until the image is in storage.

By path: polled with the default policy, as a list of tasks and as a batch that submits them itself;
and called back, with a poll every 30 s as the safety net. Beside them the plain script of
`benchmarks.plain_script`, which polls every 30 s, as the API's documentation says, and as often as
the default policy does on average. Flows have a real Prefect server, callbacks a real receiver;
generation times are the sandbox's, median 18 s and 99th percentile 64 s, and images go to a local
folder.

Run ``python -m benchmarks.lags``; ``--smoke`` is a quick check that it works, ``--plot PATH`` draws
the picture of the documentation (needs matplotlib).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from benchmarks.goals import at_most, begin, counts
from benchmarks.lags_run import Job
from benchmarks.prefect_server import prefect_server
from benchmarks.processes import measure
from benchmarks.sandbox_process import sandbox_process
from benchmarks.waking import receiver
from nanobanana_blocks.api.client import BASE_URL_VARIABLE, KEY_VARIABLE
from nanobanana_blocks.sandbox import SandboxSettings

IMAGE_BYTES = 60_000
DOCUMENTED = {"mode": "fixed", "interval_seconds": 30.0}
AS_OFTEN = {"mode": "fixed", "interval_seconds": 6.0}


class Way(NamedTuple):
    """How images get into storage: a path of `lags_run`, when it polls, whether it is called."""

    label: str
    path: str
    poll: dict[str, Any]
    is_called: bool = False


WAYS = (
    Way("plain script, every 30 s", "plain", DOCUMENTED),
    Way("plain script, every 6 s", "plain", AS_OFTEN),
    Way("land_images, polling", "land", {}),
    Way("run_batch, polling", "batch", {}),
    Way("land_images, callbacks", "land", DOCUMENTED, is_called=True),
)


class Lags(NamedTuple):
    """Seconds from done to stored, ascending, and requests for each task after the first."""

    seconds: list[float]
    requests: float

    def quantile(self, share: float) -> float:
        return self.seconds[int(share * (len(self.seconds) - 1))]


def measure_way(way: Way, tasks: int, speed: float, environment: Mapping[str, str]) -> Lags:
    settings = SandboxSettings(image_bytes=IMAGE_BYTES, speed=speed, credits=10**6)
    with (
        tempfile.TemporaryDirectory(prefix="nanobanana-lags-") as temporary,
        sandbox_process(settings) as sandbox,
    ):
        folder = Path(temporary)
        own = {KEY_VARIABLE: sandbox.api_key, BASE_URL_VARIABLE: sandbox.base_url}
        job = Job(way.path, tasks, temporary, sandbox.base_url, sandbox.api_key, way.poll)
        if way.is_called:
            with receiver(folder, {**environment, **own}) as address:
                job = job._replace(receiver=address)
                measure("benchmarks.lags_run", job._asdict(), {**environment, **own})
        else:
            measure("benchmarks.lags_run", job._asdict(), {**environment, **own})
        stats = sandbox.stats()
        images = [path for path in (folder / "images").glob("*.jpg") if path.stem in stats.done_at]
        stored = {path.stem: path.stat().st_mtime for path in images}
    lags = sorted(at - stats.done_at[task_id] for task_id, at in stored.items())
    return Lags(lags, fmean(stats.looks[task_id] - 1 for task_id in stored))


def draw(found: Mapping[str, Lags], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "lags"
    from matplotlib import pyplot as plt

    colours = ("#9ca3af", "#6b7280", "#1d4ed8", "#60a5fa", "#15803d")
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained", facecolor="white")
    for (label, lags), colour in zip(found.items(), colours, strict=True):
        shares = [(number + 1) / len(lags.seconds) for number in range(len(lags.seconds))]
        named = f"{label}: p50 {median(lags.seconds):.2g} s, {lags.requests:.1f} requests"
        axes.step(lags.seconds, shares, where="post", color=colour, label=named, linewidth=1.8)
    axes.set(
        xscale="log",
        xlim=(0.01, 40),
        ylim=(0, 1),
        xlabel="seconds from done at the service to stored",
        ylabel="share of images",
        title="How long an image that is done is not in storage yet",
    )
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper left", fontsize=8.5)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    print(f"\nDrew {path}")


def main() -> None:
    options = begin(__doc__, "few tasks, which end soon")
    tasks, speed = (6, 10.0) if options.smoke else (60, 1.0)
    ways = WAYS[1:4:2] if options.smoke else WAYS
    print(
        f"Lags: from done to stored, {tasks} tasks at once by each way, all ways at the same time"
    )
    with prefect_server() as environment, ThreadPoolExecutor(len(ways)) as pool:
        runs = [pool.submit(measure_way, way, tasks, speed, environment) for way in ways]
        found = {way.label: run.result() for way, run in zip(ways, runs, strict=True)}
    print(f"  {'':<28}{'p50 s':>8}{'p95 s':>8}{'most':>8}{'requests after the first':>27}")
    for label, lags in found.items():
        p50, p95, most = lags.quantile(0.5), lags.quantile(0.95), lags.seconds[-1]
        print(f"  {label:<28}{p50:8.2f}{p95:8.2f}{most:8.2f}{lags.requests:27.1f}")
    for way in ways:
        counts(f"{way.label}: images", len(found[way.label].seconds), tasks)
    if not options.smoke:
        plain = found[WAYS[1].label]
        beside = f"{plain.quantile(0.5):.2f} s at {plain.requests:.1f} requests"
        at_most("polling, p50", found[WAYS[2].label].quantile(0.5), 2.5, " s", plain=beside)
        beside = f"{plain.quantile(0.95):.2f} s at {plain.requests:.1f} requests"
        at_most("polling, p95", found[WAYS[2].label].quantile(0.95), 5.5, " s", plain=beside)
        at_most("batch, p95", found[WAYS[3].label].quantile(0.95), 5.5, " s", plain=beside)
        at_most("callbacks, p95", found[WAYS[4].label].quantile(0.95), 1.0, " s")
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
