"""The second dialect: jobs, as the documentation of a sister product describes them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanobanana_blocks import (
    GenerateRequest,
    GenericRequest,
    NanoBananaClient,
    PollPolicy,
    TaskDetails,
    TaskStatus,
    errors,
)
from nanobanana_blocks.api import jobs
from nanobanana_blocks.api.callback_bodies import read_callback
from nanobanana_blocks.api.kinds import kind_of
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan

QUICK = PollPolicy.fixed(0.05)
MODEL = "google/nano-banana-edit"
MODELS = {MODEL: 4, "nano-banana-pro": 18}
TASK_ID = "281e5b0f39b9"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    ["taskId", "state", "resultJson", "param", "failCode", "failMsg", "createTime", "completeTime"]
)
DATA = st.dictionaries(FIELDS, JSON | st.sampled_from([*jobs.STATES, '{"resultUrls":[1]}'])) | JSON
ENVELOPES = st.fixed_dictionaries(
    {}, optional={"code": st.sampled_from([200, 401, 404, 422, 501]) | JSON, "data": DATA}
)


def job(**fields: object) -> bytes:
    data = {"taskId": TASK_ID, "state": "success", "resultJson": '{"resultUrls":["https://h/i"]}'}
    return json.dumps({"code": 200, "msg": "success", "data": data | fields}).encode()


def read(body: bytes) -> TaskDetails:
    return jobs.read_record_info(200, body, task_id=TASK_ID)


def asked(model: str = MODEL, **given: Any) -> GenericRequest:
    return GenericRequest(endpoint=model, prompt="a fig", credits=4, **given)


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[NanoBananaClient]:
    sandbox.configure(other_endpoints=MODELS, submitted_task=TaskPlan(seconds=0.2))
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url, dialect="jobs") as made:
        yield made


def test_a_success(samples: Path) -> None:
    """Rule: URLs in their order, times, and what it was asked for, which tells its kind."""
    details = read((samples / "sister-job-success.json").read_bytes())
    assert details.status is TaskStatus.SUCCESS
    assert [details.image_urls(n) for n in range(3)] == [
        ("https://example.com/a.png",),
        ("https://example.com/b.png",),
        (),
    ]
    assert details.created_at == datetime.fromtimestamp(1757584164.490, UTC)
    assert details.parameters["prompt"] == "a fig"
    assert kind_of(details) == "generate-pro 2K edit"


def test_a_failure(samples: Path) -> None:
    """Rule: code and message are those of the task, and no envelope's."""
    details = read((samples / "sister-job-fail.json").read_bytes())
    with pytest.raises(errors.GenerationFailed, match=r"code 501.*content policy"):
        details.raise_for_status()


@pytest.mark.parametrize("state", ["waiting", "queuing", "generating"])
def test_states_before_the_end(samples: Path, state: str) -> None:
    """Rule: each means that it is worth asking again."""
    body = (samples / "sister-job-generating.json").read_bytes()
    details = read(body.replace(b'"generating"', f'"{state}"'.encode()))
    assert (details.status, details.image_count) == (TaskStatus.GENERATING, 0)


@pytest.mark.parametrize("state", ["done", "SUCCESS", 1, None, ["success"], ""])
def test_other_states_are_no_success(state: object) -> None:
    """Rule: what is not documented is never taken for an end."""
    with pytest.raises(errors.ProtocolError):
        read(job(state=state))


@pytest.mark.parametrize("result", [None, "", "{", "[]", '{"resultUrls":null}', {"resultUrls": []}])
def test_a_success_without_urls(result: object) -> None:
    """Rule: it has no image yet, whichever way it says so."""
    details = read(job(resultJson=result))
    assert (details.status, details.image_count) == (TaskStatus.SUCCESS, 0)


@pytest.mark.parametrize(
    ("given", "code"),
    [(None, None), ("", None), ("0", None), (0, None), (422, 422), ("E1", "E1")],
)
def test_fail_codes(given: object, code: object) -> None:
    """Rule: in any spelling that a code has."""
    assert read(job(state="fail", failCode=given)).error_code == code


def test_another_tasks_answer() -> None:
    """Rule: an answer about another task is no answer."""
    with pytest.raises(errors.ProtocolError, match="another task"):
        jobs.read_record_info(200, job(), task_id="t2")


def test_unknown_ids() -> None:
    """Rule: null data and a code 404 mean that the id is not known."""
    for body in (b'{"code":200,"data":null}', b'{"code":404,"msg":"not found","data":null}'):
        with pytest.raises(errors.UnknownTask):
            read(body)


@pytest.mark.hypothesis
@given(ENVELOPES | JSON, st.sampled_from([200, 401, 404, 500, 503]))
def test_any_answer_is_a_value_or_one_error(body: object, http_status: int) -> None:
    """Rule: no answer crashes, and none but `success` is a success."""
    with contextlib.suppress(errors.APIError):
        details = jobs.read_record_info(http_status, json.dumps(body).encode(), task_id=TASK_ID)
        if details.status is TaskStatus.SUCCESS:
            assert isinstance(body, dict)
            assert body["data"]["state"] == "success"


@pytest.mark.hypothesis
@given(ENVELOPES | JSON)
def test_any_callback_is_a_value_or_one_error(body: object) -> None:
    """Rule: no callback crashes the receiver."""
    with contextlib.suppress(errors.ProtocolError):
        read_callback(json.dumps(body).encode())


def test_a_callback(samples: Path) -> None:
    """Rule: its state counts, whatever its code."""
    details = read_callback((samples / "sister-job-callback.json").read_bytes())
    assert (details.task_id, details.status) == (TASK_ID, TaskStatus.GENERATE_FAILED)
    assert (details.error_code, details.error_message) == (500, "Internal error")


def test_what_is_sent() -> None:
    """Rule: the model's name, its own fields, images by the name that it gives them."""
    picture = "https://example.com/plate.png"
    path, body = jobs.submission(asked(fields={"output_format": "png"}), None)
    assert path == "/api/v1/jobs/createTask"
    assert body == {"model": MODEL, "input": {"prompt": "a fig", "output_format": "png"}}
    for model, field in ((MODEL, "image_urls"), ("nano-banana-pro", "image_input")):
        request = asked(model, image_urls=(picture,))
        _, body = jobs.submission(request, "https://example.com/callbacks/1")
        assert body["input"] == {"prompt": "a fig", field: [picture]}
        assert body["callBackUrl"] == "https://example.com/callbacks/1"


async def test_a_job_from_submit_to_image(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: submitted, waited for and counted like any generation task."""
    before = await client.get_credits()
    task_id = await client.submit(asked(fields={"output_format": "png"}))
    sandbox.add_fault(Fault(kind="body-code", code=500, on="record-info", count=2))
    details = await client.wait_for_task(task_id, poll=QUICK)
    assert details.image_count == 1
    assert details.parameters == {"prompt": "a fig", "output_format": "png"}
    assert await client.get_credits() == before - 4
    assert sandbox.stats().requests["record-info"] >= 3


async def test_refusals(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: no credits, an unknown model and a wrong key are errors of their own."""
    with pytest.raises(errors.BadRequest, match="not supported"):
        await client.submit(asked("google/nano-banana-9"))
    with pytest.raises(errors.UnknownTask):
        await client.get_task_details("f" * 32)
    sandbox.configure(credits=3)
    with pytest.raises(errors.OutOfCredits):
        await client.submit(asked())
    assert sandbox.stats().submits == 0


@pytest.mark.parametrize(
    ("dialect", "request_", "words"),
    [
        ("jobs", GenerateRequest(prompt="a fig"), "the name of a model"),
        (
            "jobs",
            asked(image_urls=("https://h/a",), fields={"image_urls": ["https://h/b"]}),
            "images to work from twice",
        ),
        ("nanobanana", asked(), "the dialect `jobs`"),
    ],
)
async def test_what_is_not_for_the_dialect_is_not_sent(
    sandbox: Sandbox, dialect: Any, request_: Any, words: str
) -> None:
    """Rule: it is told, and nothing is spent."""
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url, dialect=dialect) as client:
        with pytest.raises(errors.InvalidInput, match=words):
            await client.submit(request_)
    assert not sandbox.submits()


def test_an_unknown_dialect() -> None:
    """Rule: the names that there are, are told."""
    with pytest.raises(errors.InvalidInput, match="nanobanana, jobs"):
        NanoBananaClient("key", dialect="kobs")  # type: ignore[arg-type]
