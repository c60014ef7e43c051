"""The sandbox plays what is rare at the service: refusals of one task, late and lost answers."""

from __future__ import annotations

from typing import Any, Literal

import httpx
import pytest

from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from tests.support.sandbox_api import (
    API,
    DONE,
    Receiver,
    envelope,
    fetch,
    record,
    result_url,
    submit,
    wait_for_bodies,
)


@pytest.mark.parametrize("code", [402, 403, 408, 501])
def test_one_task_is_refused_and_the_others_are_not(
    sandbox: Sandbox, api: httpx.Client, code: int
) -> None:
    """Rule: a fault with a task's id is that task's alone, with an envelope or without."""
    refused, other = sandbox.add_tasks([DONE, DONE])
    sandbox.add_fault(Fault(kind="body-code", code=code, task_id=refused, count=1))
    sandbox.add_fault(Fault(kind="http-status", status=code, task_id=refused, count=1))
    assert envelope(api, other)["code"] == 200
    answer = envelope(api, refused)
    assert (answer["code"], answer["data"]) == (code, None)
    bare = api.get(f"{API}/record-info", params={"taskId": refused})
    assert bare.status_code == code
    assert "code" not in bare.json()
    assert envelope(api, refused)["code"] == 200


@pytest.mark.parametrize("code", [415, 422, 430, 433, 451])
def test_a_refused_submit_makes_nothing(sandbox: Sandbox, api: httpx.Client, code: int) -> None:
    """Rule: a refusal of a submit has null data, creates no task and takes no credits."""
    sandbox.add_fault(Fault(kind="body-code", code=code, on="submit"))
    answer = submit(api)
    assert (answer["code"], answer["data"]) == (code, None)
    assert sandbox.stats().submits == 0
    assert sandbox.stats().credits_spent == 0


def test_urls_under_info(sandbox: Sandbox, api: httpx.Client) -> None:
    """Rule: `info` takes the place of `response`."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, urls_as="info"))
    data = record(api, task_id)
    assert data["response"] is None
    assert fetch(data["info"]["resultImageUrl"]).status_code == 200


def test_lists_with_gaps(sandbox: Sandbox, api: httpx.Client) -> None:
    """Rule: of the result URLs every other one is null, and each position has its origin URL."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, images=4, urls_as="gaps"))
    response = record(api, task_id)["response"]
    assert [url is None for url in response["resultImageUrls"]] == [True, False, True, False]
    origins = response["originImageUrls"]
    for number, url in enumerate(response["resultImageUrls"]):
        if url:
            assert fetch(url).content == fetch(origins[number]).content
    assert len({fetch(url).content for url in origins}) == 4


@pytest.mark.parametrize(
    ("told_as", "told"), [("integer", 12), ("decimal", 12.5), ("decimal-text", "12.50")]
)
def test_a_balance_in_three_forms(
    sandbox: Sandbox,
    api: httpx.Client,
    told_as: Literal["integer", "decimal", "decimal-text"],
    told: Any,
) -> None:
    """Rule: sister products tell the balance as a decimal, or as text."""
    sandbox.configure(credits=12, credits_as=told_as)
    assert api.get("/api/v1/common/credit").json()["data"] == told


def test_a_callback_comes_before_record_info_knows(
    sandbox: Sandbox, api: httpx.Client, receiver: Receiver
) -> None:
    """Rule: a task is invisible for as long as it is told to be, its callback notwithstanding."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0, invisible_seconds=3600))
    task_id = submit(api, callBackUrl=receiver.url)["data"]["taskId"]
    wait_for_bodies(receiver, 1)
    assert receiver.ids() == [task_id]
    assert envelope(api, task_id)["code"] == 404
    sandbox.advance(3600)
    assert record(api, task_id)["successFlag"] == 1


def test_an_idle_connection_is_closed_as_a_request_comes(sandbox: Sandbox) -> None:
    """Rule: a request on a connection that was kept alive is dropped; on a new one it is not."""
    sandbox.add_fault(Fault(kind="drop-kept-alive"))
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    with httpx.Client(base_url=sandbox.base_url, headers=headers, trust_env=False) as client:
        assert submit(client)["code"] == 200
        with pytest.raises(httpx.TransportError):
            submit(client)
        assert submit(client)["code"] == 200
    assert sandbox.stats().submits == 2


@pytest.mark.parametrize(("takes_effect", "submits"), [(True, 1), (False, 0)])
def test_a_submit_may_have_its_task_long_before_its_answer(
    sandbox: Sandbox, api: httpx.Client, takes_effect: bool, submits: int
) -> None:
    """Rule: a late answer is about a task that exists from the beginning, where it is told so."""
    slow = Fault(kind="latency", on="submit", seconds=3600, takes_effect=takes_effect)
    sandbox.add_fault(slow)
    with pytest.raises(httpx.ReadTimeout):
        api.post(f"{API}/generate-2", json={"prompt": "a fig"}, timeout=1.0)
    assert sandbox.stats().submits == submits


@pytest.mark.parametrize(
    "hanging",
    [
        Fault(kind="latency", on="files", seconds=3600, count=1),
        Fault(kind="drip", seconds=3600, count=1),
    ],
    ids=["from the beginning", "within the image"],
)
def test_an_image_host_that_hangs(sandbox: Sandbox, api: httpx.Client, hanging: Fault) -> None:
    """Rule: a hanging host holds one request, and the next one is answered."""
    url = result_url(api, sandbox.add_task(DONE))
    sandbox.add_fault(hanging)
    with pytest.raises(httpx.ReadTimeout):
        fetch(url, timeout=0.5)
    assert fetch(url).status_code == 200
