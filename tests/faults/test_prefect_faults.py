"""Days on which Prefect, its database, a worker or the clock misbehaves."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from benchmarks.batch import DeployedBatch
from benchmarks.workers import start_worker
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.fault_day import Account, Day, flow_command, halt
from tests.support.prefect_servers import PrefectServer, postgresql
from tests.support.until import block_until

MakeDay = Callable[..., Day]
Settle = Callable[..., Account]

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) { return atol(getenv("CLOCK_SHIFT")); }

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(id, at);
    if (!answer && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return answer;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


def test_the_api_is_killed_and_restarted(make_day: MakeDay, settle: Settle, tmp_path: Path) -> None:
    """Rule: a run goes on landing while Prefect is away, and ends when it is back."""
    day = make_day(100)
    with PrefectServer(tmp_path / "prefect") as server:
        run = day.start(command=flow_command(day, in_flight=5), PREFECT_API_URL=server.api_url)
        day.wait_for(lambda: day.landed() > 10, run)
        server.kill()
        day.wait_for(lambda: day.landed() > 50, run)
        server.start()
        day.end(run)
    assert day.run() == 0
    settle(day, "Prefect's API killed in mid-run, and started again after 40 more rows")


def test_postgresql(make_day: MakeDay, settle: Settle, tmp_path: Path) -> None:
    """Rule: which database Prefect has makes no difference."""
    day = make_day()
    with (
        postgresql() as url,
        PrefectServer(tmp_path / "prefect", PREFECT_SERVER_DATABASE_CONNECTION_URL=url) as server,
    ):
        flow = flow_command(day, in_flight=10)
        run = day.start(command=flow, PREFECT_API_URL=server.api_url)
        day.wait_for(lambda: day.landed() > 10, run)
        run.process.send_signal(signal.SIGTERM)
        day.end(run)
        assert day.end(day.start(command=flow, PREFECT_API_URL=server.api_url)) == 0
        found = httpx.post(f"{server.api_url}/flow_runs/count", json={}, trust_env=False).json()
        assert found == 2
    account = day.settle()
    assert account.told <= 1
    settle(
        day,
        "PostgreSQL as Prefect's database; SIGTERM in mid-run, and run again",
        told=account.told,
        exception="the one submit that the signal itself may interrupt",
    )


def test_basic_authentication(make_day: MakeDay, settle: Settle, tmp_path: Path) -> None:
    """Rule: Prefect's password is used, and shown nowhere."""
    day = make_day()
    password = "s3cr3t-of-prefect"
    day.secrets.append(password)
    authentication = f"admin:{password}"
    with PrefectServer(
        tmp_path / "prefect", PREFECT_SERVER_API_AUTH_STRING=authentication
    ) as server:
        assert httpx.post(f"{server.api_url}/flow_runs/count", json={}).status_code == 401
        environment = {"PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": authentication}
        assert day.end(day.start(command=flow_command(day), **environment)) == 0
    settle(day, "basic authentication at Prefect's API")


def test_four_batches_on_sqlite(make_day: MakeDay, settle: Settle, prefect_api: str) -> None:
    """Rule: Prefect's SQLite, under several runs at once, costs time at most."""
    days = [make_day(50) for _ in range(4)]
    runs = [day.start(command=flow_command(day), PREFECT_API_URL=prefect_api) for day in days]
    assert [day.end(run) for day, run in zip(days, runs, strict=True)] == [0] * 4
    settle(days[0], "four batches at once on Prefect's SQLite", *days[1:])


@pytest.mark.parametrize("what", ["stopped", "killed", "cancelled"])
def test_a_worker_on_a_bad_day(
    make_day: MakeDay, settle: Settle, sandbox: Sandbox, deployed: dict[str, str], what: str
) -> None:
    """Rule: whatever becomes of a worker, another run does what it left, and pays nothing twice."""
    day = make_day()
    log = (day.folder / "worker.log").open("wb")
    worker = start_worker(what, day.environment | deployed, log.fileno())
    try:
        with DeployedBatch(deployed) as batch:
            parameters = {"manifest": str(day.manifest), "destination": str(day.images)}
            parameters |= {"in_flight": 10, "gallery": False}  # type: ignore[dict-item]
            run = batch.start(parameters)
            day.wait_for(lambda: day.landed() > 10)
            if what == "stopped":
                halt(worker, signal.SIGSTOP)
                day.run()  # which takes over, once the other's lease has run out
                halt(worker, signal.SIGCONT)
                block_until(lambda: batch.has_ended(run))
            elif what == "killed":
                halt(worker, signal.SIGKILL)
            else:
                url = f"{deployed['PREFECT_API_URL']}/flow_runs/{run}/set_state"
                state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
                httpx.post(url, json=state, trust_env=False).raise_for_status()
                block_until(lambda: batch.has_ended(run))
                assert batch.state(run) == "CANCELLED"
    finally:
        halt(worker, signal.SIGKILL)
        worker.wait()
        log.close()
    day.run()
    told = day.settle().told
    assert told <= 10
    settle(
        day,
        f"a worker {what} in mid-run, another run takes over",
        told=told,
        killed=what == "killed",
        exception="submits under way when it was killed" if told else "",
    )


@pytest.mark.parametrize("hours", [-2, 2])
def test_the_clock_is_wrong(
    make_day: MakeDay, settle: Settle, sandbox: Sandbox, hours: int
) -> None:
    """Rule: a run on a machine whose clock is off lands and leaves what others can go on with."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler for a library that shifts the clock")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "clock.so"
        source = library.with_suffix(".c")
        source.write_text(CLOCK)
        command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        shifted = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(hours * 3600)}
        day = make_day()
        sandbox.configure(submitted_task=TaskPlan(seconds=1.0))
        run = day.start("--in-flight", "10", **shifted)
        day.wait_for(lambda: day.landed() > 10, run)
        other = day.start("--in-flight", "10")  # with the right clock, at the same time
        assert day.end(run) == 0
        assert day.end(other) == 0
        assert day.run(**shifted) == 0
    settle(day, f"two runs at once, the clock of one {hours:+d} h")
