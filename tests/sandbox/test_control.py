"""The sandbox is controlled, started and stopped as it should be."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from nanobanana_blocks.sandbox import (
    Fault,
    Sandbox,
    SandboxControl,
    SandboxControlError,
    SandboxSettings,
    SandboxStartError,
    TaskPlan,
)
from tests.support.sandbox_api import DONE, Receiver, envelope, record, result_url
from tests.support.until import block_until

# --- control


def test_ten_thousand_tasks_in_one_call(sandbox: Sandbox, api: httpx.Client) -> None:
    """A benchmark's tasks are registered at once, and cost nothing."""
    ids = sandbox.add_tasks([TaskPlan()] * 10_000)
    assert len(set(ids)) == 10_000
    assert record(api, ids[-1])["successFlag"] == 0
    assert sandbox.stats().credits_spent == 0


def test_control_over_http(sandbox: Sandbox) -> None:
    """The control interface is JSON that curl can write, wants the key, and explains itself."""
    guide = httpx.get(f"{sandbox.base_url}/sandbox", trust_env=False).json()
    assert "POST /sandbox/tasks" in guide["control"]
    assert httpx.post(f"{sandbox.base_url}/sandbox/reset", trust_env=False).status_code == 401
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    body = {"tasks": [{"seconds": None}, {"task_id": "mine"}]}
    answer = httpx.post(f"{sandbox.control_url}/tasks", json=body, headers=headers, trust_env=False)
    assert answer.json()["task_ids"][1] == "mine"
    bad = httpx.post(
        f"{sandbox.control_url}/faults", json={"kind": "rain"}, headers=headers, trust_env=False
    )
    assert bad.status_code == 422
    elsewhere = SandboxControl(sandbox.base_url, sandbox.api_key)
    with pytest.raises(SandboxControlError, match="taken"):
        elsewhere.add_task(TaskPlan(task_id="mine"))
    elsewhere.close()


def test_the_key_and_the_address_are_fixed(sandbox: Sandbox) -> None:
    """What identifies a running sandbox cannot be changed under its clients."""
    with pytest.raises(SandboxControlError, match="api_key"):
        sandbox.configure(api_key="other")


def test_image_urls_can_name_another_address() -> None:
    """Behind a proxy or in a container, URLs begin as clients see them."""
    settings = SandboxSettings(public_url="http://sandbox.test:8000")
    with Sandbox(settings) as sandbox:
        headers = {"authorization": f"Bearer {sandbox.api_key}"}
        with httpx.Client(base_url=sandbox.base_url, headers=headers, trust_env=False) as client:
            url = result_url(client, sandbox.add_task(DONE))
    assert url.startswith("http://sandbox.test:8000/files/")


def test_reset_forgets_everything(sandbox: Sandbox, api: httpx.Client) -> None:
    """After a reset there are no tasks, faults, counts or changed settings."""
    task_id = sandbox.add_task(DONE)
    sandbox.configure(credits=4, unknown_task="422")
    sandbox.add_fault(Fault(kind="drop"))
    sandbox.reset()
    assert envelope(api, task_id)["code"] == 404
    assert api.get("/api/v1/common/credit").json()["data"] == 10_000
    stats = sandbox.stats()
    assert stats.requests == {"record-info": 1, "credit": 1}
    assert stats.done_at == {}


def test_no_id_is_given_again_after_a_reset(sandbox: Sandbox) -> None:
    """Rule: who still asks about a task of before is not told of another; draws are repeated."""

    def drawn() -> dict[str, float]:
        sandbox.reset()
        task_ids = sandbox.add_tasks([TaskPlan(seconds="drawn") for _ in range(3)])
        sandbox.advance(1e6)
        done_at = sandbox.stats().done_at
        return {task_id: done_at[task_id] - done_at[task_ids[0]] for task_id in task_ids}

    before, after = drawn(), drawn()
    assert not before.keys() & after.keys()
    assert [*before.values()] == pytest.approx([*after.values()], abs=2)


# --- running


def test_a_taken_port_is_one_clear_error() -> None:
    """A second server on a port says so, and what to do."""
    with (
        Sandbox() as first,
        pytest.raises(SandboxStartError, match="choose another port"),
    ):
        Sandbox(port=int(first.base_url.rpartition(":")[2]))


def test_other_machines_are_let_in_only_explicitly() -> None:
    """A host that is not loopback is refused unless allowed."""
    with pytest.raises(SandboxStartError, match="explicitly"):
        Sandbox(host="0.0.0.0")  # noqa: S104 - the refusal is the point
    with Sandbox(host="0.0.0.0", allow_remote=True) as sandbox:  # noqa: S104 - allowed here
        assert sandbox.base_url.startswith("http://127.0.0.1:")
        assert sandbox.stats().requests == {}


def test_it_stops_while_answers_are_delayed(receiver: Receiver) -> None:
    """Stopping does not wait for slow answers or pending callbacks."""
    with Sandbox() as sandbox:
        sandbox.add_task(TaskPlan(seconds=1000, callback_url=receiver.url))
        sandbox.add_fault(Fault(kind="latency", seconds=1000))
        port = int(sandbox.base_url.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/api/v1/common/credit")
        block_until(lambda: sandbox.stats().requests.get("credit") == 1)
    with pytest.raises(http.client.HTTPException):
        connection.getresponse()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_greets_and_stops_on_signals(number: signal.Signals) -> None:
    """It says what it is and how to reach it, needs no pytest, and ends with status 0."""
    code = """
import sys
from nanobanana_blocks.sandbox import serve
assert "pytest" not in sys.modules
serve(port=0)
"""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "Ctrl-C" not in lines[-1]:
        line = process.stdout.readline()
        assert line, lines
        lines.append(line.strip())
    pasted = [line.removeprefix("export ") for line in lines if line.startswith("export ")]
    settings = dict(line.split("=", 1) for line in pasted)
    control = SandboxControl(settings["NANOBANANA_BASE_URL"], settings["NANOBANANA_API_KEY"])
    assert control.stats().requests == {}
    control.close()
    [curl] = [line for line in lines if line.startswith("curl ")]
    told = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["data"] == 10_000
    assert any("No credits are spent" in line for line in lines)
    assert any(control.control_url in line for line in lines)
    process.send_signal(number)
    assert "stopped" in process.communicate(timeout=20)[0]
    assert process.returncode == 0
