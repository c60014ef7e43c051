"""Measures the check of a 10,000-row manifest, in fresh processes.

Beside it stands what no reader can do without: a plain loop over the same file, with `json.loads`
or `csv.DictReader`. Run ``python -m benchmarks.manifest``; ``--smoke`` is a quick check that it
works.
"""

from __future__ import annotations

import asyncio
import csv
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks.goals import at_most, begin
from benchmarks.processes import measure

ROWS = 10_000
MAX_SECONDS = 5.0
MAX_MEGABYTES = 300.0
WORDS = ["a fox", "in the snow", "northern lights", "watercolour", "on rough paper", "gold leaf"]
FORMATS = ("jsonl", "csv")


def rows() -> Iterator[dict[str, Any]]:
    """Rows of all endpoints, their prompts about as long as a paragraph."""
    random = Random("manifest")
    for number in range(ROWS):
        row: dict[str, Any] = {
            "name": f"image-{number:05}",
            "prompt": " ".join(random.choices(WORDS, k=40)),
            "endpoint": ("generate", "generate-pro", "generate-2")[number % 3],
        }
        if number % 3:
            row |= {"resolution": "2K", "aspectRatio": "16:9"}
        if number % 3 == 2:
            row |= {"outputFormat": "png", "imageUrls": [f"https://example.com/{number}.png"]}
        yield row


def write(folder: Path) -> None:
    """Write the same rows as one manifest of each format."""
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(row)}\n" for row in rows())
    columns = list(dict.fromkeys(name for row in rows() for name in row))
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows({**row, "imageUrls": " ".join(row.get("imageUrls", ()))} for row in rows())


def loop_over(path: Path) -> int:
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return sum(1 for _ in csv.DictReader(file))
        return sum(1 for _ in map(json.loads, file))


def check(path: str) -> None:
    """The fresh process: check one manifest, then loop over it plainly."""
    from nanobanana_blocks.batches.manifest import read_manifest

    before = _peak_megabytes()
    began = time.perf_counter()
    manifest = asyncio.run(read_manifest(path))
    seconds = time.perf_counter() - began
    peak = _peak_megabytes()
    began = time.perf_counter()
    assert loop_over(Path(path)) == len(manifest.rows)
    plain = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "plain": plain, "peak": peak, "before": before}))


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def main() -> None:
    smoke = begin(__doc__, "one process for each format").smoke
    count = 1 if smoke else 5
    print(f"A manifest of {ROWS:,} rows: median of {count} fresh processes")
    with tempfile.TemporaryDirectory(prefix="nanobanana-manifest-") as folder:
        write(Path(folder))
        for form in FORMATS:
            path = Path(folder) / f"rows.{form}"
            report([measure("benchmarks.manifest", str(path)) for _ in range(count)], path)


def report(runs: list[dict[str, float]], path: Path) -> None:
    middle = {figure: median(run[figure] for run in runs) for figure in runs[0]}
    print(f" {path.suffix[1:]}, {path.stat().st_size / 1e6:.1f} MB")
    form = path.suffix[1:]
    at_most(
        f"{form}, {ROWS:,} rows checked",
        middle["seconds"],
        MAX_SECONDS,
        " s",
        plain=f"{middle['plain']:.2f} s, parsed only",
    )
    print(f"  {middle['before']:.0f} MB before")
    at_most(f"{form}, peak memory", middle["peak"], MAX_MEGABYTES, " MB")


if __name__ == "__main__":
    if len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        check(json.loads(sys.argv[1]))
    else:
        main()
