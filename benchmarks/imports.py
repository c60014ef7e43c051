"""Measures what ``import nanobanana_blocks`` adds to ``import prefect``, in fresh interpreters.

Run ``python -m benchmarks.imports``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import NamedTuple

from benchmarks.goals import at_most, begin
from benchmarks.processes import ROOT

MAX_SECONDS = 0.15
PROGRAM = """
import time, json
clocks = [(time.perf_counter(), time.process_time())]
import prefect
clocks.append((time.perf_counter(), time.process_time()))
import nanobanana_blocks
clocks.append((time.perf_counter(), time.process_time()))
print(json.dumps([b - a for x, y in zip(clocks, clocks[1:]) for a, b in zip(x, y)]))
"""


class Import(NamedTuple):
    """Seconds of one interpreter: of Prefect, and of this package after it."""

    prefect_wall: float
    prefect_cpu: float
    own_wall: float
    own_cpu: float


def import_once() -> Import:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return Import(*json.loads(finished.stdout))


def main() -> None:
    smoke = begin(__doc__, "one interpreter").smoke
    count = 1 if smoke else 7
    if not smoke:
        import_once()  # compiles what was never imported
    columns = zip(*(import_once() for _ in range(count)), strict=True)
    middle = Import(*(median(column) for column in columns))
    print(f"Imports: median of {count} fresh interpreters")
    print(f"  import prefect: {middle.prefect_wall:.2f} s ({middle.prefect_cpu:.2f} s of CPU)")
    print(
        f"  import nanobanana_blocks after it: {middle.own_wall:.3f} s ({middle.own_cpu:.3f} s of "
        f"CPU, {middle.own_wall / middle.prefect_wall:.3f} as much)"
    )
    prefect = f"{middle.prefect_wall:.2f} s for Prefect"
    at_most("import nanobanana_blocks adds", middle.own_wall, MAX_SECONDS, " s", plain=prefect)


if __name__ == "__main__":
    main()
