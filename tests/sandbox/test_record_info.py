"""What the sandbox's record-info says of tasks, over their time and in their shapes."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from nanobanana_blocks.sandbox import (
    CONTENT_POLICY_MESSAGE,
    Sandbox,
    SandboxControlError,
    SandboxSettings,
    TaskPlan,
)
from nanobanana_blocks.sandbox.state import SandboxState
from tests.support.sandbox_api import API, DONE, envelope, fetch, record, result_url

# --- record-info


def test_a_generating_task_has_nulls(sandbox: Sandbox, api: httpx.Client) -> None:
    """While generating, the flag is 0 and what is not known yet is null."""
    task_id = sandbox.add_task(TaskPlan(seconds=None, prompt="a fig"))
    answer = envelope(api, task_id)
    data = answer["data"]
    assert (answer["code"], answer["msg"], data["successFlag"]) == (200, "success", 0)
    unknown = ("completeTime", "response", "errorCode", "errorMessage")
    assert [data[name] for name in unknown] == [None] * 4
    assert data["taskId"] == task_id
    assert data["operationType"] == "nanobanana_TEXTTOIAMGE"
    assert json.loads(data["paramJson"]) == {
        "numImages": 1,
        "prompt": "a fig",
        "type": "TEXTTOIAMGE",
    }


def test_a_finished_task_has_urls_and_times(sandbox: Sandbox, api: httpx.Client) -> None:
    """Success has flag 1, both URLs, null errors and zoneless times in UTC+8."""
    data = record(api, sandbox.add_task(DONE))
    assert data["successFlag"] == 1
    assert data["errorCode"] is None
    assert data["response"]["originImageUrl"].startswith(f"{sandbox.base_url}/files/origin/")
    assert data["response"]["resultImageUrl"].startswith(f"{sandbox.base_url}/files/result/")
    east = timezone(timedelta(hours=8))
    for name in ("createTime", "completeTime"):
        moment = datetime.strptime(data[name], "%Y-%m-%d %H:%M:%S").replace(tzinfo=east)
        assert abs(moment.timestamp() - time.time()) < 60


@pytest.mark.parametrize(
    ("outcome", "flag"), [("create-failed", 2), ("generate-failed", 3)], ids=["create", "generate"]
)
def test_failures_say_why(sandbox: Sandbox, api: httpx.Client, outcome: Any, flag: int) -> None:
    """A failed task has its flag, its code and message, and no response."""
    plan = TaskPlan(
        seconds=0, outcome=outcome, error_code=400, error_message=CONTENT_POLICY_MESSAGE
    )
    data = record(api, sandbox.add_task(plan))
    assert (data["successFlag"], data["errorCode"], data["response"]) == (flag, 400, None)
    assert data["errorMessage"] == CONTENT_POLICY_MESSAGE


def test_an_error_code_is_sent_as_given(sandbox: Sandbox, api: httpx.Client) -> None:
    """errorCode may be text, null or left to the default of 501."""
    failing = TaskPlan(seconds=0, outcome="generate-failed")
    plans = [
        failing,
        TaskPlan(seconds=0, outcome="generate-failed", error_code="500"),
        TaskPlan(seconds=0, outcome="generate-failed", error_code=None),
        TaskPlan(seconds=0, error_code=0),
    ]
    codes = [record(api, task_id)["errorCode"] for task_id in sandbox.add_tasks(plans)]
    assert codes == [501, "500", None, 0]


def test_the_key_is_checked(sandbox: Sandbox, api: httpx.Client) -> None:
    """A wrong or missing key is HTTP 200 with body code 401; the status follows on request."""
    task_id = sandbox.add_task(DONE)
    path = f"{API}/record-info?taskId={task_id}"
    for header in ({"authorization": "Bearer wrong"}, {"authorization": sandbox.api_key}):
        response = api.get(path, headers=header)
        assert (response.status_code, response.json()["code"]) == (200, 401)
        assert response.json()["msg"] == "You do not have access permissions"
        assert response.json()["data"] is None
    sandbox.configure(refusals_as_http_status=True)
    assert api.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401


def test_an_unknown_task_is_answered_in_three_ways(sandbox: Sandbox, api: httpx.Client) -> None:
    """Body 404 by default; 422 or a null record where configured."""
    assert envelope(api, "nobody")["code"] == 404
    sandbox.configure(unknown_task="422")
    assert envelope(api, "nobody")["msg"] == "recordInfo is null"
    sandbox.configure(unknown_task="null")
    assert envelope(api, "nobody") == {"code": 200, "msg": "success", "data": None}


@pytest.mark.parametrize("query", ["", "?taskId=", "?taskId=%20", "?task=1"])
def test_a_missing_task_id_is_a_parameter_error(api: httpx.Client, query: str) -> None:
    """No task id, or a blank one, is body code 400."""
    assert api.get(f"{API}/record-info{query}").json()["code"] == 400


def test_an_unknown_path_is_the_frameworks_404(api: httpx.Client) -> None:
    """Off the map it is HTTP 404, and JSON that is not the envelope."""
    response = api.get("/api/v1/nanobanana/no-such-thing")
    assert response.status_code == 404
    assert set(response.json()) == {"timestamp", "status", "error", "path"}
    assert api.post(f"{API}/record-info").status_code == 405


def test_ids_of_any_kind_are_found(sandbox: Sandbox, api: httpx.Client) -> None:
    """An id may hold slashes, spaces and any script; its image is still reachable."""
    for task_id in ("../../etc/passwd", "a b&c=d", "香蕉"):
        sandbox.add_task(TaskPlan(task_id=task_id, seconds=0))
        assert record(api, task_id)["taskId"] == task_id
        assert fetch(result_url(api, task_id)).status_code == 200
    with pytest.raises(SandboxControlError, match="taken"):
        sandbox.add_task(TaskPlan(task_id="a b&c=d"))


# --- time


def test_time_can_be_skipped(sandbox: Sandbox, api: httpx.Client) -> None:
    """A task becomes visible, then done, as the sandbox's clock is moved forward."""
    task_id = sandbox.add_task(TaskPlan(seconds=20, invisible_seconds=5))
    assert envelope(api, task_id)["code"] == 404
    sandbox.advance(6)
    assert record(api, task_id)["successFlag"] == 0
    assert task_id not in sandbox.stats().done_at
    sandbox.advance(15)
    assert record(api, task_id)["successFlag"] == 1
    assert task_id in sandbox.stats().done_at


def test_generation_times_follow_the_service() -> None:
    """Drawn times have the median and p99 asked for, scaled by speed, the same for a seed."""

    def seconds(seed: int, speed: float) -> list[float]:
        state = SandboxState(SandboxSettings(seed=seed, speed=speed), "")
        tasks = state.register([TaskPlan(task_id=f"t{n}") for n in range(2000)])
        return sorted(task.done_at - task.created_at for task in tasks)

    plain, fast, other = seconds(1, 1.0), seconds(1, 10.0), seconds(2, 1.0)
    assert 16 < plain[1000] < 21
    assert 50 < plain[1980] < 90
    assert plain[1000] / fast[1000] == pytest.approx(10)
    assert seconds(1, 1.0) == pytest.approx(plain)
    assert abs(plain[1999] - other[1999]) > 0.5


def test_quirks_of_time(sandbox: Sandbox, api: httpx.Client) -> None:
    """24 o'clock, epoch milliseconds, nonsense, and a completeTime that comes too early."""
    styles = ("24-oclock", "epoch-milliseconds", "garbage")
    plans = [TaskPlan(seconds=0, time_style=style) for style in styles]
    odd, epoch, garbage = (record(api, i)["completeTime"] for i in sandbox.add_tasks(plans))
    assert odd.endswith(" 24:00:00")
    assert isinstance(epoch, int)
    assert epoch > 10**12
    assert garbage == "not a time"
    early = record(api, sandbox.add_task(TaskPlan(seconds=None, early_complete_time=True)))
    assert early["successFlag"] == 0
    assert early["completeTime"] is not None


# --- shapes of success


def test_shapes_of_several_images(sandbox: Sandbox, api: httpx.Client) -> None:
    """Several URLs come as a list, under two other names, or only the first as text."""
    shapes = (None, "list", "resultImageUrls", "resultUrls", "string")
    plans = [TaskPlan(seconds=0, images=3, urls_as=shape) for shape in shapes]
    answers = [record(api, task_id)["response"] for task_id in sandbox.add_tasks(plans)]
    for answer, name in zip(
        answers, ("resultImageUrl", "resultImageUrl", "resultImageUrls", "resultUrls"), strict=False
    ):
        assert len(set(answer[name])) == 3
    assert answers[3]["resultImageUrl"] is None
    assert isinstance(answers[4]["resultImageUrl"], str)


def test_success_without_a_url_for_a_while(sandbox: Sandbox, api: httpx.Client) -> None:
    """The first looks after success may find no URL."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, looks_without_url=2))
    urls = [result_url(api, task_id) for _ in range(3)]
    assert urls[:2] == ["None", "None"]
    assert urls[2].startswith("http")


def test_a_dead_result_url_beside_a_living_origin(sandbox: Sandbox, api: httpx.Client) -> None:
    """resultImageUrl may be dead for good, or until asked for again; originImageUrl lives."""
    dead = sandbox.add_task(TaskPlan(seconds=0, dead_result_url="always"))
    assert fetch(record(api, dead)["response"]["originImageUrl"]).status_code == 200
    assert fetch(result_url(api, dead)).status_code == 403
    revived = sandbox.add_task(TaskPlan(seconds=0, dead_result_url="first-look"))
    assert fetch(result_url(api, revived)).status_code == 403
    assert fetch(result_url(api, revived)).status_code == 200
    plain = sandbox.add_task(TaskPlan(seconds=0, origin_url=False))
    assert record(api, plain)["response"]["originImageUrl"] is None
