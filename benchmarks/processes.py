"""The processes that a benchmark needs beside its own, each ended whatever happens.

What they do, and what their figures mean, is told elsewhere.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MAX_RUN_SECONDS = 1800.0
END_SECONDS = 10.0


@contextmanager
def ending(process: subprocess.Popen[str], seconds: float = END_SECONDS) -> Iterator[None]:
    """Have a process end with the block: asked to, and killed if it has not in `seconds`."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start(module: str, job: object, **options: Any) -> subprocess.Popen[str]:
    """Start one of this project's modules in a fresh interpreter, with its job as JSON."""
    return subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        **options,
    )


def measure(
    module: str, job: object, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a module in a fresh interpreter and return the last line that it prints, read as JSON.

    Where that has a `cpu_at_start`, a `cpu` is added: the CPU seconds of the process and all its
    threads from then until it had ended.
    """
    with tempfile.TemporaryFile("w+") as log:
        before = _cpu_of_ended_children()
        process = start(module, job, stderr=log, env=environment)
        with ending(process):
            output, _ = process.communicate(timeout=MAX_RUN_SECONDS)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{module} failed ({process.returncode}):\n{log.read()[-4000:]}")
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    if "cpu_at_start" in report:
        report["cpu"] = _cpu_of_ended_children() - before - report["cpu_at_start"]
    return report


def interrupt_on_sigterm() -> None:
    """Have SIGTERM unwind the stack as Ctrl-C does, so that everything started is ended."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def cpu_of_all() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + _cpu_of_ended_children()


def _cpu_of_ended_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
