"""Bad days at their full length: minutes that pass by the clock, of which little is work.

Each has a short form beside it, in which a condition takes the place of the minutes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.batch import DeployedBatch
from benchmarks.workers import start_worker
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from tests.support.fault_day import Account, Day, flow_command, halt
from tests.support.prefect_servers import PrefectServer

pytestmark = pytest.mark.by_the_clock

MakeDay = Callable[..., Day]
Settle = Callable[..., Account]
OUTAGE_SECONDS, RESTART_SECONDS, STOP_SECONDS = 600.0, 60.0, 120.0
RETRY = ("--retry", "unconfirmed", "--retry", "refused")


def test_ten_minutes_of_outage(make_day: MakeDay, settle: Settle, sandbox: Sandbox) -> None:
    """Rule: what was submitted before ten minutes of outage is landed after them, by that run."""
    day = make_day(60)
    day.max_seconds = OUTAGE_SECONDS + 300
    run = day.start("--in-flight", "10")
    day.wait_for(lambda: day.landed() > 10, run)
    for target in ("api", "files"):
        sandbox.add_fault(Fault(kind="http-status", on=target, status=503))  # type: ignore[arg-type]
    submitted = day.submitted()
    time.sleep(OUTAGE_SECONDS)
    assert run.process.poll() is None, day.said()[-2000:]
    sandbox.clear_faults()
    day.end(run)
    assert day.landed() >= submitted
    assert day.run(*RETRY) == 0
    settle(day, "an outage of all routes (503) for ten minutes, by the clock")


def test_a_minute_without_prefect(
    make_day: MakeDay, settle: Settle, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: a run goes on while Prefect is away for a minute, and ends when it is back."""
    day = make_day(150)
    day.max_seconds = RESTART_SECONDS + 400
    sandbox.configure(submitted_task=TaskPlan(seconds=4))
    with PrefectServer(tmp_path / "prefect") as server:
        run = day.start(command=flow_command(day, in_flight=5), PREFECT_API_URL=server.api_url)
        day.wait_for(lambda: day.landed() > 10, run)
        server.kill()
        before = day.landed()
        time.sleep(RESTART_SECONDS)
        assert before < day.landed() < day.rows
        assert run.process.poll() is None, day.said()[-2000:]
        server.start()
        assert day.end(run) == 0
    assert day.run() == 0
    settle(day, "Prefect's API killed in mid-run, and started again after 60 s, by the clock")


@pytest.mark.parametrize("another", [False, True], ids=["alone", "taken over"])
def test_a_worker_that_is_stopped_for_two_minutes(
    make_day: MakeDay, settle: Settle, deployed: dict[str, str], *, another: bool
) -> None:
    """Rule: a worker and its run that stand still go on where they were; nothing is paid twice."""
    day = make_day()
    day.max_seconds = STOP_SECONDS + 300
    log = (day.folder / "worker.log").open("wb")
    worker = start_worker("stopped", day.environment | deployed, log.fileno())
    try:
        with DeployedBatch(deployed) as batch:
            parameters = {"manifest": str(day.manifest), "destination": str(day.images)}
            parameters |= {"in_flight": 10, "gallery": False}  # type: ignore[dict-item]
            run = batch.start(parameters)
            day.wait_for(lambda: day.landed() > 10)
            halt(worker, signal.SIGSTOP)
            stopped, landed = time.monotonic(), day.landed()
            assert landed < day.rows
            if another:
                day.run()
            time.sleep(max(0.0, stopped + STOP_SECONDS - time.monotonic()))
            assert another or day.landed() == landed
            halt(worker, signal.SIGCONT)
            day.wait_for(lambda: batch.has_ended(run))
    finally:
        halt(worker, signal.SIGKILL)
        worker.wait()
        log.close()
    assert day.run() == 0
    who = "another run takes over" if another else "nobody takes over"
    settle(day, f"a worker and its run stopped for two minutes, by the clock, {who}")
