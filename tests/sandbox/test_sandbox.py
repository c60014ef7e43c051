"""The sandbox keeps the API's documented and observed habits; real requests to a real server."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image
from pydantic import ValidationError

from nanobanana_blocks.sandbox import (
    CONTENT_POLICY_MESSAGE,
    SIGNATURE_MARK,
    CallbackWeather,
    Fault,
    RateLimit,
    Sandbox,
    SandboxControl,
    SandboxControlError,
    SandboxSettings,
    SandboxStartError,
    TaskPlan,
)
from tests.support.until import block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["nanobanana_blocks.sandbox.fixtures"]

API = "/api/v1/nanobanana"
DONE = TaskPlan(seconds=0)
KEYLESS = httpx.Client(headers={"user-agent": "nanobanana-blocks-tests"}, trust_env=False)
PROMPT = {"prompt": "a banana", "type": "TEXTTOIAMGE", "callBackUrl": ""}


@pytest.fixture(scope="module", autouse=True)
def _close_the_keyless_client() -> Iterator[None]:
    yield
    KEYLESS.close()


@pytest.fixture
def sandbox(nanobanana_sandbox: Sandbox) -> Sandbox:
    return nanobanana_sandbox


@pytest.fixture(scope="session")
def connection(nanobanana_sandbox_server: Sandbox) -> Iterator[httpx.Client]:
    server = nanobanana_sandbox_server
    headers = {"authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.base_url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def api(sandbox: Sandbox, connection: httpx.Client) -> httpx.Client:
    """A client with the key, of a sandbox that was reset for this test."""
    return connection


def look(api: httpx.Client, task_id: str) -> dict[str, Any]:
    """The record-info envelope of a task."""
    return dict(api.get(f"{API}/record-info", params={"taskId": task_id}).json())


def record(api: httpx.Client, task_id: str) -> dict[str, Any]:
    return dict(look(api, task_id)["data"])


def result_url(api: httpx.Client, task_id: str) -> str:
    return str(record(api, task_id)["response"]["resultImageUrl"])


def fetch(url: str, **options: Any) -> httpx.Response:
    """Get an image as a keyless client with a name."""
    return KEYLESS.get(url, **options)


def submit(api: httpx.Client, endpoint: str = "generate", **changes: Any) -> dict[str, Any]:
    body = (PROMPT if endpoint == "generate" else {"prompt": "a banana"}) | changes
    return dict(api.post(f"{API}/{endpoint}", json=body).json())


# --- record-info


def test_a_generating_task_has_nulls(sandbox: Sandbox, api: httpx.Client) -> None:
    """While generating, the flag is 0 and what is not known yet is null."""
    task_id = sandbox.add_task(TaskPlan(seconds=None, prompt="a fig"))
    envelope = look(api, task_id)
    data = envelope["data"]
    assert (envelope["code"], envelope["msg"], data["successFlag"]) == (200, "success", 0)
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
    assert look(api, "nobody")["code"] == 404
    sandbox.configure(unknown_task="422")
    assert look(api, "nobody")["msg"] == "recordInfo is null"
    sandbox.configure(unknown_task="null")
    assert look(api, "nobody") == {"code": 200, "msg": "success", "data": None}


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
    assert look(api, task_id)["code"] == 404
    sandbox.advance(6)
    assert record(api, task_id)["successFlag"] == 0
    assert task_id not in sandbox.stats().done_at
    sandbox.advance(15)
    assert record(api, task_id)["successFlag"] == 1
    assert task_id in sandbox.stats().done_at


def test_generation_times_follow_the_service() -> None:
    """Drawn times have the median and p99 asked for, scaled by speed, the same for a seed."""

    def seconds(seed: int, speed: float) -> list[float]:
        with Sandbox(SandboxSettings(seed=seed, speed=speed)) as sandbox:
            start = time.time()
            sandbox.add_tasks([TaskPlan(task_id=f"t{n}") for n in range(2000)])
            sandbox.advance(10_000)
            return sorted(moment - start for moment in sandbox.stats().done_at.values())

    plain, fast, other = seconds(1, 1.0), seconds(1, 10.0), seconds(2, 1.0)
    assert 16 < plain[1000] < 21
    assert 50 < plain[1980] < 90
    assert 1.6 < fast[1000] < 2.4
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


# --- images


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
def test_images_are_real(sandbox: Sandbox, api: httpx.Client, media_type: Any) -> None:
    """Each type decodes at the size asked for, says what it is and how long it is."""
    task_id = sandbox.add_task(
        TaskPlan(seconds=0, media_type=media_type, width=200, height=120, task_id="fixed")
    )
    response = fetch(result_url(api, task_id))
    assert response.headers["content-type"] == media_type
    assert int(response.headers["content-length"]) == len(response.content)
    with Image.open(io.BytesIO(response.content)) as image:
        image.load()
        assert (image.size, Image.MIME[str(image.format)]) == ((200, 120), media_type)
    assert fetch(result_url(api, task_id)).content == response.content
    head = KEYLESS.head(result_url(api, task_id))
    assert head.headers["content-length"] == response.headers["content-length"]
    assert sandbox.stats().images_served == {"fixed": 2}


def test_images_differ_between_tasks(sandbox: Sandbox, api: httpx.Client) -> None:
    """No two tasks, and no two images of a task, share their bytes; types and sizes vary."""
    tasks = sandbox.add_tasks([TaskPlan(seconds=0, images=2)] * 6)
    urls = [url for task_id in tasks for url in record(api, task_id)["response"]["resultImageUrl"]]
    answers = [fetch(url) for url in urls]
    assert len({answer.content for answer in answers}) == 12
    assert len({answer.headers["content-type"] for answer in answers}) > 1


def test_headers_and_extensions_can_lie(sandbox: Sandbox, api: httpx.Client) -> None:
    """The URL's extension and the media type may say other than the bytes."""
    plan = TaskPlan(
        seconds=0, media_type="image/jpeg", url_extension="png", content_type="text/plain"
    )
    url = result_url(api, sandbox.add_task(plan))
    assert httpx.URL(url).path.endswith(".png")
    response = fetch(url)
    assert response.headers["content-type"] == "text/plain"
    assert response.content.startswith(b"\xff\xd8")


def test_the_image_host_refuses_nameless_clients(sandbox: Sandbox, api: httpx.Client) -> None:
    """An empty User-Agent and urllib's own get 403."""
    url = result_url(api, sandbox.add_task(DONE))
    for agent in ("", "Python-urllib/3.12"):
        response = fetch(url, headers={"user-agent": agent})
        assert response.status_code == 403
    assert fetch(url).status_code == 200


def test_urls_expire(sandbox: Sandbox, api: httpx.Client) -> None:
    """The origin lives 10 minutes, the result longer, both scaled by speed."""
    response = record(api, sandbox.add_task(DONE))["response"]
    sandbox.advance(601)
    assert fetch(response["originImageUrl"]).status_code == 403
    assert fetch(response["resultImageUrl"]).status_code == 200
    sandbox.advance(14 * 86_400)
    assert fetch(response["resultImageUrl"]).status_code == 403
    sandbox.configure(speed=100.0, expired_url_status=410)
    brief = record(api, sandbox.add_task(DONE))["response"]["originImageUrl"]
    sandbox.advance(7)
    assert fetch(brief).status_code == 410


def test_urls_are_signed(sandbox: Sandbox, api: httpx.Client) -> None:
    """A URL without its signature, or with another's, is refused; the mark is in each."""
    url = result_url(api, sandbox.add_task(DONE))
    other = result_url(api, sandbox.add_task(DONE))
    assert SIGNATURE_MARK in url
    assert fetch(url.partition("?")[0]).status_code == 403
    assert fetch(url.partition("?")[0] + "?" + other.partition("?")[2]).status_code == 403
    assert fetch(f"{sandbox.base_url}/files/result/nobody_1.png").status_code == 404


def test_a_key_on_the_image_host_is_noticed(sandbox: Sandbox, api: httpx.Client) -> None:
    """Requests that bring the key where it does not belong are counted."""
    url = result_url(api, sandbox.add_task(DONE))
    fetch(url)
    assert sandbox.stats().keys_on_image_host == 0
    api.get(url)
    fetch(f"{url}&key={sandbox.api_key}")
    assert sandbox.stats().keys_on_image_host == 2


@pytest.mark.parametrize("size", [2_000, 60_000, 200_000])
def test_images_of_one_size_for_benchmarks(sandbox: Sandbox, api: httpx.Client, size: int) -> None:
    """With `image_bytes`, every image is a valid JPEG of about that size, yet its own."""
    sandbox.configure(image_bytes=size)
    urls = [result_url(api, task_id) for task_id in sandbox.add_tasks([DONE] * 3)]
    assert all(".jpg?" in url for url in urls)
    bodies = [fetch(url).content for url in urls]
    assert len(set(bodies)) == 3
    for body in bodies:
        assert 0.9 * size <= len(body) <= size
        with Image.open(io.BytesIO(body)) as image:
            image.load()


# --- submits


def test_the_three_endpoints_create_and_bill(sandbox: Sandbox, api: httpx.Client) -> None:
    """Each answers with a task id, takes its price, and its task can be looked at."""
    sandbox.configure(credits=100, submitted_task=DONE)
    first = submit(api, numImages=2, image_size="16:9")
    second = submit(api, "generate-pro", resolution="2K", aspectRatio="auto")
    third = submit(api, "generate-2", resolution="4K", outputFormat="png", aspectRatio="1:8")
    assert first["msg"] == "success"
    assert second["message"] == "success"
    assert "msg" not in second
    stats = sandbox.stats()
    assert (stats.submits, stats.credits_spent, stats.credits_left) == (3, 4 + 12 + 18, 66)
    assert api.get("/api/v1/common/credit").json()["data"] == 66
    operations = []
    for answer in (first, second, third):
        data = record(api, answer["data"]["taskId"])
        operations.append(data["operationType"])
        assert json.loads(data["paramJson"])["prompt"] == "a banana"
    assert operations == ["nanobanana_TEXTTOIAMGE", "nanobanana_pro", "nanobanana_2"]
    wide = record(api, first["data"]["taskId"])["response"]["resultImageUrl"]
    assert len(wide) == 2
    with Image.open(io.BytesIO(fetch(wide[0]).content)) as image:
        assert abs(image.width / image.height - 16 / 9) < 0.01
    tall = fetch(result_url(api, third["data"]["taskId"]))
    assert tall.headers["content-type"] == "image/png"
    kept = sandbox.submits()
    assert [one.endpoint for one in kept] == ["generate", "generate-pro", "generate-2"]
    assert kept[1].body["resolution"] == "2K"


@pytest.mark.parametrize(
    ("endpoint", "changes", "message"),
    [
        ("generate", {"prompt": None}, "prompt can not be blank"),
        ("generate", {"prompt": "  "}, "prompt can not be blank"),
        ("generate", {"prompt": 3}, "Incorrect prompt"),
        ("generate", {"type": None}, "type can not be blank"),
        ("generate", {"type": "TEXTTOIMAGE"}, "Incorrect type"),
        ("generate", {"callBackUrl": None}, "callBackUrl can not be null"),
        ("generate", {"image_size": "7:5"}, "Incorrect image_size"),
        ("generate", {"image_size": ["1:1"]}, "Incorrect image_size"),
        ("generate", {"numImages": 5}, "Incorrect numImages"),
        ("generate", {"numImages": True}, "Incorrect numImages"),
        ("generate", {"type": "IMAGETOIAMGE"}, "imageUrls can not be blank"),
        ("generate", {"imageUrls": "http://x"}, "Incorrect imageUrls"),
        ("generate-pro", {"imageUrls": ["http://x"] * 9}, "imageUrls can not hold more than 8"),
        ("generate-pro", {"resolution": "8K"}, "Incorrect resolution"),
        ("generate-2", {"imageUrls": ["http://x"] * 15}, "imageUrls can not hold more than 14"),
        ("generate-2", {"prompt": "x" * 20_001}, "prompt is longer than 20000 characters"),
        ("generate-2", {"outputFormat": "webp"}, "Incorrect outputFormat"),
        ("generate-2", {"googleSearch": "yes"}, "Incorrect googleSearch"),
        ("generate-2", {"aspectRatio": "2:1"}, "Incorrect aspectRatio"),
    ],
)
def test_unacceptable_submits(
    sandbox: Sandbox, api: httpx.Client, endpoint: str, changes: dict[str, Any], message: str
) -> None:
    """What the documents do not allow is refused with 422, creates nothing and costs nothing."""
    answer = submit(api, endpoint, **changes)
    key = "message" if endpoint == "generate-pro" else "msg"
    assert (answer["code"], answer[key], answer["data"]) == (422, message, None)
    stats = sandbox.stats()
    assert (stats.submits, stats.submits_refused, stats.credits_spent) == (0, 1, 0)


def test_bodies_that_are_no_request(sandbox: Sandbox, api: httpx.Client) -> None:
    """Not JSON, or not an object: 400; too large: 413; no key: 401 and not even kept."""
    assert api.post(f"{API}/generate", content=b"{").json()["code"] == 400
    assert api.post(f"{API}/generate", json=[1]).json()["code"] == 400
    sandbox.configure(max_body_bytes=100)
    assert submit(api, prompt="x" * 200)["code"] == 413
    anonymous = api.post(f"{API}/generate", json=PROMPT, headers={"authorization": ""})
    assert anonymous.json()["code"] == 401
    assert len(sandbox.submits()) == 3


def test_credits_run_out(sandbox: Sandbox, api: httpx.Client) -> None:
    """What the account cannot pay for is refused with 402."""
    sandbox.configure(credits=7)
    assert submit(api)["code"] == 200
    refused = submit(api)
    assert refused["code"] == 402
    assert refused["msg"] == "The current credits are insufficient. Please top up."
    assert sandbox.stats().credits_left == 3


def test_a_lost_answer_can_still_cost(sandbox: Sandbox, api: httpx.Client) -> None:
    """A fault that takes effect creates and bills the task before its answer is lost."""
    sandbox.add_fault(Fault(kind="drop", on="submit", count=1, takes_effect=True))
    with pytest.raises(httpx.RemoteProtocolError):
        submit(api)
    sandbox.add_fault(Fault(kind="drop", on="submit", count=1))
    with pytest.raises(httpx.RemoteProtocolError):
        submit(api)
    assert sandbox.stats().submits == 1
    assert record(api, str(sandbox.submits()[0].task_id))["successFlag"] == 0


# --- faults of the API


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_http_errors_on_demand(sandbox: Sandbox, api: httpx.Client, status: int) -> None:
    """An HTTP status comes as often as asked, and then no more."""
    task_id = sandbox.add_task(DONE)
    sandbox.add_fault(Fault(kind="http-status", status=status, count=2))
    path = f"{API}/record-info?taskId={task_id}"
    assert [api.get(path).status_code for _ in range(3)] == [status, status, 200]
    assert sandbox.stats().faults_fired == {"http-status": 2}
    assert sandbox.stats().looks == {task_id: 3}


def test_refusals_on_demand(sandbox: Sandbox, api: httpx.Client) -> None:
    """Body codes come with HTTP 200 or another status, and with Retry-After in both forms."""
    path = f"{API}/record-info?taskId={sandbox.add_task(DONE)}"
    for code in (429, 455, 500, 505):
        sandbox.add_fault(Fault(kind="body-code", code=code, count=1))
        response = api.get(path)
        assert (response.status_code, response.json()["code"]) == (200, code)
        assert "retry-after" not in response.headers
    sandbox.add_fault(Fault(kind="body-code", code=429, status=429, retry_after=7, count=1))
    response = api.get(path)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    sandbox.add_fault(
        Fault(kind="http-status", status=503, retry_after=60, retry_after_as="http-date", count=1)
    )
    when = parsedate_to_datetime(api.get(path).headers["retry-after"])
    assert 50 < when.timestamp() - time.time() < 70


def test_answers_that_are_no_envelope(sandbox: Sandbox, api: httpx.Client) -> None:
    """HTML, broken JSON, other JSON, a redirect, a huge body and a dropped connection."""
    path = f"{API}/record-info?taskId={sandbox.add_task(DONE)}"
    sandbox.add_fault(Fault(kind="html", count=1))
    assert "text/html" in api.get(path).headers["content-type"]
    sandbox.add_fault(Fault(kind="not-json", count=1))
    with pytest.raises(ValueError, match="Expecting"):
        api.get(path).json()
    sandbox.add_fault(Fault(kind="not-envelope", count=1))
    assert "code" not in api.get(path).json()
    sandbox.add_fault(Fault(kind="redirect", url="http://elsewhere.invalid/", count=1))
    assert api.get(path).headers["location"] == "http://elsewhere.invalid/"
    sandbox.add_fault(Fault(kind="huge-body", size=300_000, count=1))
    assert len(api.get(path).content) > 300_000
    sandbox.add_fault(Fault(kind="drop", count=1))
    with pytest.raises(httpx.RemoteProtocolError):
        api.get(path)
    assert api.get(path).json()["code"] == 200


def test_faults_keep_to_their_target(sandbox: Sandbox, api: httpx.Client) -> None:
    """A fault for one task, or one path, leaves the others alone, until it is cleared."""
    sick, well = sandbox.add_tasks([DONE, DONE])
    sandbox.add_fault(Fault(kind="body-code", code=500, task_id=sick))
    sandbox.add_fault(Fault(kind="body-code", code=455, on="credit"))
    assert look(api, sick)["code"] == 500
    assert look(api, well)["code"] == 200
    assert api.get("/api/v1/common/credit").json()["code"] == 455
    assert submit(api)["code"] == 200
    sandbox.clear_faults()
    assert look(api, sick)["code"] == 200


def test_faults_by_chance_repeat_with_the_seed(sandbox: Sandbox, api: httpx.Client) -> None:
    """A probability strikes about as often as it says, at the same requests every time."""

    def strikes() -> list[int]:
        sandbox.reset()
        task_id = sandbox.add_task(DONE)
        sandbox.add_fault(Fault(kind="body-code", code=500, probability=0.3))
        return [look(api, task_id)["code"] for _ in range(100)]

    first = strikes()
    assert 15 < Counter(first)[500] < 45
    assert first == strikes()


async def test_latency_shows_as_requests_in_flight(sandbox: Sandbox) -> None:
    """Late answers are right answers, and the peak of requests in flight is counted."""
    task_id = sandbox.add_task(DONE)
    sandbox.add_fault(Fault(kind="latency", seconds=0.3))
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    url = f"{sandbox.base_url}{API}/record-info?taskId={task_id}"
    async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
        answers = await asyncio.gather(*(client.get(url) for _ in range(5)))
    assert [answer.json()["code"] for answer in answers] == [200] * 5
    assert sandbox.stats().peak_in_flight == 5


def test_impossible_faults_are_refused() -> None:
    """A fault must exist where it is asked for."""
    with pytest.raises(ValidationError, match="only on files"):
        Fault(kind="bomb", on="record-info")
    with pytest.raises(ValidationError, match="does not exist on files"):
        Fault(kind="not-json", on="files")


@pytest.mark.parametrize("algorithm", ["sliding-window", "token-bucket"])
def test_rate_limits(sandbox: Sandbox, api: httpx.Client, algorithm: Any) -> None:
    """Above the limit the body says 429; time refills it; the image host is not counted."""
    task_id = sandbox.add_task(DONE)
    limit = RateLimit(requests=3, per_seconds=60, algorithm=algorithm, retry_after=True)
    sandbox.configure(rate_limits=[limit])
    assert [look(api, task_id)["code"] for _ in range(5)] == [200, 200, 200, 429, 429]
    response = api.get(f"{API}/record-info?taskId={task_id}")
    assert 0 < float(response.headers["retry-after"]) <= 60
    assert sandbox.stats().rate_limited == 3
    sandbox.advance(61)
    assert look(api, task_id)["code"] == 200


def test_a_limit_on_submits(sandbox: Sandbox, api: httpx.Client) -> None:
    """Twenty submits in ten seconds, over the three endpoints together."""
    sandbox.configure(rate_limits=[RateLimit(on="submit", requests=20, per_seconds=10)])
    endpoints = ["generate", "generate-pro", "generate-2"] * 8
    codes = Counter(submit(api, endpoint)["code"] for endpoint in endpoints)
    assert codes == {200: 20, 429: 4}
    assert sandbox.stats().submits == 20


# --- faults of the image host


def test_images_that_are_no_images(sandbox: Sandbox, api: httpx.Client) -> None:
    """HTML with 200, another type, nothing at all, and the statuses of lost files."""
    url = result_url(api, sandbox.add_task(DONE))
    sandbox.add_fault(Fault(kind="html", on="files", count=1))
    assert fetch(url).text.startswith("<!DOCTYPE")
    sandbox.add_fault(Fault(kind="wrong-type", count=1))
    assert fetch(url).content.startswith(b"%PDF")
    sandbox.add_fault(Fault(kind="empty", count=1))
    assert fetch(url).content == b""
    for status in (403, 404, 410):
        sandbox.add_fault(Fault(kind="http-status", on="files", status=status, count=1))
        assert fetch(url).status_code == status
    assert sandbox.stats().images_served == {}


def test_images_cut_short_look_whole_or_broken(sandbox: Sandbox, api: httpx.Client) -> None:
    """Half an image comes as a whole answer in three ways, and as a broken one in two."""
    url = result_url(api, sandbox.add_task(DONE))
    whole = fetch(url).content
    for kind in ("truncated-image", "truncated-chunked", "until-close"):
        sandbox.add_fault(Fault(kind=kind, count=1))
        response = fetch(url)
        assert response.content == whole[: len(whole) // 2], kind
        assert ("content-length" in response.headers) == (kind == "truncated-image")
    for kind in ("truncated-transfer", "chunked-cut"):
        sandbox.add_fault(Fault(kind=kind, count=1))
        with pytest.raises(httpx.RemoteProtocolError):
            fetch(url)
    assert fetch(url).content == whole


def test_endless_and_slow_images(sandbox: Sandbox, api: httpx.Client) -> None:
    """An endless body goes on past any cap until the client leaves; a drip comes in pieces."""
    url = result_url(api, sandbox.add_task(DONE))
    sandbox.add_fault(Fault(kind="endless", size=10**12, count=1))
    received = 0
    with KEYLESS.stream("GET", url) as response:
        for part in response.iter_bytes():
            received += len(part)
            if received > 2_000_000:
                break
    sandbox.configure(image_bytes=10_000)
    sandbox.add_fault(Fault(kind="drip", seconds=0.001, count=1))
    assert len(fetch(url).content) == pytest.approx(10_000, rel=0.1)


def test_a_decompression_bomb(sandbox: Sandbox, api: httpx.Client) -> None:
    """A small PNG that holds too many pixels to be decoded."""
    url = result_url(api, sandbox.add_task(DONE))
    sandbox.add_fault(Fault(kind="bomb", count=1))
    body = fetch(url).content
    assert len(body) < 100_000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(body))


def test_redirects_of_images(sandbox: Sandbox, api: httpx.Client) -> None:
    """A redirect leads anywhere, and to itself without end."""
    url = result_url(api, sandbox.add_task(DONE))
    target = "http://169.254.169.254/latest"
    sandbox.add_fault(Fault(kind="redirect", on="files", url=target, count=1))
    assert fetch(url).headers["location"] == target
    sandbox.add_fault(Fault(kind="redirect", on="files"))
    with pytest.raises(httpx.TooManyRedirects):
        fetch(url, follow_redirects=True)


# --- callbacks


class Receiver(ThreadingHTTPServer):
    """A callback address on loopback that keeps what it gets and answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def ids(self) -> list[str]:
        return [body["data"]["taskId"] for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.server.bodies.append(json.loads(self.rfile.read(length)))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def wait_for_bodies(receiver: Receiver, number: int) -> None:
    block_until(lambda: len(receiver.bodies) == number)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_callbacks_of_generate(sandbox: Sandbox, api: httpx.Client, receiver: Receiver) -> None:
    """On completion the documented shape is posted, with the code of the outcome."""
    sandbox.configure(submitted_task=DONE)
    task_id = submit(api, callBackUrl=receiver.url)["data"]["taskId"]
    wait_for_bodies(receiver, 1)
    body = receiver.bodies[0]
    assert body["code"] == 200
    assert body["data"] == {
        "taskId": task_id,
        "info": {"resultImageUrl": result_url(api, task_id)},
    }
    for number, (code, sent) in enumerate([(400, 400), (500, 500), (999, 501)], start=2):
        sandbox.add_task(
            TaskPlan(
                seconds=0,
                outcome="generate-failed",
                error_code=code,
                callback_url=receiver.url,
            )
        )
        wait_for_bodies(receiver, number)
        assert receiver.bodies[-1]["code"] == sent
        assert receiver.bodies[-1]["data"]["info"]["resultImageUrl"] == ""


def test_callbacks_in_the_shape_of_record_info(
    sandbox: Sandbox, api: httpx.Client, receiver: Receiver
) -> None:
    """The newer endpoints post the record, with code 200 even for a failure."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0, outcome="generate-failed"))
    task_id = submit(api, "generate-2", callBackUrl=receiver.url)["data"]["taskId"]
    wait_for_bodies(receiver, 1)
    assert receiver.bodies[0] == look(api, task_id)
    assert receiver.bodies[0]["code"] == 200
    assert receiver.bodies[0]["data"]["successFlag"] == 3


def test_callbacks_wait_for_completion(sandbox: Sandbox, receiver: Receiver) -> None:
    """Nothing is posted before the task is done."""
    sandbox.add_task(TaskPlan(seconds=50, callback_url=receiver.url))
    sandbox.add_task(TaskPlan(seconds=None, callback_url=receiver.url))
    assert sandbox.stats().callbacks_pending == 1
    assert receiver.bodies == []
    sandbox.advance(50)
    wait_for_bodies(receiver, 1)


def test_callbacks_are_tried_four_times(sandbox: Sandbox, receiver: Receiver) -> None:
    """After a failed post come three retries; a 200 ends them."""
    sandbox.configure(speed=1000.0)
    receiver.statuses = [500, 202, 302, 200]
    sandbox.add_task(TaskPlan(seconds=0, callback_url=receiver.url))
    block_until(lambda: sandbox.stats().callbacks_delivered == 1)
    assert sandbox.stats().callbacks_attempted == 4
    receiver.statuses = [500] * 4
    sandbox.add_task(TaskPlan(seconds=0, callback_url=receiver.url))
    block_until(lambda: sandbox.stats().callbacks_given_up == 1)
    assert sandbox.stats().callbacks_attempted == 8
    assert len(receiver.bodies) == 8


@pytest.mark.parametrize(
    "url", ["", "https://example.invalid/hook", "http://invalid", "ftp://x.test/", "http://[::1"]
)
def test_dummy_callback_addresses_are_never_contacted(
    sandbox: Sandbox, api: httpx.Client, url: str
) -> None:
    """An address that only satisfies the schema is accepted and skipped."""
    sandbox.configure(submitted_task=DONE)
    assert submit(api, callBackUrl=url)["code"] == 200
    stats = sandbox.stats()
    assert (stats.callbacks_skipped, stats.callbacks_pending, stats.callbacks_attempted) == (
        1,
        0,
        0,
    )


def test_callback_weather(sandbox: Sandbox, receiver: Receiver) -> None:
    """Duplicates, losses and forgeries come as asked; forgeries are lies about real tasks."""
    weathers = {
        "twice": CallbackWeather(duplicates=1),
        "lost": CallbackWeather(losses=1),
        "forged": CallbackWeather(forgeries=1),
    }
    sandbox.add_tasks(
        [
            TaskPlan(task_id=name, seconds=0, callback_url=receiver.url, callback_weather=weather)
            for name, weather in weathers.items()
        ]
    )
    block_until(lambda: sandbox.stats().callbacks_delivered == 5)
    ids = Counter(receiver.ids())
    assert (ids["twice"], ids["lost"], ids["forged"], len(ids)) == (2, 0, 2, 3)
    forged = [b for b in receiver.bodies if "forged.invalid" in str(b)]
    assert len(forged) == 2
    stats = sandbox.stats()
    assert (stats.callbacks_lost, stats.callbacks_forged) == (1, 2)


def test_callbacks_out_of_order(sandbox: Sandbox, receiver: Receiver) -> None:
    """Random delays shuffle callbacks, the same way for the same seed."""
    sandbox.configure(callback_weather=CallbackWeather(max_delay_seconds=0.2))
    names = [f"t{n}" for n in range(20)]
    plans = [TaskPlan(task_id=name, seconds=0, callback_url=receiver.url) for name in names]
    sandbox.add_tasks(plans)
    wait_for_bodies(receiver, 20)
    assert sorted(receiver.ids()) == sorted(names)
    assert receiver.ids() != names


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
    assert look(api, task_id)["code"] == 404
    assert api.get("/api/v1/common/credit").json()["data"] == 10_000
    stats = sandbox.stats()
    assert stats.requests == {"record-info": 1, "credit": 1}
    assert stats.done_at == {}


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
    settings = dict(line.split("=", 1) for line in lines if "=" in line)
    control = SandboxControl(settings["NANOBANANA_BASE_URL"], settings["NANOBANANA_API_KEY"])
    assert control.stats().requests == {}
    control.close()
    assert any("No credits are spent" in line for line in lines)
    assert any(control.control_url in line for line in lines)
    process.send_signal(number)
    assert "stopped" in process.communicate(timeout=20)[0]
    assert process.returncode == 0
