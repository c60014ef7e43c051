"""A failure is as large as its cause: what one answer says of one task ends that task alone."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from email.utils import formatdate

import pytest

from nanobanana_blocks import (
    GenerateRequest,
    NanoBananaClient,
    PollPolicy,
    TaskDetails,
    TaskStatus,
    errors,
)
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.callback_bodies import read_callback
from nanobanana_blocks.api.connection import time_limit
from nanobanana_blocks.api.protocol import read_record_info
from nanobanana_blocks.api.wait_state import Patience
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from tests.support.virtual_time import run_in_virtual_time

DONE = TaskPlan(seconds=0)
QUICK = PollPolicy(mode="fixed", interval_seconds=0.05, requests_per_second=1000)
PROMPT = GenerateRequest(prompt="a fig")


IMPATIENT = Patience(confirm_seconds=0.05, max_backoff_seconds=0.05, server_exception_seconds=0.0)


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[NanoBananaClient]:
    async with NanoBananaClient(
        sandbox.api_key, sandbox.base_url, budget=RequestBudget(1000), patience=IMPATIENT
    ) as made:
        yield made


async def wait_for_both(
    client: NanoBananaClient, *task_ids: str
) -> list[TaskDetails | BaseException]:
    waits = (client.wait_for_task(task_id, 60, QUICK) for task_id in task_ids)
    return list(await asyncio.gather(*waits, return_exceptions=True))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(kind="body-code", code=402), errors.OutOfCredits),
        (Fault(kind="http-status", status=402), errors.OutOfCredits),
        (Fault(kind="http-status", status=403), errors.Forbidden),
        (Fault(kind="body-code", code=403), errors.Forbidden),
        (Fault(kind="body-code", code=500), errors.ServerError),
        (Fault(kind="body-code", code=451), errors.BadRequest),
    ],
)
async def test_an_answer_about_one_task_ends_that_wait_alone(
    sandbox: Sandbox, client: NanoBananaClient, fault: Fault, kind: type[errors.APIError]
) -> None:
    """Rule: only a refused key (401) ends all waits; anything else ends its own."""
    refused, other = sandbox.add_tasks([DONE, TaskPlan(seconds=0.5)])
    sandbox.add_fault(fault.model_copy(update={"on": "record-info", "task_id": refused}))
    error, details = await wait_for_both(client, refused, other)
    assert type(error) is kind
    assert not error.is_fatal
    assert isinstance(details, TaskDetails)
    assert details.status is TaskStatus.SUCCESS


async def test_a_refused_key_ends_every_wait(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: what no wait can outlast is said at once to all of them."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=None)] * 2)
    sandbox.add_fault(Fault(kind="body-code", code=401, on="record-info", task_id=task_ids[0]))
    for error in await wait_for_both(client, *task_ids):
        assert isinstance(error, errors.Unauthorized)
        assert error.is_fatal


@pytest.mark.parametrize(
    ("code", "message"), [(501, "Generation failed"), (408, "No result"), (400, "Policy: flagged")]
)
async def test_a_code_that_ends_a_task_is_believed_when_repeated(
    sandbox: Sandbox, client: NanoBananaClient, code: int, message: str
) -> None:
    """Rule: codes that only sister products document end a task after a second answer like it."""
    wrong, ended = sandbox.add_tasks([DONE, DONE])
    fault = Fault(kind="body-code", code=code, message=message, on="record-info")
    sandbox.add_fault(fault.model_copy(update={"task_id": wrong, "count": 1}))
    sandbox.add_fault(fault.model_copy(update={"task_id": ended}))
    taken_back, failed = await wait_for_both(client, wrong, ended)
    assert isinstance(taken_back, TaskDetails)
    assert taken_back.status is TaskStatus.SUCCESS
    assert isinstance(failed, TaskDetails)
    with pytest.raises(errors.GenerationFailed, match=message) as caught:
        failed.raise_for_status()
    assert (caught.value.error_code, caught.value.by_code) == (code, True)
    assert sandbox.stats().looks[ended] == 2


@pytest.mark.parametrize(("http_status", "code"), [(200, 501), (501, 501), (408, 408)])
def test_a_code_ends_a_task_whatever_the_http_status_repeats(http_status: int, code: int) -> None:
    """Rule: an envelope means the same where the HTTP status repeats its code."""
    body = json.dumps({"code": code, "msg": "failed", "data": None}).encode()
    details = read_record_info(http_status, body, task_id="t1")
    assert (details.status, details.by_code) == (TaskStatus.GENERATE_FAILED, True)


def test_a_gateways_own_failure_ends_no_task() -> None:
    """Rule: a 501 or 408 that is not in an envelope is not about the task."""
    for http_status in (408, 501):
        with pytest.raises(errors.ServerError):
            read_record_info(http_status, b"<html>", task_id="t1")


@pytest.mark.parametrize("code", [400, 408, 500, 501])
@pytest.mark.parametrize("flag", [1, 3])
def test_a_flag_wins_over_the_envelopes_code(code: int, flag: int) -> None:
    """Rule: where record-info gives a flag and a code, only the flag says how the task ended."""
    url = {"resultImageUrl": "https://host/1.png"} if flag == 1 else None
    data = {"taskId": "t1", "successFlag": flag, "response": url}
    body = json.dumps({"code": code, "msg": "failed", "data": data}).encode()
    details = read_record_info(200, body, task_id="t1")
    assert (details.status, details.by_code) == (flag, False)
    assert details.image_count == (1 if flag == 1 else 0)


def test_a_result_under_info_is_read() -> None:
    """Rule: what two clients read from `info` for generate-pro is a result like any other."""
    data = {"taskId": "t1", "successFlag": 1, "info": {"resultImageUrl": "https://host/1.png"}}
    body = json.dumps({"code": 200, "msg": "success", "data": data}).encode()
    assert read_record_info(200, body, task_id="t1").result_urls == ("https://host/1.png",)


@pytest.mark.parametrize(
    "body",
    [
        {"code": 402, "msg": "no credits", "data": {"taskId": "7"}},
        {"code": 422, "data": {"task_id": "7"}},
        {"code": 451, "data": {"taskId": 7}},
        {"code": 501, "taskId": "7"},
        {"code": 999, "taskId": 7, "data": None},
    ],
)
def test_an_unusual_callback_is_a_failure_of_its_task(body: dict[str, object]) -> None:
    """Rule: a callback is a hint wherever it names its task, and whatever its code is."""
    details = read_callback(json.dumps(body).encode())
    assert (details.task_id, details.status) == ("7", TaskStatus.GENERATE_FAILED)
    assert details.error_code == body["code"]


# --- refusals and their pauses


def test_refusals_of_one_burst_count_once() -> None:
    """Rule: eight requests that were under way together halve the rate once."""

    async def scenario() -> tuple[float, float]:
        clock = asyncio.get_running_loop().time
        budget = RequestBudget(100)
        sent = []
        for _ in range(8):
            await budget.acquire()
            sent.append(clock())
        await asyncio.sleep(0.1)
        for sent_at in sent:
            budget.refused(1.0, sent_at=sent_at)
        rate = budget.requests_per_second
        await budget.acquire()
        return rate, clock()

    rate, resumed_at = run_in_virtual_time(scenario())
    assert rate == 50
    assert resumed_at == pytest.approx(1.17)


def test_only_pauses_of_our_own_choice_grow() -> None:
    """Rule: a pause that the service names is kept as named, each time; 0 is now."""

    async def scenario() -> list[float]:
        clock = asyncio.get_running_loop().time
        budget = RequestBudget(1000)
        pauses = []
        for retry_after in (3.0, 3.0, 0.0, None, None):
            await budget.acquire()
            began = clock()
            budget.refused(retry_after, sent_at=began)
            await asyncio.sleep(0.01)
            await budget.acquire()
            pauses.append(round(clock() - began))
        return pauses

    assert run_in_virtual_time(scenario()) == [3, 3, 0, 2, 4]


async def test_a_retry_after_that_has_passed_is_now(
    sandbox: Sandbox, client: NanoBananaClient
) -> None:
    """Rule: a date in the past asks for no pause."""
    [task_id] = sandbox.add_tasks([DONE])
    sandbox.add_fault(Fault(kind="body-code", code=429, retry_after=0, count=1, on="record-info"))
    await client.wait_for_task(task_id, 60, QUICK)
    assert client.budget.pause_left == 0
    from nanobanana_blocks.api.connection import read_retry_after

    assert read_retry_after(formatdate(time.time() - 60, usegmt=True)) == 0


async def test_a_budget_of_the_callers_is_a_ceiling(sandbox: Sandbox) -> None:
    """Rule: no policy, not even the default one, raises the rate above the caller's budget."""
    [task_id] = sandbox.add_tasks([DONE])
    budget = RequestBudget(2)
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url, budget=budget) as client:
        await client.wait_for_task(task_id)
        assert (budget.allowed, client.submit_budget.allowed) == (2, 2)
        await client.wait_for_task(task_id, poll=PollPolicy(requests_per_second=1))
        assert (budget.allowed, client.submit_budget.allowed) == (1, 1)
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url, budget=budget) as another:
        await another.wait_for_task(task_id)
        assert budget.allowed == 2


# --- submits


@pytest.mark.parametrize("code", [400, 415, 422, 430, 433, 451])
async def test_a_refusal_without_data_made_nothing(
    sandbox: Sandbox, client: NanoBananaClient, code: int
) -> None:
    """Rule: an envelope that says no and holds no data is a refusal, not a doubt."""
    sandbox.add_fault(Fault(kind="body-code", code=code, on="submit"))
    with pytest.raises(errors.BadRequest):
        await client.submit(PROMPT)
    assert sandbox.stats().submits == 0


async def test_a_firewalls_refusal_of_a_submit_is_no_doubt(
    sandbox: Sandbox, client: NanoBananaClient
) -> None:
    """Rule: a 403 on the way is told as what it is, and is about that request."""
    sandbox.add_fault(Fault(kind="http-status", status=403, on="submit"))
    with pytest.raises(errors.Forbidden) as caught:
        await client.submit(PROMPT)
    assert not caught.value.is_fatal


async def test_a_submits_answer_is_worth_waiting_for(sandbox: Sandbox) -> None:
    """Rule: the limit of other requests is not that of a submit."""
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=0.5))
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url, timeout=0.2) as client:
        assert await client.submit(PROMPT)
    assert sandbox.stats().submits == 1


async def test_submits_go_over_fresh_connections(
    sandbox: Sandbox, client: NanoBananaClient
) -> None:
    """Rule: a server that closes connections that were kept alive makes no submit doubtful."""
    task_ids = sandbox.add_tasks([DONE])
    await client.wait_for_task(task_ids[0], 60, QUICK)
    sandbox.add_fault(Fault(kind="drop-kept-alive", on="submit"))
    for _ in range(5):
        await client.submit(PROMPT)
    assert sandbox.stats().submits == 5
    assert sandbox.stats().faults_fired["drop-kept-alive"] == 5


async def test_an_answer_that_came_while_the_process_stood_still_is_read() -> None:
    """Rule: a deadline that was missed by standing still is believed after a look at the socket."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)

    async def exchange() -> bytes:
        theirs.sendall(b"paid\n")
        time.sleep(0.3)  # noqa: ASYNC251  # the process stands still
        return await reader.readline()

    with theirs:
        async with time_limit(0.1, late_seconds=0.05):
            assert await exchange() == b"paid\n"
        writer.close()


async def test_an_answer_that_does_not_come_is_not_waited_for_twice() -> None:
    """Rule: where the process did not stand still, a deadline is a deadline."""
    with pytest.raises(TimeoutError):
        async with time_limit(0.05, late_seconds=30):
            await asyncio.Event().wait()
