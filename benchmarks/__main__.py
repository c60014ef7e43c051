"""Runs the benchmarks: ``python -m benchmarks [--smoke] [NAME…]``.

Each runs as the script that it is, in a process of its own, one after the other, and a table of all
goals follows. With ``--smoke``, where times are not judged, they run in lanes side by side. A goal
that is missed is reported and is no failure; the exit status is 1 only where a benchmark broke.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from benchmarks.goals import FIGURES_VARIABLE, print_table, read_figures
from benchmarks.processes import ROOT, ending, interrupt_on_sigterm

NAMES = (
    *("polling", "polling_kinds", "waits"),
    *("cost", "scale", "rows", "lags", "publishing", "imports", "callbacks", "waking"),
    *("manifest", "plan", "references"),
    *("batch", "kills"),
)
SMOKE_LANES = (
    ("batch",),
    ("kills",),
    ("waking", "lags"),
    ("cost", "scale", "rows"),
    (
        *("polling", "polling_kinds", "waits", "imports", "manifest", "plan", "callbacks"),
        *("publishing", "references"),
    ),
)
"""What runs side by side, the slowest first. Those of a lane take turns."""

SHARE_PREFECT = frozenset({"cost", "lags", "scale", "waking", "batch"})
"""Those whose quick checks share a Prefect server; the workers of `kills` would take the runs of
`batch` from it."""

END_SECONDS = 30.0


class Done(NamedTuple):
    """How a benchmark ended, and how long it took."""

    status: int
    seconds: float


@contextmanager
def started(
    name: str, *options: str, output: IO[str] | None, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run a benchmark for as long as the block lasts; it prints for itself without `output`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.script", name, *options],
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        env=dict(environment),
        cwd=ROOT,
        text=True,
    )
    with ending(process, END_SECONDS):
        yield process


class Bench:
    """A run of benchmarks, whose goals are kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._crashed: list[str] = []
        self._running: list[subprocess.Popen[str]] = []

    def run_in_turn(self, names: Iterable[str]) -> None:
        """Run benchmarks one after the other, with their output as it comes."""
        for name in names:
            announce(name)
            began = time.monotonic()
            with started(name, output=None, environment=self._environment(name)) as process:
                self._note(name, Done(process.wait(), time.monotonic() - began))

    def smoke(self, names: Iterable[str]) -> None:
        """Run quick checks in lanes, and print the output of each once all before it have ended."""
        wanted = list(names)
        with ExitStack() as until_all_ended:
            shared: Mapping[str, str] = {}
            if SHARE_PREFECT.intersection(wanted):
                # Importing Prefect takes a second or more, which runs of the others need not.
                from benchmarks.prefect_server import SHARED, prefect_server

                shared = until_all_ended.enter_context(prefect_server()) | {SHARED: "1"}
            done: dict[str, Future[Done]] = {}
            outputs: dict[str, IO[str]] = {}
            for lane in SMOKE_LANES:
                one_at_a_time = until_all_ended.enter_context(ThreadPoolExecutor(1))
                until_all_ended.callback(one_at_a_time.shutdown, wait=False, cancel_futures=True)
                for name in (name for name in lane if name in wanted):
                    outputs[name] = until_all_ended.enter_context(tempfile.TemporaryFile("w+"))
                    more = shared if name in SHARE_PREFECT else {}
                    done[name] = one_at_a_time.submit(self._check, name, outputs[name], more)
            until_all_ended.callback(self._end_all)
            for name in wanted:
                ended = done[name].result()
                announce(name)
                outputs[name].seek(0)
                shutil.copyfileobj(outputs[name], sys.stdout)
                self._note(name, ended)

    def _check(self, name: str, output: IO[str], more: Mapping[str, str]) -> Done:
        """Run one quick check, in a thread of its lane."""
        began = time.monotonic()
        environment = self._environment(name, more)
        with started(name, "--smoke", output=output, environment=environment) as process:
            self._running.append(process)
            status = process.wait()
        return Done(status, time.monotonic() - began)

    def _end_all(self) -> None:
        for process in self._running:
            process.terminate()

    def report(self, names: Iterable[str]) -> int:
        """Print the table of all goals; return the exit status."""
        figures = [(name, told) for name in names for told in read_figures(self._figures(name))]
        if figures:
            print(f"\n=== all goals {'=' * 85}")
            print_table(figures)
        print(f"\ncrashed: {', '.join(self._crashed)}" if self._crashed else "")
        return 1 if self._crashed else 0

    def _note(self, name: str, done: Done) -> None:
        print(f"--- {name}: {done.seconds:.0f} s", flush=True)
        if done.status:
            print(f"--- {name} CRASHED (exit status {done.status})", flush=True)
            self._crashed.append(name)

    def _figures(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"

    def _environment(self, name: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, **(more or {}), FIGURES_VARIABLE: str(self._figures(name))}


def announce(name: str) -> None:
    print(f"\n=== {name} {'=' * (94 - len(name))}", flush=True)


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
    began = time.monotonic()
    names = list(dict.fromkeys(options.names or NAMES))
    with tempfile.TemporaryDirectory(prefix="nanobanana-figures-") as folder:
        bench = Bench(Path(folder))
        if options.smoke:
            print("A quick check that every benchmark works: too small to judge times and memory")
            bench.smoke(names)
        else:
            bench.run_in_turn(names)
        status = bench.report(names)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{len(names)} benchmarks in {time.monotonic() - began:.0f} s; "
        f"CPU {usage.ru_utime + usage.ru_stime:.0f} s; load {os.getloadavg()[0]:.1f} at the end"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
