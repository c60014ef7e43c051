"""Days on which the service misbehaves."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from nanobanana_blocks.sandbox import Fault, Sandbox
from tests.support.fault_day import Account, Day, flow_command

MakeDay = Callable[..., Day]
Settle = Callable[..., Account]
RECEIVER_SECRET = "a-secret-of-this-test-alone-0123456789"
RETRY = ("--retry", "unconfirmed", "--retry", "refused")


def test_errors_on_every_route(make_day: MakeDay, settle: Settle, sandbox: Sandbox) -> None:
    """Rule: one answer in twenty being an error costs nothing but patience."""
    day = make_day(2000)
    for target in ("api", "files"):
        sandbox.add_fault(
            Fault(kind="http-status", on=target, status=500, probability=0.05)  # type: ignore[arg-type]
        )
    day.run()
    day.run()
    sandbox.clear_faults()
    # An error in answer to a submit leaves its row in doubt, which a person resolves.
    assert day.run(*RETRY) == 0
    settle(day, "5 % of all answers are errors, on every route, over 2,000 rows")
    assert sandbox.stats().faults_fired["http-status"] > 200


def test_an_outage(make_day: MakeDay, settle: Settle, sandbox: Sandbox) -> None:
    """Rule: what was submitted before an outage is landed after it, in the same run."""
    day = make_day(60)
    run = day.start("--in-flight", "10")
    day.wait_for(lambda: day.landed() > 10, run)
    for target in ("api", "files"):
        sandbox.add_fault(Fault(kind="http-status", on=target, status=503))  # type: ignore[arg-type]
    fired = sandbox.stats().faults_fired.get("http-status", 0)
    day.wait_for(lambda: sandbox.stats().faults_fired.get("http-status", 0) > fired + 40, run)
    sandbox.clear_faults()
    day.end(run)
    assert day.run(*RETRY) == 0
    settle(day, "an outage of all routes (503) in mid-run")


@pytest.mark.parametrize("kind", ["drop", "http-status"])
def test_lost_answers_to_submits(
    make_day: MakeDay, settle: Settle, sandbox: Sandbox, kind: str
) -> None:
    """Rule: a submit without an answer may be paid for: it is told, and never sent again."""
    day = make_day(200)
    sandbox.add_fault(
        Fault(kind=kind, on="submit", probability=0.1, takes_effect=True)  # type: ignore[arg-type]
    )
    day.run()
    sandbox.clear_faults()
    day.run()
    unanswered = sandbox.stats().faults_fired[kind]
    assert unanswered > 5
    settle(
        day,
        f"one answer in ten to a submit is lost ({kind}), no receiver",
        told=unanswered,
        exception="paid for and told as unconfirmed; a receiver finds them",
    )


def test_lost_answers_with_a_receiver(
    make_day: MakeDay, settle: Settle, sandbox: Sandbox, prefect_api: str
) -> None:
    """Rule: with a receiver, a submit whose answer was lost is found by its callback."""
    day = make_day(100)
    environment = {"NANOBANANA_CALLBACK_SECRET": RECEIVER_SECRET, "PREFECT_API_URL": prefect_api}
    day.secrets.append(RECEIVER_SECRET)
    command = [sys.executable, "-m", "nanobanana_blocks", "callbacks", "--port", "0"]
    command += ["--spool", str(day.folder / "spool.db"), "--to", str(day.images)]
    receiver = day.start(command=command, **environment)
    day.wait_for(lambda: re.search(r"(http://\S+)/callbacks/", day.said()), receiver)
    [url, *_] = re.findall(r"(http://\S+)/callbacks/", day.said())
    sandbox.add_fault(Fault(kind="drop", on="submit", probability=0.1, takes_effect=True))
    flow = flow_command(day, receiver_url=url)
    day.end(day.start(command=flow, **environment))
    sandbox.clear_faults()
    assert sandbox.stats().faults_fired["drop"] > 3
    day.end(day.start(command=flow, **environment))
    settle(day, "one answer in ten to a submit is lost (drop), with a receiver")


def test_killed_again_and_again(make_day: MakeDay, settle: Settle) -> None:
    """Rule: a run that is killed at any time is continued by the next."""
    day = make_day(120)
    for landed in (5, 25, 50, 80):
        run = day.start("--in-flight", "10")
        day.wait_for(lambda landed=landed: day.landed() > landed, run)
        day.kill(run)
    day.run()
    account = day.settle()
    assert account.told <= 40
    settle(
        day,
        "killed with SIGKILL four times",
        told=account.told,
        killed=4,
        exception="told: submits that were under way when it was killed, at most 10 each time",
    )
