"""The client over real HTTP: what is refused and how, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncIterator
from email.utils import formatdate

import pytest
from pydantic import SecretStr

from nanobanana_blocks import NanoBananaClient, PollPolicy, TaskDetails, TaskStatus, errors
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.connection import check_base_url, read_retry_after
from nanobanana_blocks.api.wait_state import Patience
from nanobanana_blocks.sandbox import Fault, RateLimit, Sandbox, TaskPlan
from tests.support.raw_http import answer, raw_server, success
from tests.support.until import until

DONE = TaskPlan(seconds=0)
NEVER = TaskPlan(seconds=None)
QUICK = PollPolicy(mode="fixed", interval_seconds=0.05, requests_per_second=1000)


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[NanoBananaClient]:
    budget = RequestBudget(1000)
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url, budget=budget) as made:
        yield made


async def refusal(client: NanoBananaClient, task_id: str = "t1") -> errors.APIError:
    """The error that one look gives."""
    with pytest.raises(errors.APIError) as caught:
        await client.get_task_details(task_id)
    return caught.value


# --- what an answer means


async def test_a_finished_task_is_read(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: a look gives the task's status, its URLs and what it was asked for."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, images=3, prompt="a fig"))
    details = await client.get_task_details(task_id)
    assert (details.task_id, details.status) == (task_id, TaskStatus.SUCCESS)
    assert (details.image_count, details.images_asked_for) == (3, 3)
    assert details.parameters["prompt"] == "a fig"


@pytest.mark.parametrize("plan", [DONE, NEVER])
async def test_a_look_tells_the_services_clock(
    sandbox: Sandbox, client: NanoBananaClient, plan: TaskPlan
) -> None:
    """Rule: with it, a task's age is known without trusting this machine's clock."""
    details = await client.get_task_details(sandbox.add_task(plan))
    assert details.answered_at is not None
    assert details.created_at is not None


@pytest.mark.parametrize(
    ("fault", "kind", "retryable"),
    [
        (Fault(kind="body-code", code=401, message="No access"), errors.Unauthorized, False),
        (Fault(kind="http-status", status=401), errors.Unauthorized, False),
        (Fault(kind="http-status", status=403), errors.Forbidden, True),
        (Fault(kind="body-code", code=402, message="Top up."), errors.OutOfCredits, False),
        (Fault(kind="http-status", status=402), errors.OutOfCredits, False),
        (Fault(kind="body-code", code=404), errors.UnknownTask, False),
        (
            Fault(kind="body-code", code=422, message="recordInfo is null"),
            errors.UnknownTask,
            False,
        ),
        (Fault(kind="http-status", status=404), errors.ProtocolError, False),
        (Fault(kind="body-code", code=400), errors.BadRequest, False),
        (Fault(kind="body-code", code=422, message="Incorrect type"), errors.BadRequest, False),
        (Fault(kind="body-code", code=413), errors.BadRequest, False),
        (Fault(kind="http-status", status=413), errors.BadRequest, False),
        (Fault(kind="body-code", code=505), errors.BadRequest, False),
        (Fault(kind="body-code", code=429), errors.RateLimited, True),
        (Fault(kind="http-status", status=429), errors.RateLimited, True),
        (Fault(kind="body-code", code=429, status=429), errors.RateLimited, True),
        (Fault(kind="body-code", code=455), errors.ServerError, True),
        (Fault(kind="body-code", code=500), errors.ServerError, True),
        (Fault(kind="body-code", code=200, status=503), errors.ServerError, True),
        (Fault(kind="http-status", status=500), errors.ServerError, True),
        (Fault(kind="http-status", status=502), errors.ServerError, True),
        (Fault(kind="http-status", status=503), errors.ServerError, True),
        (Fault(kind="http-status", status=408), errors.ServerError, True),
        (Fault(kind="html", on="record-info"), errors.ProtocolError, False),
        (Fault(kind="not-json"), errors.ProtocolError, False),
        (Fault(kind="not-envelope"), errors.ProtocolError, False),
        (Fault(kind="huge-body", size=8 << 20), errors.ProtocolError, False),
        (Fault(kind="drop", on="record-info"), errors.NetworkError, True),
    ],
    ids=lambda value: (
        f"{value.kind}-{value.code}-{value.status}" if isinstance(value, Fault) else ""
    ),
)
async def test_every_refusal_has_its_class(
    sandbox: Sandbox,
    client: NanoBananaClient,
    fault: Fault,
    kind: type[errors.APIError],
    retryable: bool,
) -> None:
    """Rule: each way to say no has one class, says whether to try again, and survives pickling."""
    task_id = sandbox.add_task(DONE)
    sandbox.add_fault(fault)
    error = await refusal(client, task_id)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.task_id == (None if kind is errors.Unauthorized else task_id)
    assert len(str(error)) < 500
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (str(copied), vars(copied)) == (str(error), vars(error))


async def test_a_refusal_leaves_the_connection_in_use(
    sandbox: Sandbox, client: NanoBananaClient
) -> None:
    """Rule: after whatever went wrong, the next look works."""
    task_id = sandbox.add_task(DONE)
    kinds = ("drop", "html", "not-json", "huge-body", "http-status", "redirect")
    for kind in kinds:
        sandbox.add_fault(Fault(kind=kind, on="record-info", count=1, size=4 << 20))
        await refusal(client, task_id)
    assert (await client.get_task_details(task_id)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("unknown", ["404", "422", "null"])
async def test_an_unknown_task_in_all_its_spellings(
    sandbox: Sandbox, client: NanoBananaClient, unknown: str
) -> None:
    """Rule: the API's three ways not to know a task are one error, which names the task."""
    sandbox.configure(unknown_task=unknown)
    error = await refusal(client, "nobody")
    assert type(error) is errors.UnknownTask
    assert str(error).startswith("task nobody: the API does not know this task id")


@pytest.mark.parametrize("as_status", [False, True])
async def test_a_wrong_key_is_said_once_and_plainly(sandbox: Sandbox, as_status: bool) -> None:
    """Rule: a refused key names the key and its allow list as causes, and never the key."""
    sandbox.configure(refusals_as_http_status=as_status)
    async with NanoBananaClient("not-the-key-1234", sandbox.base_url) as client:
        error = await refusal(client, sandbox.add_task(DONE))
    assert type(error) is errors.Unauthorized
    assert "IP allow list at https://nanobananaapi.ai/api-key" in str(error)
    assert "not-the-key-1234" not in repr(error) + str(vars(error))


@pytest.mark.parametrize("task_id", ["", " ", "a b", "a\nb", "\ud800", "x" * 5000, 7, None])
async def test_what_cannot_be_an_id_is_not_sent(
    sandbox: Sandbox, client: NanoBananaClient, task_id: str
) -> None:
    """Rule: an id that cannot be one is refused before anything is asked."""
    with pytest.raises(errors.InvalidInput, match="task id"):
        await client.get_task_details(task_id)
    assert sandbox.stats().requests == {}


@pytest.mark.parametrize("task_id", ["../x", "a/b", "a&taskId=b", "a%20b", "é", "#", "?", "+", "-"])
async def test_a_hostile_id_is_asked_about_as_it_is(
    sandbox: Sandbox, client: NanoBananaClient, task_id: str
) -> None:
    """Rule: no character of an id has a meaning in the request."""
    sandbox.add_task(TaskPlan(task_id=task_id, seconds=0))
    assert (await client.get_task_details(task_id)).task_id == task_id
    assert sandbox.stats().looks == {task_id: 1}


# --- being told to slow down


@pytest.mark.parametrize("form", ["seconds", "http-date"])
async def test_retry_after_pauses_everybody(
    sandbox: Sandbox, client: NanoBananaClient, form: str
) -> None:
    """Rule: after a 429 nobody asks before the time that the service named, in either form."""
    task_ids = sandbox.add_tasks([DONE, DONE])
    sandbox.add_fault(
        Fault(kind="http-status", status=429, retry_after=60, retry_after_as=form, count=1)
    )
    error = await refusal(client, task_ids[0])
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 60
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(client.get_task_details(task_ids[1]), 0.1)
    assert sum(sandbox.stats().looks.values()) == 1


async def test_a_pause_ends(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: when the named time has passed, and not before, requests go on."""
    task_id = sandbox.add_task(DONE)
    sandbox.add_fault(Fault(kind="body-code", code=429, retry_after=0.2, count=1))
    await refusal(client, task_id)
    refused_at = time.monotonic()
    await client.get_task_details(task_id)
    assert time.monotonic() - refused_at >= 0.19


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *((None, None), ("", None), ("soon", None), ("-1", 0.0), ("nan", None), ("1e9", None)),
        *(("0", 0.0), (" 7 ", 7.0), ("1.5", 1.5), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_in_any_form(header: str | None, seconds: float | None) -> None:
    """Rule: both forms of the header are read, a past date is now, and nonsense is nothing."""
    assert read_retry_after(header) == seconds


def test_retry_after_as_a_date_to_come() -> None:
    """Rule: a date means the seconds until then."""
    found = read_retry_after(formatdate(time.time() + 90, usegmt=True))
    assert found is not None
    assert 80 < found <= 90


async def test_requests_held_up_do_not_burst_past_the_budget(sandbox: Sandbox) -> None:
    """Rule: the budget is kept where requests are sent: waiting for a connection saves up none."""
    sandbox.configure(rate_limits=(RateLimit(requests=100, per_seconds=1.0),))
    task_ids = sandbox.add_tasks([DONE] * 200)
    sandbox.add_fault(Fault(kind="latency", on="record-info", seconds=1.6, count=8))
    budget = RequestBudget(50)
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url, budget=budget) as client:
        await asyncio.gather(*map(client.get_task_details, task_ids), return_exceptions=True)
    assert sandbox.stats().rate_limited == 0


# --- the way to the API


async def test_silence_is_given_up(sandbox: Sandbox) -> None:
    """Rule: an answer that does not come in time is a network error that names the server."""
    task_id = sandbox.add_task(DONE)
    sandbox.add_fault(Fault(kind="latency", on="record-info", seconds=1.0))
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url, timeout=0.1) as client:
        error = await refusal(client, task_id)
    assert type(error) is errors.NetworkError
    assert error.message == f"{sandbox.base_url}: no answer within 0.1 s."


async def test_an_answer_that_drips_is_given_up() -> None:
    """Rule: nothing is waited for without end, not even an answer that comes byte by byte."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"
    async with (
        raw_server(head, then_every=(0.05, b" ")) as server,
        NanoBananaClient("key", server.url, timeout=0.2) as client,
    ):
        error = await asyncio.wait_for(refusal(client), 30)
    assert type(error) is errors.NetworkError


async def test_nobody_listens() -> None:
    """Rule: a server that is not there is a network error that names it."""
    async with raw_server(b"") as server:
        url = server.url
    async with NanoBananaClient("key", url) as client:
        error = await refusal(client)
    assert type(error) is errors.NetworkError
    assert url in str(error)
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("garbage", [b"", b"\x00\xff\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
async def test_a_server_that_does_not_speak_http(garbage: bytes) -> None:
    """Rule: whatever bytes come back, the error is typed."""
    async with raw_server(garbage) as server, NanoBananaClient("key", server.url) as client:
        assert type(await refusal(client)) is errors.NetworkError


async def test_redirects_are_not_followed(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: a redirect is not the API's answer, and its target never hears of the key."""
    async with raw_server(success("t1")) as elsewhere:
        sandbox.add_fault(Fault(kind="redirect", on="record-info", url=elsewhere.url))
        error = await refusal(client, sandbox.add_task(DONE))
        assert elsewhere.requests == []
    assert type(error) is errors.ProtocolError
    assert "Check the base URL" in str(error)


async def test_a_proxy_never_sees_the_key_of_an_api_on_this_machine(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: an API on this machine is spoken to directly, whatever proxy the environment names."""
    async with raw_server(answer(b"{}")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with NanoBananaClient(sandbox.api_key, sandbox.base_url) as client:
            details = await client.get_task_details(sandbox.add_task(DONE))
        assert proxy.requests == []
    assert details.status is TaskStatus.SUCCESS


async def test_an_echoed_key_is_masked() -> None:
    """Rule: an API that repeats the request's headers does not put the key into an error."""
    body = b'{"code": 500, "msg": "bad header Bearer k3y-of-mine"}'
    async with (
        raw_server(answer(body)) as server,
        NanoBananaClient("k3y-of-mine", server.url) as client,
    ):
        error = await refusal(client)
    assert b"authorization: bearer k3y-of-mine" in server.requests[0].lower()
    assert "k3y-of-mine" not in str(error)


async def test_requests_say_who_asks() -> None:
    """Rule: the User-Agent names this package and its version."""
    async with (
        raw_server(success("t1")) as server,
        NanoBananaClient("key", server.url) as client,
    ):
        await client.get_task_details("t1")
    assert b"\r\nuser-agent: nanobanana-blocks/" in server.requests[0].lower()


async def test_a_base_url_with_a_path_keeps_it() -> None:
    """Rule: a gateway may put the API under a path of its own."""
    async with (
        raw_server(success("t1")) as server,
        NanoBananaClient("key", f"{server.url}/gateway/") as client,
    ):
        await client.get_task_details("t1")
    assert server.requests[0].startswith(b"GET /gateway/api/v1/nanobanana/record-info?taskId=t1 ")


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "api.nanobananaapi.ai", "//api.nanobananaapi.ai", "ftp://h", "https://"),
        *("https://user:secret@h", "https://h?key=secret", "https://h/#secret", "https://[::1"),
        *("https://h:99999", "https://h:x", "http://example.com", "http://8.8.8.8", "javascript:1"),
    ],
)
def test_a_base_url_that_cannot_be_meant(url: str) -> None:
    """Rule: what is no API's address is refused at once, and no password in it is repeated."""
    with pytest.raises(errors.InvalidInput, match="base URL") as caught:
        check_base_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://api.nanobananaapi.ai", "https://api.nanobananaapi.ai"),
        (" https://api.nanobananaapi.ai/ \n", "https://api.nanobananaapi.ai"),
        ("HTTPS://API.example.com:8443/v1/", "https://api.example.com:8443/v1"),
        ("http://localhost:8378", "http://localhost:8378"),
        ("http://[::1]:8378", "http://[::1]:8378"),
        ("http://192.168.1.7", "http://192.168.1.7"),
    ],
)
def test_a_base_url_that_can_be_meant(url: str, checked: str) -> None:
    """Rule: https anywhere, http on private addresses; blanks and final slashes do not matter."""
    assert check_base_url(url) == checked


@pytest.mark.parametrize("key", ["", " \n", "two words", "a\nb", "ключ-ключ", "x\x7fy", "z\u200by"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    """Rule: a key that no header can carry is refused at once, without repeating it."""
    for given in (key, SecretStr(key)):
        with pytest.raises(errors.InvalidInput, match="the API key") as caught:
            NanoBananaClient(given)
        assert not key.strip() or key not in str(caught.value)


async def test_blanks_around_a_key_do_not_matter(sandbox: Sandbox) -> None:
    """Rule: the line break that came with a pasted key is not part of it."""
    async with NanoBananaClient(f" {sandbox.api_key}\n", sandbox.base_url) as client:
        await client.get_task_details(sandbox.add_task(DONE))
        assert sandbox.api_key not in repr(client)


# --- waiting


async def test_waits_share_one_waiter_its_connections_and_the_budget(sandbox: Sandbox) -> None:
    """Rule: two hundred waits are one waiter, few connections, and no request past the budget."""
    sandbox.configure(rate_limits=(RateLimit(requests=400, per_seconds=1.0),))
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0.3)] * 200)
    policy = PollPolicy(mode="fixed", interval_seconds=0.3, requests_per_second=200)
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url) as client:
        assert client.waiter(policy) is client.waiter(policy.model_copy())
        before = len(asyncio.all_tasks())
        waits = [asyncio.create_task(client.wait_for_task(t, 20, policy)) for t in task_ids]
        await asyncio.sleep(0.1)
        dispatcher, looks, connecting = 1, 8, 8
        assert len(asyncio.all_tasks()) <= before + len(waits) + dispatcher + looks + connecting
        found = await asyncio.gather(*waits)
    assert [details.task_id for details in found] == task_ids
    assert {details.status for details in found} == {TaskStatus.SUCCESS}
    stats = sandbox.stats()
    assert stats.peak_in_flight <= 8
    assert stats.rate_limited == 0


async def test_two_waits_for_one_task_both_end(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: a task can be waited for twice at a time."""
    task_id = sandbox.add_task(TaskPlan(seconds=0.1))
    found = await asyncio.gather(*[client.wait_for_task(task_id, 10, QUICK) for _ in range(2)])
    assert [details.status for details in found] == [TaskStatus.SUCCESS] * 2


async def test_a_failed_generation_is_an_end(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: waiting ends well for a task that ended badly; whoever asks is told."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, outcome="generate-failed"))
    details = await client.wait_for_task(task_id, 10, QUICK)
    with pytest.raises(errors.GenerationFailed, match="Image generation task failed"):
        details.raise_for_status()


async def test_a_wait_rides_out_what_passes(sandbox: Sandbox) -> None:
    """Rule: a dropped connection and a 429 do not end a wait."""
    task_id = sandbox.add_task(DONE)
    sandbox.add_fault(Fault(kind="drop", on="record-info", count=1))
    sandbox.add_fault(Fault(kind="body-code", code=429, retry_after=0.05, count=1))
    async with NanoBananaClient(
        sandbox.api_key, sandbox.base_url, patience=Patience(max_backoff_seconds=0.05)
    ) as client:
        details = await client.wait_for_task(task_id, 20, QUICK)
    assert details.status is TaskStatus.SUCCESS
    assert sandbox.stats().looks == {task_id: 3}


async def test_a_wait_that_runs_out(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: a wait ends with a last look and an error that Prefect shows as timed out."""
    task_id = sandbox.add_task(NEVER)
    with pytest.raises(TimeoutError, match="Running again picks it up") as caught:
        await client.wait_for_task(task_id, 0.12, QUICK)
    assert isinstance(caught.value, errors.WaitTimedOut)
    copied = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own
    assert (copied.task_id, str(copied)) == (task_id, str(caught.value))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
async def test_a_timeout_that_cannot_be_meant(client: NanoBananaClient, timeout: float) -> None:
    """Rule: a wait has a positive, finite limit."""
    with pytest.raises(errors.InvalidInput, match="timeout"):
        await client.wait_for_task("t1", timeout)


async def test_a_cancelled_wait_asks_no_more(sandbox: Sandbox, client: NanoBananaClient) -> None:
    """Rule: cancelling a wait ends it at once, for itself only, and no look follows."""
    quitter, stayer = sandbox.add_tasks([NEVER, NEVER])
    waits = [asyncio.create_task(client.wait_for_task(t, 60, QUICK)) for t in (quitter, stayer)]
    await until(lambda: len(sandbox.stats().looks) == 2)
    waits[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits[0]
    assert client.waiter(QUICK).waiting == 1
    for _ in range(2):  # at first what was under way may still arrive
        before = sandbox.stats().looks
        await until(lambda known=before[stayer]: sandbox.stats().looks[stayer] >= known + 3)
    assert sandbox.stats().looks[quitter] == before[quitter]
    waits[1].cancel()


async def test_closing_the_client_ends_waits_and_leaves_nothing(sandbox: Sandbox) -> None:
    """Rule: whoever waits when the client is closed is told, and no task of ours is left."""
    before = asyncio.all_tasks()
    waits: list[asyncio.Task[TaskDetails]] = []
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url) as client:
        for policy in (QUICK, PollPolicy()):
            task_ids = sandbox.add_tasks([NEVER] * 20)
            waits += [asyncio.create_task(client.wait_for_task(t, 60, policy)) for t in task_ids]
        await asyncio.sleep(0.1)
    ended = await asyncio.gather(*waits, return_exceptions=True)
    assert all(isinstance(end, (asyncio.CancelledError, errors.NanoBananaError)) for end in ended)
    assert asyncio.all_tasks() == before


async def test_a_closed_client_says_so_and_starts_nothing(sandbox: Sandbox) -> None:
    """Rule: what is asked of a closed client is one of our errors, and no task is left behind."""
    before = asyncio.all_tasks()
    client = NanoBananaClient(sandbox.api_key, sandbox.base_url)
    await client.aclose()
    with pytest.raises(errors.NanoBananaError, match="closed"):
        await client.get_task_details("t1")
    with pytest.raises(errors.NanoBananaError, match="closed"):
        await client.wait_for_task("t1", 5, QUICK)
    assert asyncio.all_tasks() == before


async def test_a_wrong_key_ends_all_waits_with_one_cause(sandbox: Sandbox) -> None:
    """Rule: a key that is refused for one task is refused for all: one look, not one for each."""
    task_ids = sandbox.add_tasks([NEVER] * 50)
    async with NanoBananaClient("wrong", sandbox.base_url) as client:
        waits = [client.wait_for_task(task_id, 60, QUICK) for task_id in task_ids]
        ended = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(error) for error in ended} == {errors.Unauthorized}
    assert all(isinstance(e, errors.NanoBananaError) and e.is_fatal for e in ended)
    assert sandbox.stats().requests["record-info"] <= 8
