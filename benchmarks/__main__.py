"""Runs the benchmarks: ``python -m benchmarks [--smoke] [NAME…]``.

Each runs as the script that it is, in a process of its own, one after the other; with ``--smoke``,
where nothing is judged, most of them side by side. A goal that is missed is reported and is no
failure; the exit status is 1 only where a benchmark crashed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO, NamedTuple

from benchmarks.processes import ROOT, ending, interrupt_on_sigterm

NAMES = (
    *("polling", "polling_kinds", "waits"),
    *("cost", "scale", "imports", "callbacks", "waking", "manifest"),
    *("batch", "kills"),
)
NEED_PREFECT = frozenset({"cost", "scale", "waking"})
HAVE_WORKERS = frozenset({"batch", "kills"})
"""Those whose workers would take one another's runs on a server that they share."""

END_SECONDS = 30.0


class Script(NamedTuple):
    """A benchmark under way; `output` is None where it prints for itself."""

    name: str
    process: subprocess.Popen[str]
    output: IO[str] | None

    def ended_well(self) -> bool:
        """Wait for its end, have its output printed, and tell whether it did not crash."""
        status = self.process.wait()
        if self.output:
            self.output.seek(0)
            shutil.copyfileobj(self.output, sys.stdout)
        if status:
            print(f"--- {self.name} CRASHED (exit status {status})", flush=True)
        return status == 0


@contextmanager
def started(
    name: str, *options: str, aside: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Script]:
    """Run a benchmark for as long as the block lasts; `aside` keeps its output for later."""
    with ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile("w+")) if aside else None
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.script", name, *options],
            stdout=output,
            stderr=subprocess.STDOUT if aside else None,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        stack.enter_context(ending(process, END_SECONDS))
        yield Script(name, process, output)


def announce(name: str) -> None:
    print(f"\n=== {name} {'=' * (94 - len(name))}", flush=True)


def run_in_turn(names: Iterable[str], *options: str) -> list[str]:
    """Run benchmarks one after the other and return the names of those that crashed."""
    crashed = []
    for name in names:
        announce(name)
        with started(name, *options) as script:
            if not script.ended_well():
                crashed.append(name)
    return crashed


def smoke_side_by_side(names: Collection[str]) -> list[str]:
    """Run quick checks of benchmarks at once and return the names of those that crashed."""
    with ExitStack() as until_all_ended:
        enter = until_all_ended.enter_context
        scripts = {
            name: enter(started(name, "--smoke", aside=True))
            for name in names
            if name not in NEED_PREFECT
        }
        if needing := NEED_PREFECT.intersection(names):
            # Importing Prefect takes seconds, in which the others can begin.
            from benchmarks.prefect_server import SHARED, prefect_server

            shared = enter(prefect_server()) | {SHARED: "1"}
            for name in needing:
                scripts[name] = enter(started(name, "--smoke", aside=True, environment=shared))
        crashed = []
        for name in names:
            announce(name)
            if not scripts[name].ended_well():
                crashed.append(name)
        return crashed


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
    if options.smoke:
        crashed = smoke_side_by_side([name for name in names if name not in HAVE_WORKERS])
        crashed += run_in_turn([name for name in names if name in HAVE_WORKERS], "--smoke")
    else:
        crashed = run_in_turn(names)
    print(f"\n{len(names)} benchmarks in {time.monotonic() - began:.0f} s", end="")
    print(f"; crashed: {', '.join(crashed)}" if crashed else "")
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
