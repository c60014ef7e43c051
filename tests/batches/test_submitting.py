"""Submitting over real HTTP: what is billed, what is tried again, and what is only doubted."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from nanobanana_blocks import (
    Generate2Request,
    GenerateProRequest,
    GenerateRequest,
    NanoBananaClient,
    TaskStatus,
    errors,
)
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.envelope import read_credits, read_submitted
from nanobanana_blocks.api.requests import NO_CALLBACK_URL, REQUESTS, Endpoint, GenerationRequest
from nanobanana_blocks.api.wait_state import Patience
from nanobanana_blocks.sandbox import Fault, RateLimit, Sandbox, TaskPlan
from tests.support.until import until

CLASSIC = GenerateRequest(prompt="a fig")
PRO = GenerateProRequest(prompt="a fig")
SECOND = Generate2Request(prompt="a fig")
A_CALLBACK = "https://example.com/callbacks/t0ken"
REFUSED_WITH_429 = Fault(kind="body-code", code=429, on="submit", retry_after=0.02)


IMPATIENT = Patience(first_connect_pause_seconds=0.02, max_connect_pause_seconds=0.05)


@pytest.fixture
async def api(sandbox: Sandbox) -> AsyncIterator[NanoBananaClient]:
    async with client_for(sandbox) as made:
        yield made


def client_for(sandbox: Sandbox, *, key: str = "", submit_timeout: float = 300) -> NanoBananaClient:
    """A client without spacing between requests."""
    return NanoBananaClient(
        key or sandbox.api_key,
        sandbox.base_url,
        submit_timeout=submit_timeout,
        budget=RequestBudget(1000, first_pause_seconds=0.02),
        patience=IMPATIENT,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def posts(sandbox: Sandbox) -> int:
    """How many requests came to the submit endpoints."""
    return sum(sandbox.stats().requests.get(endpoint.value, 0) for endpoint in Endpoint)


async def refusal(
    api: NanoBananaClient, request: GenerationRequest = CLASSIC, timeout: float = 20
) -> errors.APIError:
    with pytest.raises(errors.APIError) as caught:
        await api.submit(request, timeout=timeout)
    return caught.value


# --- what is sent, and what it costs


@pytest.mark.parametrize(
    ("request_", "sent", "cost"),
    [
        (
            CLASSIC,
            {"prompt": "a fig", "type": "TEXTTOIAMGE", "numImages": 1}
            | {"callBackUrl": NO_CALLBACK_URL},
            4,
        ),
        (
            GenerateRequest(
                prompt="a fig",
                image_urls=("https://h/i.png",),
                num_images=3,
                image_size="21:9",
                watermark="w",
            ),
            {"prompt": "a fig", "type": "IMAGETOIAMGE", "imageUrls": ["https://h/i.png"]}
            | {"numImages": 3, "image_size": "21:9", "watermark": "w"}
            | {"callBackUrl": NO_CALLBACK_URL},
            4,
        ),
        (PRO, {"prompt": "a fig", "callBackUrl": NO_CALLBACK_URL}, 18),
        (
            GenerateProRequest(prompt="a fig", resolution="2K", aspect_ratio="auto"),
            {"prompt": "a fig", "resolution": "2K", "aspectRatio": "auto"}
            | {"callBackUrl": NO_CALLBACK_URL},
            24,
        ),
        (SECOND, {"prompt": "a fig"}, 8),
        (
            Generate2Request(
                prompt="a fig",
                resolution="4K",
                aspect_ratio="8:1",
                google_search=True,
                output_format="png",
            ),
            {"prompt": "a fig", "resolution": "4K", "aspectRatio": "8:1"}
            | {"googleSearch": True, "outputFormat": "png"},
            18,
        ),
    ],
    ids=["generate", "generate-all", "pro", "pro-all", "generate-2", "generate-2-all"],
)
async def test_a_submit_is_one_request_and_one_bill(
    sandbox: Sandbox,
    api: NanoBananaClient,
    request_: GenerationRequest,
    sent: dict[str, Any],
    cost: int,
) -> None:
    """Rule: what was asked for is sent once, in the API's words, and gives a task of that id."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    task_id = await api.submit(request_)
    [submit] = sandbox.submits()
    assert (submit.endpoint, submit.body) == (request_.endpoint.value, sent)
    assert (submit.task_id, submit.credits) == (task_id, cost)
    assert (await api.get_task_details(task_id)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("request_", [CLASSIC, PRO, SECOND], ids=lambda r: r.endpoint.value)
async def test_a_callback_address_is_passed_on(
    sandbox: Sandbox, api: NanoBananaClient, request_: GenerationRequest
) -> None:
    """Rule: a callback address given is sent to every endpoint; nothing else is put there."""
    sandbox.configure(submitted_task=TaskPlan(seconds=None))
    await api.submit(request_, callback_url=A_CALLBACK)
    assert sandbox.submits()[0].body["callBackUrl"] == A_CALLBACK


@pytest.mark.parametrize(
    "url", ["", " ", "example.com", "ftp://h/t0ken", "https://", "https://h/t0ken x", "https:///x"]
)
async def test_a_callback_address_that_cannot_be_one(
    sandbox: Sandbox, api: NanoBananaClient, url: str
) -> None:
    """Rule: it is refused before anything is sent, without repeating the token in it."""
    with pytest.raises(errors.InvalidInput, match="callback URL") as caught:
        await api.submit(CLASSIC, callback_url=url)
    assert "t0ken" not in str(caught.value)
    assert posts(sandbox) == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
async def test_a_timeout_that_cannot_be_meant(
    sandbox: Sandbox, api: NanoBananaClient, timeout: float
) -> None:
    """Rule: submitting has a positive, finite limit."""
    with pytest.raises(errors.InvalidInput, match="timeout"):
        await api.submit(CLASSIC, timeout=timeout)
    assert posts(sandbox) == 0


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        *((endpoint, {"prompt": " \n"}) for endpoint in Endpoint),
        *((endpoint, {}) for endpoint in Endpoint),
        *((endpoint, {"prompt": "x", "nmImages": 2}) for endpoint in Endpoint),
        *((endpoint, {"prompt": "x", "imageUrls": ["data:,x"]}) for endpoint in Endpoint),
        *((Endpoint.GENERATE, {"prompt": "x", "numImages": number}) for number in (0, 5, 1.5)),
        (Endpoint.GENERATE, {"prompt": "x", "type": "TEXTTOIMAGE"}),
        (Endpoint.GENERATE, {"prompt": "x", "type": "IMAGETOIAMGE"}),
        (Endpoint.GENERATE, {"prompt": "x", "image_size": "auto"}),
        (Endpoint.GENERATE_PRO, {"prompt": "x", "imageUrls": ["https://h/i"] * 9}),
        (Endpoint.GENERATE_PRO, {"prompt": "x", "aspectRatio": "8:1"}),
        (Endpoint.GENERATE_PRO, {"prompt": "x", "resolution": "8K"}),
        (Endpoint.GENERATE_2, {"prompt": "x" * 20_001}),
        (Endpoint.GENERATE_2, {"prompt": "x", "imageUrls": ["https://h/i"] * 15}),
        (Endpoint.GENERATE_2, {"prompt": "x", "outputFormat": "webp"}),
        (Endpoint.GENERATE_2, {"prompt": "x", "endpoint": "generate-pro"}),
    ],
)
def test_what_the_documentation_rules_out_is_no_request(
    endpoint: Endpoint, fields: dict[str, Any]
) -> None:
    """Rule: a request beyond the documented limits cannot be made, so it is never sent."""
    with pytest.raises(ValidationError):
        REQUESTS[endpoint].model_validate(fields)


@pytest.mark.parametrize("request_", [CLASSIC, PRO, SECOND], ids=lambda r: r.endpoint.value)
def test_a_request_written_down_names_its_endpoint(request_: GenerationRequest) -> None:
    """Rule: a request that is stored and read again goes to the same endpoint, at its price."""
    written = request_.model_dump_json(by_alias=True)
    assert TypeAdapter(GenerationRequest).validate_json(written) == request_


# --- the service says no


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(kind="body-code", code=401), errors.Unauthorized),
        (Fault(kind="http-status", status=401), errors.Unauthorized),
        (Fault(kind="body-code", code=402), errors.OutOfCredits),
        (Fault(kind="body-code", code=402, status=402), errors.OutOfCredits),
        (Fault(kind="body-code", code=400), errors.BadRequest),
        (Fault(kind="body-code", code=404), errors.BadRequest),
        (Fault(kind="body-code", code=413), errors.BadRequest),
        (Fault(kind="http-status", status=413), errors.BadRequest),
        (Fault(kind="body-code", code=422, message="Incorrect type"), errors.BadRequest),
        (Fault(kind="body-code", code=505), errors.BadRequest),
        (Fault(kind="body-code", code=455), errors.ServerError),
        (Fault(kind="body-code", code=455, status=455), errors.ServerError),
    ],
    ids=lambda value: f"{value.code}-{value.status}" if isinstance(value, Fault) else "",
)
async def test_a_refusal_is_raised_at_once(
    sandbox: Sandbox, api: NanoBananaClient, fault: Fault, kind: type[errors.APIError]
) -> None:
    """Rule: where the service says no, that is its own error, after one request."""
    sandbox.add_fault(fault)
    error = await refusal(api)
    assert type(error) is kind
    assert (posts(sandbox), sandbox.stats().credits_spent) == (1, 0)


async def test_too_few_credits(sandbox: Sandbox, api: NanoBananaClient) -> None:
    """Rule: a submit that the account cannot pay for costs nothing and says what to do."""
    sandbox.configure(credits=7)
    error = await refusal(api, PRO)
    assert type(error) is errors.OutOfCredits
    assert "Top up" in str(error)
    assert sandbox.stats().credits_left == 7


async def test_a_wrong_key(sandbox: Sandbox) -> None:
    """Rule: a key that the service refuses is told after one request."""
    async with client_for(sandbox, key="wr0ng-key") as api:
        assert type(await refusal(api)) is errors.Unauthorized
    assert posts(sandbox) == 1


# --- what is not known


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="drop", on="submit"),
        Fault(kind="html", on="submit"),
        Fault(kind="not-json", on="submit"),
        Fault(kind="not-envelope", on="submit"),
        Fault(kind="huge-body", on="submit", size=2 << 20),
        Fault(kind="redirect", on="submit"),
        *(Fault(kind="http-status", on="submit", status=s) for s in (404, 408, 500, 502, 503)),
        Fault(kind="body-code", on="submit", code=500),
        Fault(kind="body-code", on="submit", code=531),
        Fault(kind="body-code", on="submit", code=200, status=503),
        Fault(kind="body-code", on="submit", code=200),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.code}-{fault.status}",
)
@pytest.mark.parametrize("billed", [False, True])
async def test_what_is_not_known_is_doubted_and_not_repeated(
    sandbox: Sandbox, api: NanoBananaClient, fault: Fault, billed: bool
) -> None:
    """Rule: whatever does not say yes or no is a doubt, after one request and at most one bill."""
    sandbox.add_fault(fault.model_copy(update={"takes_effect": billed}))
    error = await refusal(api)
    assert type(error) is errors.UnconfirmedSubmit
    assert not error.retryable
    assert "billed, is not known" in str(error)
    stats = sandbox.stats()
    assert (posts(sandbox), stats.submits, stats.credits_spent) == (1, billed, 4 * billed)
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (str(copied), vars(copied)) == (str(error), vars(error))


async def test_an_answer_that_does_not_come(sandbox: Sandbox) -> None:
    """Rule: a submit that is not answered in time may have been billed, and is not repeated."""
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=1))
    async with client_for(sandbox, submit_timeout=0.2) as api:
        error = await refusal(api)
    assert type(error) is errors.UnconfirmedSubmit
    assert "no answer within 0.2 s." in str(error)
    assert posts(sandbox) == 1


async def test_what_was_refused_first_and_then_lost_is_not_repeated(
    sandbox: Sandbox, api: NanoBananaClient
) -> None:
    """Rule: tries that surely made nothing do not entitle to another after one that may have."""
    sandbox.add_fault(REFUSED_WITH_429.model_copy(update={"count": 2}))
    sandbox.add_fault(Fault(kind="drop", on="submit", takes_effect=True))
    assert type(await refusal(api)) is errors.UnconfirmedSubmit
    assert (posts(sandbox), sandbox.stats().submits) == (3, 1)


async def test_closing_the_client_meanwhile(sandbox: Sandbox) -> None:
    """Rule: a submit whose client is closed before the answer came is a doubt, too."""
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=0.3))
    api = client_for(sandbox)
    submit = asyncio.create_task(api.submit(CLASSIC))
    await until(lambda: posts(sandbox))
    await api.aclose()
    with pytest.raises(errors.UnconfirmedSubmit):
        await submit


async def test_a_closed_client_submits_nothing(sandbox: Sandbox) -> None:
    """Rule: submitting with a closed client is no doubt: nothing was sent."""
    api = client_for(sandbox)
    await api.aclose()
    with pytest.raises(errors.NanoBananaError, match="closed") as caught:
        await api.submit(CLASSIC)
    assert not isinstance(caught.value, errors.APIError)
    assert posts(sandbox) == 0


async def test_cancelling_ends_it(sandbox: Sandbox, api: NanoBananaClient) -> None:
    """Rule: a cancelled submit ends as cancelled, and is not sent again."""
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=2))
    submit = asyncio.create_task(api.submit(CLASSIC))
    await until(lambda: posts(sandbox))
    submit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submit
    assert posts(sandbox) == 1


@pytest.mark.parametrize("code", [400, 429, 455, 500, 531])
async def test_no_error_holds_the_key(sandbox: Sandbox, api: NanoBananaClient, code: int) -> None:
    """Rule: even a service that repeats the key does not put it into an error."""
    sandbox.add_fault(Fault(kind="body-code", code=code, message=f"Bearer {sandbox.api_key}"))
    error = await refusal(api, timeout=0.01)
    told = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    assert sandbox.api_key not in told
    assert sandbox.api_key.encode() not in pickle.dumps(error)
    assert "a fig" not in told
    for link in (error.__cause__, error.__context__):
        assert link is None or isinstance(link, errors.NanoBananaError)


# --- what never reached the service


async def test_a_storm_of_429_is_ridden_out(sandbox: Sandbox, api: NanoBananaClient) -> None:
    """Rule: what is refused for being too often is tried again, and billed once."""
    sandbox.add_fault(REFUSED_WITH_429.model_copy(update={"count": 4}))
    task_id = await api.submit(CLASSIC)
    assert posts(sandbox) >= 5
    assert sandbox.stats().credits_spent == 4
    assert [one.task_id for one in sandbox.submits() if one.task_id] == [task_id]


async def test_a_storm_that_does_not_end(sandbox: Sandbox, api: NanoBananaClient) -> None:
    """Rule: after its time, the refusal itself is raised, and nothing was billed."""
    sandbox.add_fault(REFUSED_WITH_429)
    error = await refusal(api, timeout=2.0)
    assert type(error) is errors.RateLimited
    assert posts(sandbox) > 1
    assert sandbox.stats().credits_spent == 0


async def test_a_pause_longer_than_the_time_left(sandbox: Sandbox, api: NanoBananaClient) -> None:
    """Rule: where the service asks for more time than there is, nobody waits for nothing."""
    sandbox.add_fault(REFUSED_WITH_429.model_copy(update={"retry_after": 60, "count": 1}))
    error = await asyncio.wait_for(refusal(api, timeout=30), 10)
    assert (type(error), error.retry_after) == (errors.RateLimited, 60)
    assert posts(sandbox) == 1


async def test_many_submits_adapt_to_a_limit(sandbox: Sandbox, api: NanoBananaClient) -> None:
    """Rule: submits past an account's limit slow down until all are made, each billed once."""
    sandbox.configure(
        rate_limits=(RateLimit(on="submit", requests=5, per_seconds=1.0),),
        submitted_task=TaskPlan(seconds=None),
    )
    task_ids = await asyncio.gather(*[api.submit(CLASSIC) for _ in range(30)])
    stats = sandbox.stats()
    assert stats.rate_limited > 0
    assert (len(set(task_ids)), stats.submits, stats.credits_spent) == (30, 30, 120)


async def test_nobody_listens_yet(sandbox: Sandbox) -> None:
    """Rule: while no connection can be made, it is tried again; what is then made is one task."""
    port = free_port()
    async with NanoBananaClient(
        sandbox.api_key, f"http://127.0.0.1:{port}", patience=IMPATIENT
    ) as api:
        submit = asyncio.create_task(api.submit(CLASSIC))
        await asyncio.sleep(0.1)
        assert not submit.done()
        with Sandbox(port=port) as late:
            task_id = await submit
            assert [made.task_id for made in late.submits()] == [task_id]


async def test_nobody_ever_listens() -> None:
    """Rule: after its time, what kept it from being sent is raised; it is no doubt."""
    async with NanoBananaClient(
        "key", f"http://127.0.0.1:{free_port()}", patience=IMPATIENT
    ) as api:
        error = await refusal(api, timeout=0.1)
    assert isinstance(error, errors.NetworkError)
    assert not error.sent
    assert (error.__cause__, error.__context__) == (None, None)


async def test_a_connection_that_is_not_made_in_time() -> None:
    """Rule: a server that does not take the connection has not been sent anything."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        async with NanoBananaClient(
            "key", f"http://127.0.0.1:{full.getsockname()[1]}", timeout=0.3
        ) as api:
            error = await refusal(api, timeout=0.01)
    assert isinstance(error, errors.NetworkError)
    assert not error.sent


async def test_a_look_whose_answer_is_lost_was_sent(
    sandbox: Sandbox, api: NanoBananaClient
) -> None:
    """Rule: a network error tells a request that may have arrived from one that cannot have."""
    sandbox.add_fault(Fault(kind="drop", on="record-info"))
    with pytest.raises(errors.NetworkError) as caught:
        await api.get_task_details("t1")
    assert caught.value.sent


# --- beside the looks


async def test_refused_submits_do_not_slow_looks(sandbox: Sandbox, api: NanoBananaClient) -> None:
    """Rule: a 429 on a submit pauses submits, and only them."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    sandbox.add_fault(REFUSED_WITH_429.model_copy(update={"retry_after": 60, "count": 1}))
    await refusal(api, timeout=1)
    assert api.submit_budget.pause_left > 50
    assert (api.budget.pause_left, api.budget.requests_per_second) == (0, 1000)
    await asyncio.wait_for(api.get_task_details(task_id), 10)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(api.submit(CLASSIC), 0.1)
    assert posts(sandbox) == 1


async def test_slow_submits_leave_connections_for_looks(
    sandbox: Sandbox, api: NanoBananaClient
) -> None:
    """Rule: however many submits are under way, a look is taken meanwhile."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=2))
    submits = [asyncio.create_task(api.submit(CLASSIC)) for _ in range(10)]
    await until(lambda: posts(sandbox))
    await api.get_task_details(task_id)
    assert not any(submit.done() for submit in submits)
    for submit in submits:
        submit.cancel()
    await asyncio.gather(*submits, return_exceptions=True)


# --- credits


async def test_credits_go_down_by_what_is_spent(sandbox: Sandbox, api: NanoBananaClient) -> None:
    """Rule: the credits are what the service says, before and after a submit."""
    assert await api.get_credits() == 10_000
    await api.submit(Generate2Request(prompt="a fig", resolution="4K"))
    assert await api.get_credits() == 9_982


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(kind="body-code", code=401), errors.Unauthorized),
        (Fault(kind="body-code", code=429), errors.RateLimited),
        (Fault(kind="body-code", code=200), errors.ProtocolError),
        (Fault(kind="http-status", status=503), errors.ServerError),
        (Fault(kind="drop", on="credit"), errors.NetworkError),
    ],
    ids=lambda value: f"{value.kind}-{value.code}" if isinstance(value, Fault) else "",
)
async def test_asking_for_credits_in_vain(
    sandbox: Sandbox, api: NanoBananaClient, fault: Fault, kind: type[errors.APIError]
) -> None:
    """Rule: asking for the credits fails as any look does."""
    sandbox.add_fault(fault)
    with pytest.raises(errors.APIError) as caught:
        await api.get_credits()
    assert type(caught.value) is kind


# --- reading the answers


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children) | st.dictionaries(st.sampled_from(["taskId", "x"]), children)
    ),
    max_leaves=10,
)


@given(JSON)
def test_an_answer_is_a_value_or_a_protocol_error(data: Any) -> None:
    """Rule: whatever is where the task's id or the credits should be, nothing else happens."""
    for read, kind in ((read_submitted, str), (read_credits, (int, float))):
        with contextlib.suppress(errors.ProtocolError):
            assert isinstance(read(data), kind)


@pytest.mark.parametrize("data", [None, True, "", "7 5", float("nan"), "inf", [], {}])
def test_credits_that_are_none(data: Any) -> None:
    """Rule: anything but a number is no number of credits."""
    with pytest.raises(errors.ProtocolError, match="not a number"):
        read_credits(data)


@pytest.mark.parametrize(
    ("data", "credits_left"), [(7, 7), ("7", 7), (7.0, 7), (812.5, 812.5), ("4335.86", 4335.86)]
)
def test_credits_in_any_spelling(data: Any, credits_left: float) -> None:
    """Rule: a number is one also with decimals, or where it is sent as text."""
    assert read_credits(data) == credits_left


@pytest.mark.parametrize("task_id", ["", " ", "a b", "x" * 300, None, 7, ["t"], "a\nb"])
def test_an_id_that_cannot_be_asked_about_is_none(task_id: Any) -> None:
    """Rule: a yes without a usable id is not taken for one."""
    with pytest.raises(errors.ProtocolError, match="no usable `taskId`"):
        read_submitted({"taskId": task_id})
