"""The faults of the sandbox's API, its rate limits and their chances."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from nanobanana_blocks.sandbox import (
    Fault,
    RateLimit,
    Sandbox,
)
from tests.support.sandbox_api import API, DONE, envelope, submit


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
    assert envelope(api, sick)["code"] == 500
    assert envelope(api, well)["code"] == 200
    assert api.get("/api/v1/common/credit").json()["code"] == 455
    assert submit(api)["code"] == 200
    sandbox.clear_faults()
    assert envelope(api, sick)["code"] == 200


def test_faults_by_chance_repeat_with_the_seed(sandbox: Sandbox, api: httpx.Client) -> None:
    """A probability strikes about as often as it says, at the same requests every time."""

    def strikes() -> list[int]:
        sandbox.reset()
        task_id = sandbox.add_task(DONE)
        sandbox.add_fault(Fault(kind="body-code", code=500, probability=0.3))
        return [envelope(api, task_id)["code"] for _ in range(100)]

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
    assert [envelope(api, task_id)["code"] for _ in range(5)] == [200, 200, 200, 429, 429]
    response = api.get(f"{API}/record-info?taskId={task_id}")
    assert 0 < float(response.headers["retry-after"]) <= 60
    assert sandbox.stats().rate_limited == 3
    sandbox.advance(61)
    assert envelope(api, task_id)["code"] == 200


def test_a_limit_on_submits(sandbox: Sandbox, api: httpx.Client) -> None:
    """Twenty submits in ten seconds, over the three endpoints together."""
    sandbox.configure(rate_limits=[RateLimit(on="submit", requests=20, per_seconds=10)])
    endpoints = ["generate", "generate-pro", "generate-2"] * 8
    codes = Counter(submit(api, endpoint)["code"] for endpoint in endpoints)
    assert codes == {200: 20, 429: 4}
    assert sandbox.stats().submits == 20
