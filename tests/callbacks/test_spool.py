"""The spool: what is a repeat, and a file that is damaged, deleted or of an earlier version."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from nanobanana_blocks.api.details import TaskStatus
from nanobanana_blocks.callbacks import (
    CallbackReceiver,
    Delivery,
    ReceivedCallback,
    SinkDown,
    Spooled,
    SpoolError,
    callback_token,
    make_app,
)
from nanobanana_blocks.callbacks.spool import Spool, Verdict
from tests.support.until import until

SECRET = "a secret that nobody guesses"
DESTINATION = "somewhere"
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


class Collector:
    """A sink that keeps what it is given, and can be down."""

    name = "collector"
    description = "a list"

    def __init__(self) -> None:
        self.taken: list[ReceivedCallback] = []
        self.is_down = False

    async def deliver(self, batch: Sequence[Spooled]) -> Delivery:
        if self.is_down:
            raise SinkDown("it is down")
        self.taken += [callback for _, callback in batch]
        return Delivery([number for number, _ in batch])

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite"


@pytest.fixture
async def spool(path: Path) -> AsyncIterator[Spool]:
    opened = Spool(path, [DESTINATION])
    await opened.open()
    yield opened
    await opened.close()


def success(at: float, task_id: str = "a") -> ReceivedCallback:
    return ReceivedCallback(task_id, TaskStatus.SUCCESS, NOON + timedelta(seconds=at))


def failure(at: float, code: int) -> ReceivedCallback:
    moment = NOON + timedelta(seconds=at)
    return ReceivedCallback("a", TaskStatus.GENERATE_FAILED, moment, error_code=code)


async def forwarded_by(spool: Spool, at: float) -> list[ReceivedCallback]:
    """What is due at a time, from all that was ever added."""
    found = await spool.waiting(
        DESTINATION, after=0, limit=10_000, now=NOON + timedelta(seconds=at)
    )
    return [callback for _, callback in found]


async def test_a_true_callback_after_a_forged_one_is_forwarded(spool: Spool) -> None:
    """Rule: what was forged before the task had ended does not make the true one a mere repeat."""
    assert await spool.add(success(0)) is Verdict.NEW
    assert await spool.add(success(60)) is Verdict.RENEWED
    forged, true = await forwarded_by(spool, at=60)
    assert forged.event_id != true.event_id
    assert (forged.hint, true.hint) == (0, 1)


async def test_a_repeat_at_once_adds_nothing(spool: Spool) -> None:
    """Rule: who was woken a moment ago is still asking, so no second event is made of a retry."""
    await spool.add(success(0))
    assert await spool.add(success(3)) is Verdict.REPEATED
    assert len(await forwarded_by(spool, at=1e6)) == 1


@pytest.mark.parametrize("every", [0.5, 11.0, 60.0])
async def test_nobody_floods_and_nobody_delays(spool: Spool, every: float) -> None:
    """Rule: however often an outcome is repeated, hints are few, and the last repeat gets one."""
    hours = 4
    at = 0.0
    while at < hours * 3600:
        await spool.add(success(at))
        at += every
    true = at + 20
    await spool.add(success(true))
    hints = await forwarded_by(spool, at=1e9)
    assert len(hints) <= hours * 12 + 6
    in_time = await forwarded_by(spool, at=true + 300)
    before = await forwarded_by(spool, at=true - 1)
    assert len(in_time) > len(before)


async def test_invented_outcomes_are_bounded_too(spool: Spool) -> None:
    """Rule: an address does not let anybody make an event a request by inventing codes."""
    for number in range(500):
        await spool.add(failure(number / 1000, code=1000 + number))
    assert len(await forwarded_by(spool, at=1e9)) <= 8
    assert await spool.add(success(30)) is Verdict.RENEWED
    assert (await forwarded_by(spool, at=1e9))[-1].status is TaskStatus.SUCCESS


async def test_a_different_outcome_is_forwarded_at_once(spool: Spool) -> None:
    """Rule: a forged failure does not hold up the true success."""
    await spool.add(failure(0, code=500))
    assert await spool.add(success(0.1)) is Verdict.NEW
    assert len(await forwarded_by(spool, at=1)) == 2


async def test_a_clock_set_back_holds_nothing_up(spool: Spool) -> None:
    """Rule: an earlier callback dated far ahead does not make later ones repeats for hours."""
    await spool.add(success(7200))
    assert await spool.add(success(0)) is Verdict.RENEWED
    assert len(await forwarded_by(spool, at=0)) == 2


@asynccontextmanager
async def receiving(path: Path, sink: Collector) -> AsyncIterator[CallbackReceiver]:
    receiver = make_app(SECRET, spool=path, sinks=[sink])
    async with receiver.running():
        yield receiver


def http_to(receiver: CallbackReceiver) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(receiver)
    return httpx.AsyncClient(transport=transport, base_url="http://receiver")


async def post(http: httpx.AsyncClient, task_id: str, code: int = 200) -> httpx.Response:
    data = {"taskId": task_id, "info": {"resultImageUrl": "https://images.invalid/a.png?sig=abc"}}
    return await http.post(
        f"/callbacks/{callback_token(SECRET)}", json={"code": code, "msg": "done", "data": data}
    )


async def test_what_is_due_later_is_forwarded_then(path: Path) -> None:
    """Rule: a hint that had to wait for its turn is forwarded without anything else arriving."""
    now = datetime.now(UTC)
    waiting = Spool(path, [Collector.name])
    await waiting.open()
    for seconds_ago in (29.0, 19.0, 8.5):
        await waiting.add(
            ReceivedCallback("a", TaskStatus.SUCCESS, now - timedelta(seconds=seconds_ago))
        )
    await waiting.close()
    sink = Collector()
    async with receiving(path, sink):
        await until(lambda: len(sink.taken) == 3)
    assert [callback.hint for callback in sink.taken] == [0, 1, 2]


@pytest.mark.parametrize("what", ["deleted", "replaced", "log deleted", "folder deleted"])
async def test_a_spool_that_is_gone_acknowledges_nothing(
    path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule: what would be lost with the process is answered 503; what came before is forwarded."""
    path = path.parent / "folder" / path.name
    sink = Collector()
    sink.is_down = True
    async with receiving(path, sink) as receiver, http_to(receiver) as http:
        assert (await post(http, "before")).status_code == 200
        if what == "folder deleted":
            shutil.rmtree(path.parent)
        elif what == "log deleted":
            path.with_name(f"{path.name}-wal").unlink()
        else:
            path.unlink()
            if what == "replaced":
                path.touch()
        refused = [await post(http, f"after-{number}") for number in range(3)]
        assert [answer.status_code for answer in refused] == [503] * 3
        assert refused[0].headers["retry-after"] == "10"
        assert (await http.get("/health")).status_code == 503
        sink.is_down = False
        await until(lambda: "before" in [callback.task_id for callback in sink.taken])
    loud = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(loud) == 1
    assert "deleted or replaced" in loud[0].getMessage()


@pytest.mark.parametrize("code", [402, 408, 422, 430, 451, 503])
async def test_an_unusual_code_is_a_failure_of_its_task(path: Path, code: int) -> None:
    """Rule: a callback that says no in an undocumented way is acknowledged, and is a hint."""
    sink = Collector()
    async with receiving(path, sink) as receiver, http_to(receiver) as http:
        assert (await post(http, "a", code)).status_code == 200
        await until(lambda: sink.taken)
    [callback] = sink.taken
    assert (callback.status, callback.error_code) == (TaskStatus.GENERATE_FAILED, code)


async def test_a_refusal_names_no_path(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rule: who calls from outside learns nothing of this machine; its own log does."""
    async with receiving(path, Collector()) as receiver, http_to(receiver) as http:
        path.unlink()
        refused = await post(http, "a")
    assert refused.status_code == 503
    assert str(path) not in refused.text
    assert path.name not in refused.text
    assert str(path) in caplog.text


async def test_a_damaged_spool_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rule: damage is reported once, loudly, and callbacks are received with a new spool."""
    filled = Spool(path, [DESTINATION])
    await filled.open()
    for number in range(300):
        await filled.add(success(0, task_id=f"task-{number}"))
    await filled.close()
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 9 * 4096] = b"\xff" * (6 * 4096)
    path.write_bytes(content)
    async with receiving(path, Collector()) as receiver, http_to(receiver) as http:
        assert (await post(http, "a")).status_code == 200
        assert (await post(http, "b")).status_code == 200
    [aside] = path.parent.glob("*.damaged-*")
    assert aside.read_bytes() == content
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "is damaged" in line
    assert aside.name in line


async def test_a_spool_whose_beginning_is_gone_is_refused(path: Path) -> None:
    """Rule: what is no database might be anything: it is left alone, and the error says so."""
    path.write_bytes(b"\xff" * 20_000)
    with pytest.raises(SpoolError, match="Move that file away"):
        await Spool(path, [DESTINATION]).open()
    assert path.read_bytes() == b"\xff" * 20_000


FORMAT_1 = """
CREATE TABLE callbacks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, event_id BLOB NOT NULL UNIQUE, task_id TEXT NOT NULL,
    status INTEGER NOT NULL, job_key TEXT, error_code, error_message TEXT, received_at REAL NOT NULL
);
CREATE TABLE outbox (
    destination TEXT NOT NULL, callback INTEGER NOT NULL REFERENCES callbacks,
    PRIMARY KEY (destination, callback)
) WITHOUT ROWID;
CREATE INDEX outbox_callback ON outbox (callback);
CREATE TABLE signatures (
    task_id TEXT NOT NULL, signed_at INTEGER NOT NULL, event_id BLOB NOT NULL,
    PRIMARY KEY (task_id, signed_at)
) WITHOUT ROWID;
CREATE TABLE probe (written_at REAL NOT NULL);
INSERT INTO probe VALUES (0);
INSERT INTO callbacks VALUES (1, x'00', 'a', 1, NULL, NULL, NULL, 0);
INSERT INTO outbox VALUES ('somewhere', 1);
PRAGMA user_version = 1;
"""


async def test_a_spool_of_the_first_version_goes_on(path: Path) -> None:
    """Rule: an upgrade forwards what was waiting, and recognises repeats."""
    earlier = sqlite3.connect(path)
    earlier.executescript(FORMAT_1)
    earlier.close()
    upgraded = Spool(path, [DESTINATION])
    await upgraded.open()
    assert [callback.task_id for callback in await forwarded_by(upgraded, at=0)] == ["a"]
    assert await upgraded.add(success(0)) is Verdict.NEW
    assert await upgraded.add(success(1)) is Verdict.REPEATED
    await upgraded.close()


WITHOUT_PREFECT = """
import sys
from importlib.abc import MetaPathFinder

class NoPrefect(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prefect":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoPrefect())
from nanobanana_blocks.callbacks import Delivery, Sink, SinkDown, Spooled, make_app

class Printer:
    name = "printer"
    description = "the terminal"
    async def deliver(self, batch):
        return Delivery([number for number, _ in batch])
    async def aclose(self): ...

printer: Sink = Printer()
print(make_app("a secret that nobody guesses", spool=sys.argv[1], sinks=[printer]).sinks[0].name)
"""


def test_a_receiver_needs_no_prefect(path: Path) -> None:
    """Rule: with sinks of one's own, the receiver works where Prefect is not installed."""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_PREFECT, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "printer"), ran.stderr
