"""Runs the benchmarks one after the other: ``python -m benchmarks [--smoke] [NAME…]``.

Each runs as the script that it is, in a process of its own. A goal that is missed is reported and
is no failure; the exit status is 1 only where a benchmark crashed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.processes import ROOT, ending, interrupt_on_sigterm

NAMES = ("polling", "cost", "scale", "imports", "callbacks")
END_SECONDS = 30.0


def run_apart(name: str, arguments: list[str]) -> bool:
    """Run a benchmark in a process of its own, and tell whether it ended well."""
    print(f"\n=== {name} {'=' * (90 - len(name))}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.script", name, *arguments], text=True, cwd=ROOT
    )
    with ending(process, END_SECONDS):
        ended_well = process.wait() == 0
    what = "took" if ended_well else f"CRASHED (exit status {process.returncode}) after"
    print(f"--- {name} {what} {time.monotonic() - started:.0f} s", flush=True)
    return ended_well


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a quick check that all of them work")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"all unless given: {', '.join(NAMES)}"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    interrupt_on_sigterm()
    arguments = ["--smoke"] if options.smoke else []
    results = {name: run_apart(name, arguments) for name in options.names or NAMES}
    if crashed := [name for name, ended_well in results.items() if not ended_well]:
        print(f"\nCrashed: {', '.join(crashed)}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
