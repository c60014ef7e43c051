"""The callback receiver: real HTTP, real disks, a real Prefect server and a real `kill -9`."""

from __future__ import annotations

import base64
import contextlib
import contextvars
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from nanobanana_blocks.api.details import TaskStatus
from nanobanana_blocks.batches.job_keys import BATCH_JOB_PREFIX
from nanobanana_blocks.callbacks import (
    CallbackReceiver,
    ReceivedCallback,
    SpoolError,
    VerifiedToken,
    callback_secret,
    callback_token,
    callback_url,
    default_spool_path,
    make_app,
    serve_callbacks,
    verify_callback_token,
)
from nanobanana_blocks.callbacks.tokens import is_signed
from nanobanana_blocks.errors import InvalidInput, MissingCredentials
from nanobanana_blocks.orchestration.blocks.credentials import NanoBananaCredentials
from nanobanana_blocks.orchestration.blocks.image_store import ImageStore
from nanobanana_blocks.orchestration.callback_events import Announcer
from nanobanana_blocks.orchestration.observability.events import CALLBACK_RECEIVED
from nanobanana_blocks.sandbox import CallbackWeather, Sandbox, TaskPlan
from tests.support.until import block_until

SECRET = "a secret that nobody guesses"
JSON = {"content-type": "application/json"}
EXAMPLES = ["success", "content-policy", "generation-failed", "internal-error"]
WEBHOOK_KEY = "a webhook key"


class Receiver:
    """A receiver on a real socket, served from a thread of this process."""

    def __init__(self, app: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(app, lifespan="on", log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        # Prefect's settings of the test are in its context, and a thread starts without one.
        serve = contextvars.copy_context().run
        self._thread = threading.Thread(
            target=serve, args=(self._server.run, [self._socket]), daemon=True
        )
        self.http = httpx.Client(base_url=self.base_url, trust_env=False)

    def __enter__(self) -> Receiver:
        self._thread.start()
        block_until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()

    def post(
        self,
        body: bytes,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        path = f"/callbacks/{token or callback_token(SECRET)}"
        return self.http.post(path, content=body, headers=headers or JSON)

    def health(self) -> dict[str, Any]:
        return dict(self.http.get("/health").json())


def callback(task_id: str, code: int = 200) -> bytes:
    data = {"taskId": task_id, "info": {"resultImageUrl": "https://images.invalid/a.png?sig=abc"}}
    return json.dumps({"code": code, "msg": "said so", "data": data}).encode()


def events_about(api_url: str, prefix: str) -> list[dict[str, Any]]:
    """The callback events that the Prefect server has stored about tasks with this prefix."""
    wanted = {
        "event": {"name": [CALLBACK_RECEIVED]},
        "resource": {"id_prefix": [f"nanobanana.task.{prefix}"]},
    }
    with httpx.Client(trust_env=False, timeout=30) as http:
        page = http.post(f"{api_url}/events/filter", json={"filter": wanted, "limit": 50}).json()
        found = list(page["events"])
        while page["next_page"]:
            page = http.get(page["next_page"]).json()
            found += page["events"]
    return found


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "state" / "callbacks.sqlite"


@pytest.fixture
def receiver(spool: Path) -> Iterator[Receiver]:
    """A receiver that knows no Prefect API, so everything it accepts waits in its spool."""
    with Receiver(make_app(SECRET, spool=spool)) as running:
        yield running


# --- tokens and addresses ---------------------------------------------------------------------


@pytest.mark.parametrize("job_key", [None, "row-17", "a.b.c", "x" * 128])
def test_token_tells_the_job_key_it_was_made_for(job_key: str | None) -> None:
    """A genuine token verifies, and says which job key it is bound to."""
    token = callback_token(SECRET, job_key)
    assert verify_callback_token(SecretStr(SECRET), token) == VerifiedToken(job_key)


@pytest.mark.parametrize("job_key", [None, "row-17"])
def test_token_changed_anywhere_is_refused(job_key: str | None) -> None:
    """No token but the genuine one verifies: not a changed, cut, moved or foreign one."""
    token = callback_token(SECRET, job_key)
    changed = [token[:at] + ("A" if token[at] != "A" else "B") for at in range(len(token))]
    changed = [start + token[len(start) :] for start in changed]
    others = [token[:-1], token + "A", "", ".", "é", f"row-18.{token.rpartition('.')[2]}"]
    others += [callback_token(SECRET + "!", job_key), f".{token}", token.rpartition(".")[2][1:]]
    assert not [other for other in changed + others if verify_callback_token(SECRET, other)]


@pytest.mark.parametrize("job_key", ["", "a/b", "a b", "é", "x" * 129, "a\n", "a%2F"])
def test_job_key_that_an_address_would_change_is_refused(job_key: str) -> None:
    """A job key is part of a path as it is, so it holds nothing that needs quoting."""
    with pytest.raises(InvalidInput, match="job key"):
        callback_token(SECRET, job_key)


@pytest.mark.parametrize("secret", ["", "   ", "fifteen letters", " fifteen letters "])
def test_blank_or_short_secret_is_refused(secret: str) -> None:
    """A secret that can be guessed is refused wherever it is given, and is not repeated."""
    for use in (make_app, callback_token):
        with pytest.raises(InvalidInput, match="openssl rand") as refusal:
            use(secret)
        assert secret.strip() == "" or secret.strip() not in str(refusal.value)


def test_callback_url_keeps_the_prefix() -> None:
    """The address is the public URL, its prefix kept, then the path and the token."""
    url = callback_url("https://example.com/hooks/", SECRET, "row-17")
    assert url == f"https://example.com/hooks/callbacks/{callback_token(SECRET, 'row-17')}"


@pytest.mark.parametrize(
    "public_url", ["", "example.com", "ftp://a", "https://u:p@a", "https://a?b", "http://[", "/x"]
)
def test_public_url_that_no_service_can_reach_is_refused(public_url: str) -> None:
    """What is not an http(s) address without extras cannot be given as callBackUrl."""
    with pytest.raises(InvalidInput, match="public URL"):
        callback_url(public_url, SECRET)


def test_secret_comes_from_the_block_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block's secret wins; without any, the error says how to make one."""
    block = NanoBananaCredentials(api_key=SecretStr("k"), callback_secret=SecretStr(SECRET))
    monkeypatch.delenv("NANOBANANA_CALLBACK_SECRET", raising=False)
    with pytest.raises(MissingCredentials, match="openssl rand"):
        callback_secret(NanoBananaCredentials(api_key=SecretStr("k")))
    monkeypatch.setenv("NANOBANANA_CALLBACK_SECRET", "from the environment")
    assert callback_secret().get_secret_value() == "from the environment"
    assert callback_secret(block).get_secret_value() == SECRET


def test_default_spool_follows_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux the spool is under XDG_STATE_HOME."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_spool_path() == Path("/state/nanobanana/callbacks.sqlite")


# --- what is accepted, and what is not --------------------------------------------------------


@pytest.mark.parametrize("example", [*EXAMPLES, "generate-2-failed"])
def test_documented_payloads_are_acknowledged_as_printed(
    receiver: Receiver, samples: Path, example: str
) -> None:
    """Every example of the documentation, in both shapes, gets the documented answer."""
    answer = receiver.post((samples / f"documented-callback-{example}.json").read_bytes())
    assert (answer.status_code, answer.json()) == (200, {"status": "received"})
    assert receiver.health()["waiting"] == 1


def test_repeats_are_acknowledged_and_counted_but_kept_once(receiver: Receiver) -> None:
    """The same task, outcome and job key is one callback; any of them different is another."""
    token = callback_token(SECRET, "row-17")
    for body, used in [(callback("a"), None), (callback("a"), token), (callback("a", 501), None)]:
        for _ in range(3):
            assert receiver.post(body, used).status_code == 200
    health = receiver.health()
    assert health.pop("oldest_waiting_seconds") >= 0
    assert health == {"status": "ok", "received": 9, "duplicates": 6, "waiting": 3}


def test_wrong_token_looks_like_any_unknown_path(receiver: Receiver) -> None:
    """Whoever guesses learns nothing: status, headers and body are those of an unknown path."""

    def seen(path: str) -> tuple[int, bytes, list[tuple[str, str]]]:
        answer = receiver.http.post(path, content=callback("a"), headers=JSON)
        headers = [(k, v) for k, v in answer.headers.items() if k != "date"]
        return answer.status_code, answer.content, headers

    unknown = seen("/anything")
    assert unknown[0] == 404
    guesses = [
        "x",
        "row-17.x",
        callback_token("another secret, not ours"),
        "%2e%2e",
        "é",
        "x" * 999,
    ]
    assert {str(seen(f"/callbacks/{guess}")) for guess in guesses} == {str(unknown)}
    assert receiver.health()["received"] == 0


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", JSON, 400),
        (b"SECRETBODY", JSON, 400),
        (b"[]", JSON, 400),
        (b'{"code":200,"data":{"taskId":"SECRETBODY","info":null}', JSON, 400),
        (b'{"code":299,"data":{"taskId":"SECRETBODY"}}', JSON, 400),
        (b'{"code":200,"data":{"taskId":"SECRET BODY"}}', JSON, 400),
        (b'{"code":200,"data":{"taskId":"\\ud800"}}', JSON, 400),
        (b'{"code":200,"data":{"taskId":"' + b"S" * 300 + b'"}}', JSON, 400),
        (b"[" * 60_000, JSON, 400),
        (b'{"data":' * 8_000, JSON, 400),
        (b"9" * 60_000, JSON, 400),
        (callback("a") + b" " * 65_536, JSON, 413),
        (callback("a"), {"content-type": "text/plain"}, 415),
        (callback("a"), {"content-type": "application/x-www-form-urlencoded"}, 415),
        (callback("a"), {"content-type": ""}, 415),
    ],
)
def test_anything_else_is_refused_with_one_line_that_quotes_nothing(
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    """What is not a callback gets its 4xx and one log line; its content is in neither."""
    answer = receiver.post(body, headers=headers)
    assert answer.status_code == status
    [line] = refusals(caplog)
    assert "SECRET" not in line + answer.text
    assert callback_token(SECRET) not in line
    assert receiver.health()["received"] == 0


@pytest.mark.parametrize("field", ["msg", "code", "successFlag", "errorMessage", "response"])
def test_depth_never_breaks_the_receiver(receiver: Receiver, field: str) -> None:
    """However deep a field is nested, the answer is yes or no, never a failure."""
    for depth in (*range(100, 1100, 25), 15_000):
        deep = "[" * depth + "]" * depth
        body = (
            f'{{"code":501,"msg":"m","{field}":{deep},"data":{{"taskId":"a","successFlag":3,'
            f'"{field}":{deep}}}}}'
        )
        assert receiver.post(body.encode()).status_code in (200, 400)


def test_streamed_body_is_measured_as_it_comes(receiver: Receiver) -> None:
    """A body of no declared length is cut off at 64 KB."""
    chunks = (b" " * 4096 for _ in range(17))
    path = f"/callbacks/{callback_token(SECRET)}"
    assert receiver.http.post(path, content=chunks, headers=JSON).status_code == 413


def test_content_type_may_name_a_charset(receiver: Receiver) -> None:
    """application/json is what counts, in any case and with parameters."""
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert receiver.post(callback("a"), headers=headers).status_code == 200


# --- signatures of sister products ------------------------------------------------------------


def signed(task_id: str, timestamp: int, key: str = WEBHOOK_KEY) -> dict[str, str]:
    digest = hmac.digest(key.encode(), f"{task_id}.{timestamp}".encode(), hashlib.sha256)
    signature = base64.b64encode(digest).decode()
    return {**JSON, "X-Webhook-Timestamp": str(timestamp), "X-Webhook-Signature": signature}


@pytest.fixture
def signing_receiver(spool: Path) -> Iterator[Receiver]:
    with Receiver(make_app(SECRET, spool=spool, webhook_key=WEBHOOK_KEY)) as running:
        yield running


def test_signature_is_asked_for_where_a_key_is_set(signing_receiver: Receiver) -> None:
    """Only a fresh signature about this task with this key is taken."""
    now = int(time.time())
    post = signing_receiver.post
    unsigned = {"missing": JSON, "timestamp only": {**JSON, "X-Webhook-Timestamp": str(now)}}
    wrong = {
        "another key": signed("a", now, "another key"),
        "another task": signed("b", now),
        "6 minutes old": signed("a", now - 360),
        "from the future": signed("a", now + 360),
        "not a number": {**signed("a", now), "X-Webhook-Timestamp": "now"},
        "not base64": {**signed("a", now), "X-Webhook-Signature": "!"},
    }
    answers = {
        name: post(callback("a"), headers=headers).status_code
        for name, headers in (unsigned | wrong).items()
    }
    assert set(answers.values()) == {401}, answers
    assert not is_signed(WEBHOOK_KEY.encode(), "a", str(now), "é", now=now)
    assert post(callback("a"), headers=signed("a", now - 200)).status_code == 200


def test_signature_vouches_for_one_outcome_across_restarts(spool: Path) -> None:
    """A replayed signature is a repeat with the same outcome, and refused with any other."""
    headers = signed("a", int(time.time()))
    with Receiver(make_app(SECRET, spool=spool, webhook_key=WEBHOOK_KEY)) as receiver:
        assert receiver.post(callback("a"), headers=headers).status_code == 200
        assert receiver.post(callback("a"), headers=headers).status_code == 200
        assert receiver.post(callback("a", 501), headers=headers).status_code == 401
    with Receiver(make_app(SECRET, spool=spool, webhook_key=WEBHOOK_KEY)) as receiver:
        assert receiver.post(callback("a", 501), headers=headers).status_code == 401
        assert receiver.health()["waiting"] == 1


# --- the spool --------------------------------------------------------------------------------


def test_second_receiver_on_a_spool_is_refused(receiver: Receiver, spool: Path) -> None:
    """Two receivers would forward the same callbacks; the second says so and does not start."""
    with pytest.raises(SpoolError, match="in use by another receiver"):
        serve_callbacks(port=0, secret=SecretStr(SECRET), spool=spool)
    assert receiver.post(callback("a")).status_code == 200


async def test_spool_that_is_something_else_is_refused(tmp_path: Path) -> None:
    """A file that is not a spool is neither used nor changed."""
    other = tmp_path / "notes.txt"
    other.write_text("not a database, and long enough to be looked at as one " * 50)
    before = other.read_bytes()
    with pytest.raises(SpoolError, match=r"notes\.txt"):
        async with make_app(SECRET, spool=other).running():
            pass
    assert other.read_bytes() == before


def test_spool_is_its_owners_alone_and_holds_no_url(receiver: Receiver, spool: Path) -> None:
    """Nobody else can read the spool, and no image URL or token is in it."""
    receiver.post(callback("a"), callback_token(SECRET, "row-17"))
    assert spool.stat().st_mode & 0o077 == 0
    kept = b"".join(file.read_bytes() for file in spool.parent.iterdir())
    assert b"row-17" in kept
    assert b"images.invalid" not in kept
    assert callback_token(SECRET, "row-17").rpartition(".")[2].encode() not in kept


def test_full_disk_is_answered_with_503_until_there_is_room(tmp_path: Path) -> None:
    """What cannot be kept is not acknowledged, so the service tries again; then all is well."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mounting, check=False).returncode != 0:
        pytest.skip("a disk of 1 MB can only be mounted as root")
    try:
        with Receiver(make_app(SECRET, spool=disk / "spool.sqlite")) as receiver:
            assert receiver.post(callback("before")).status_code == 200
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(b"x" * 4096):
                    pass
            refused = receiver.post(callback("meanwhile"))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
            assert receiver.http.get("/health").status_code == 503
            filler.unlink()
            assert receiver.post(callback("meanwhile")).status_code == 200
            assert receiver.health()["waiting"] == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_receiver_that_is_not_running_acknowledges_nothing(spool: Path) -> None:
    """Mounted without its lifespan, it answers 503 rather than losing callbacks."""
    outer = FastAPI()
    outer.mount("/nanobanana", make_app(SECRET, spool=spool))
    with Receiver(outer) as receiver:
        answer = receiver.http.post(
            f"/nanobanana/callbacks/{callback_token(SECRET)}", content=callback("a"), headers=JSON
        )
        assert answer.status_code == 503


def test_receiver_can_be_mounted_under_a_prefix(spool: Path) -> None:
    """In another service it serves under its prefix, started by that service's lifespan."""
    inner = make_app(SECRET, spool=spool)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> Any:
        async with inner.running():
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/nanobanana", inner)
    with Receiver(outer) as receiver:
        url = callback_url(f"{receiver.base_url}/nanobanana", SECRET)
        assert receiver.http.post(url, content=callback("a"), headers=JSON).status_code == 200
        assert receiver.http.get("/nanobanana/health").json()["waiting"] == 1


async def test_forwarded_callbacks_are_forgotten_after_their_days(
    spool: Path, prefect_api: str
) -> None:
    """Only what was forwarded is pruned; what still waits is kept whatever its age."""
    prefix = f"prune{uuid.uuid4().hex}"
    with temporary_settings({PREFECT_API_URL: None}), Receiver(make_app(SECRET, spool=spool)) as r:
        r.post(callback(prefix))
    with Receiver(make_app(SECRET, spool=spool, kept_days=0)) as receiver:
        block_until(lambda: receiver.health()["waiting"] == 0)
        receiver.post(callback(prefix))
        assert receiver.health()["duplicates"] == 1
    with Receiver(make_app(SECRET, spool=spool, kept_days=0)) as receiver:
        block_until(lambda: receiver.post(callback(prefix)) and receiver.health()["received"] > 0)
        assert receiver.health()["duplicates"] < receiver.health()["received"]


# --- forwarding -------------------------------------------------------------------------------


def test_each_callback_becomes_one_event(spool: Path, samples: Path, prefect_api: str) -> None:
    """Repeats give one event; it tells the outcome and the job key, and no URL."""
    task_id = f"event{uuid.uuid4().hex}"
    token = callback_token(SECRET, "row-17")
    with Receiver(make_app(SECRET, spool=spool)) as receiver:
        for _ in range(3):
            receiver.post(callback(task_id, 501), token)
        block_until(lambda: receiver.health()["waiting"] == 0)
    with Receiver(make_app(SECRET, spool=spool)) as receiver:
        receiver.post(callback(task_id, 501), token)
        assert receiver.health()["duplicates"] == 1
    block_until(lambda: events_about(prefect_api, task_id))
    [event] = events_about(prefect_api, task_id)
    assert event["resource"]["prefect.resource.id"] == f"nanobanana.task.{task_id}"
    payload = event["payload"]
    assert event["occurred"].replace("Z", "+00:00") == payload.pop("received_at")
    assert payload == {
        "task_id": task_id,
        "status": "GENERATE_FAILED",
        "error_code": 501,
        "error_message": "said so",
        "job_key": "row-17",
    }
    assert "images.invalid" not in json.dumps(event)


class Relay:
    """A TCP port that leads to another once it is opened: an API that is down at first."""

    def __init__(self, target_url: str) -> None:
        target = urlsplit(target_url)
        self._target = (target.hostname or "", target.port or 80)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}{target.path}"
        self._listener: socket.socket | None = None

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        if self._listener:
            self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=ends, daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_prefect_down_at_first_costs_only_time(
    spool: Path, prefect_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Callbacks are acknowledged while Prefect is out of reach, with one line about it, and are
    forwarded when it is back."""
    caplog.set_level("INFO")
    relay = Relay(prefect_server)
    prefix = f"down{uuid.uuid4().hex}"
    with (
        temporary_settings({PREFECT_API_URL: relay.url}),
        Receiver(make_app(SECRET, spool=spool)) as receiver,
    ):
        for number in range(30):
            assert receiver.post(callback(f"{prefix}-{number}")).status_code == 200
        block_until(lambda: any("offered again" in line for line in caplog.messages))
        assert receiver.health()["waiting"] == 30
        relay.open()
        block_until(lambda: receiver.health()["waiting"] == 0)
    relay.close()
    assert len([line for line in caplog.messages if "offered again" in line]) == 1
    assert len([line for line in caplog.messages if "forwarded to prefect again" in line]) == 1
    block_until(lambda: len(events_about(prefect_server, prefix)) == 30)


def test_prefect_that_never_answers_does_not_hold_up_an_acknowledgement(spool: Path) -> None:
    """An API that accepts connections and says nothing is not noticed by the service, nor does it
    stop the receiver from ending in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            Receiver(make_app(SECRET, spool=spool)) as receiver,
        ):
            receiver.http.timeout = httpx.Timeout(5.0)
            for number in range(20):
                assert receiver.post(callback(f"silent-{number}")).status_code == 200


def test_the_log_says_that_a_callback_came_and_where_it_went(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line for each callback of a few, and one line for a burst."""
    caplog.set_level("INFO")

    async def take(_: ReceivedCallback) -> None:
        """Be content with it."""

    with Receiver(make_app(SECRET, spool=spool, sinks=[], consumer=take)) as receiver:
        assert receiver.post(callback("t-1")).status_code == 200
        line = "The callback of task t-1 (SUCCESS) was forwarded to consumer."
        block_until(lambda: line in caplog.messages)


def test_consumer_gets_each_callback_until_it_has_taken_it(spool: Path) -> None:
    """The embedding program's consumer is called again after it failed, holds up nobody else's
    callbacks, and does not depend on Prefect."""
    calls: Counter[str] = Counter()
    seen: list[ReceivedCallback] = []

    async def consumer(received: ReceivedCallback) -> None:
        calls[received.task_id] += 1
        if received.task_id == "sour" and calls["sour"] == 1:
            raise RuntimeError("SECRETREASON")
        seen.append(received)

    with Receiver(make_app(SECRET, spool=spool, consumer=consumer)) as receiver:
        receiver.post(callback("sour"), callback_token(SECRET, "row-17"))
        block_until(lambda: calls["sour"] == 1)
        receiver.post(callback("sweet"))
        receiver.post(callback("sweet"))
        block_until(lambda: len(seen) == 2)
        assert receiver.health()["waiting"] == 2, "Prefect's share still waits"
    assert [one.task_id for one in seen] == ["sweet", "sour"]
    assert calls == {"sour": 2, "sweet": 1}
    assert (seen[1].status, seen[1].job_key) == (TaskStatus.SUCCESS, "row-17")


def test_announcer_leaves_out_what_batches_know(
    spool: Path, tmp_path: Path, prefect_api: str
) -> None:
    """Rule: a batch's own ledger knows its tasks; a sweep elsewhere is not to land them again."""
    batch = callback_token(SECRET, f"{BATCH_JOB_PREFIX}{uuid.uuid4().hex}")
    own = callback_token(SECRET, "row-17")
    announcer = Announcer(str(tmp_path / "images"))
    with Receiver(make_app(SECRET, spool=spool, consumer=announcer)) as receiver:
        receiver.post(callback("of-a-batch"), batch)
        receiver.post(callback("of-a-row"), own)
        receiver.post(callback("of-nobody"))
        block_until(lambda: receiver.health()["waiting"] == 0)
    announced = {path.stem for path in (tmp_path / "images/.nanobanana/pending").iterdir()}
    assert announced == {"of-a-row", "of-nobody"}


async def test_announcer_needs_one_place_for_all_days(tmp_path: Path, prefect_api: str) -> None:
    """Rule: no folder is called {date}, be it given or in a saved block."""
    with pytest.raises(InvalidInput, match=r"\{date\}"):
        Announcer(str(tmp_path / "{date}"))
    name = f"dated-{uuid.uuid4().hex[:8]}"
    await ImageStore(url=str(tmp_path / "{date}")).asave(name)
    received = ReceivedCallback("t", TaskStatus.SUCCESS, datetime.now(UTC))
    with pytest.raises(InvalidInput, match=r"\{date\}"):
        await Announcer(name)(received)
    assert list(tmp_path.iterdir()) == []


def test_sandbox_delivers_repeats_and_forgeries(spool: Path, nanobanana_sandbox: Sandbox) -> None:
    """From the service's own stand-in, in both shapes: repeats fold into one. What is forged with
    a leaked address is a hint like any other, which is why hints are confirmed."""
    weather = CallbackWeather(duplicates=1, forgeries=1)
    with Receiver(make_app(SECRET, spool=spool)) as receiver:
        url = callback_url(receiver.base_url, SECRET, "row-17")
        nanobanana_sandbox.add_tasks(
            [
                TaskPlan(
                    seconds=0, callback_url=url, callback_shape=shape, callback_weather=weather
                )
                for shape in ("generate", "record-info", "generate", "record-info")
            ]
        )
        block_until(lambda: nanobanana_sandbox.stats().callbacks_pending == 0)
        health = receiver.health()
    assert nanobanana_sandbox.stats().callbacks_delivered == 16
    assert (health["received"], health["duplicates"], health["waiting"]) == (16, 8, 8)


# --- the command's server, in a process that can be killed --------------------------------------


SERVING = """
from pathlib import Path
from nanobanana_blocks.callbacks import serve_callbacks
import sys
serve_callbacks(
    port=0, spool=Path(sys.argv[1]), public_url=sys.argv[2] if sys.argv[2:] else None,
    announce=lambda line: print(line, flush=True),
)
"""


class Served:
    """`serve_callbacks` in a process of its own."""

    def __init__(self, spool: Path, *arguments: str, prefect_api_url: str | None = None) -> None:
        environment = {**os.environ, "NANOBANANA_CALLBACK_SECRET": SECRET}
        if prefect_api_url:
            environment["PREFECT_API_URL"] = prefect_api_url
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVING, str(spool), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.greeting = []
        for line in self.process.stdout:
            self.greeting.append(line.rstrip())
            if line.startswith("Press"):
                break
        found = re.search(r"https?://\S+/callbacks/\S+", "\n".join(self.greeting))
        assert found, self.process.communicate()
        self.url = found[0]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output, errors


@contextmanager
def served(spool: Path, *arguments: str, prefect_api_url: str | None = None) -> Iterator[Served]:
    running = Served(spool, *arguments, prefect_api_url=prefect_api_url)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_greeting_is_ready_to_paste_and_stopping_is_clean(
    spool: Path, number: signal.Signals
) -> None:
    """The whole address, the spool and the way of events are said; a signal ends it with 0, and
    nothing of a request's address gets into the logs."""
    with served(spool, "https://images.example.com/hooks") as running:
        assert running.url == callback_url("https://images.example.com/hooks", SECRET)
        assert f"spool: {spool}" in "\n".join(running.greeting)
        assert "until PREFECT_API_URL is set" in "\n".join(running.greeting)
        code, output, errors = running.stop(number)
    assert (code, output) == (0, "The callback receiver has stopped.\n")
    assert "Traceback" not in errors
    assert callback_token(SECRET) not in errors


def test_stopping_forwards_what_can_be_forwarded(spool: Path, prefect_server: str) -> None:
    """After SIGTERM, what was acknowledged a moment before is still forwarded."""
    prefix = f"drain{uuid.uuid4().hex}"
    with served(spool, prefect_api_url=prefect_server) as running:
        with httpx.Client(trust_env=False) as http:
            for number in range(50):
                http.post(running.url, content=callback(f"{prefix}-{number}"), headers=JSON)
        assert running.stop()[0] == 0
    block_until(lambda: len(events_about(prefect_server, prefix)) == 50)


@pytest.mark.slow
def test_killed_under_load_loses_nothing_acknowledged(spool: Path, prefect_server: str) -> None:
    """`kill -9` while callbacks pour in: after a restart everything that was acknowledged has
    become exactly one event."""
    prefix = f"killed{uuid.uuid4().hex}"
    acknowledged: list[str] = []
    enough = threading.Event()

    def pour(stream: int, url: str) -> None:
        with httpx.Client(trust_env=False) as http, contextlib.suppress(httpx.TransportError):
            for number in range(10_000):
                task_id = f"{prefix}-{stream}-{number}"
                answer = http.post(url, content=callback(task_id), headers=JSON)
                if answer.status_code == 200:
                    acknowledged.append(task_id)
                if len(acknowledged) >= 150:
                    enough.set()

    with served(spool) as running, ThreadPoolExecutor(4) as streams:
        for stream in range(4):
            streams.submit(pour, stream, running.url)
        assert enough.wait(30)
        running.process.kill()
    assert len(acknowledged) >= 150
    with served(spool, prefect_api_url=prefect_server) as running:
        with httpx.Client(trust_env=False) as http:
            for task_id in acknowledged[:20]:
                http.post(running.url, content=callback(task_id), headers=JSON)
            health = urlsplit(running.url)._replace(path="/health").geturl()
            assert http.get(health).json()["duplicates"] == 20
            block_until(lambda: http.get(health).json()["waiting"] == 0)
        assert running.stop()[0] == 0

    def forwarded() -> Counter[str]:
        return Counter(e["payload"]["task_id"] for e in events_about(prefect_server, prefix))

    block_until(lambda: forwarded().keys() >= set(acknowledged))
    assert set(forwarded().values()) == {1}
    assert len(forwarded()) - len(acknowledged) <= 4, "only what was in flight may be more"


def test_default_receiver_is_an_asgi_application(spool: Path) -> None:
    """`make_app` gives one object to serve, to mount and to ask for its spool."""
    app = make_app(SECRET, spool=spool)
    assert isinstance(app, CallbackReceiver)
    assert app.spool_path == spool


async def test_a_receiver_without_sinks_ends_as_it_began(spool: Path) -> None:
    """Rule: callbacks may be kept and forwarded to nowhere."""
    async with make_app(SECRET, spool=spool, sinks=[]).running():
        pass
