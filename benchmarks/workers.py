"""Process workers of a Prefect server, with this project's deployments; what they run is told
elsewhere."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import httpx

from benchmarks.processes import ROOT, ending

POOL = "nanobanana"
END_SECONDS = 20.0


def prefect(*arguments: str, environment: Mapping[str, str]) -> str:
    """Run the `prefect` command and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=ROOT,
        env={**environment, "PWD": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def deploy(environment: Mapping[str, str]) -> None:
    """Deploy everything to a process work pool, unless that has been done."""
    deployment = f"{environment['PREFECT_API_URL']}/deployments/name/run-batch/on-demand"
    if httpx.get(deployment, timeout=30, trust_env=False).is_success:
        return
    prefect(
        *("work-pool", "create", POOL, "--type", "process", "--overwrite"), environment=environment
    )
    prefect("deploy", "--all", environment=environment)


def start_worker(name: str, environment: Mapping[str, str], log: int) -> subprocess.Popen[str]:
    """Start a worker of the pool."""
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", name],
        cwd=ROOT,
        env={**environment, "PREFECT_WORKER_QUERY_SECONDS": "2"},
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextmanager
def workers(count: int, environment: Mapping[str, str]) -> Iterator[None]:
    """Have so many workers take runs for as long as the block lasts."""
    with ExitStack() as stack, tempfile.TemporaryFile("w+") as log:
        for number in range(count):
            process = start_worker(f"worker-{number + 1}", environment, log.fileno())
            stack.enter_context(ending(process, END_SECONDS))
        yield
