"""Keeps accepted callbacks on disk until they are forwarded; it neither receives nor forwards.

Whatever is asked of it while a transaction is being committed shares the next one, so the cost of
a commit that survives a power cut (`synchronous=FULL`) is spread over all requests in flight. An
answer is given only after the commit. Statements run in the event loop, where they take
microseconds; the commit, which waits for the disk, runs in a thread. (With all of it in a thread,
each statement may wait for the interpreter lock: measured, a quarter more CPU and longer tails.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nanobanana_blocks.api.details import TaskStatus
from nanobanana_blocks.errors import NanoBananaError

KEPT_DAYS = 7.0
MAX_KEPT = 1_000_000
MAX_AT_ONCE = 500
PRUNED_AT_ONCE = 200
SIGNATURES_KEPT_SECONDS = 3600.0

_EVENT_NAMESPACE = uuid.UUID("5f0a2f6e-5a0b-5d6f-8f3e-8a4c6f1f4f57")
FORMAT = 1
_SCHEMA = """
CREATE TABLE callbacks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id BLOB NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    job_key TEXT,
    error_code,
    error_message TEXT,
    received_at REAL NOT NULL
);
CREATE TABLE outbox (
    destination TEXT NOT NULL,
    callback INTEGER NOT NULL REFERENCES callbacks,
    PRIMARY KEY (destination, callback)
) WITHOUT ROWID;
CREATE INDEX outbox_callback ON outbox (callback);
CREATE TABLE signatures (
    task_id TEXT NOT NULL,
    signed_at INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    PRIMARY KEY (task_id, signed_at)
) WITHOUT ROWID;
CREATE TABLE probe (written_at REAL NOT NULL);
INSERT INTO probe VALUES (0);
"""


class SpoolError(NanoBananaError):
    """Raised when the spool cannot be opened, or what was asked of it cannot be committed."""

    retryable = True


@dataclass(frozen=True, slots=True)
class ReceivedCallback:
    """A callback as it is kept and forwarded: what it said, without any image URL.

    `job_key` is the one that its address was bound to. It is a hint, not a fact: confirm with
    record-info.
    """

    task_id: str
    status: TaskStatus
    received_at: datetime
    error_code: int | str | None = None
    error_message: str | None = None
    job_key: str | None = None

    @property
    def event_id(self) -> uuid.UUID:
        """The same for every repeat: it depends on the task, its outcome and the job key only."""
        outcome = f"{self.status.name} {self.error_code}"
        return uuid.uuid5(_EVENT_NAMESPACE, f"{self.task_id}\n{outcome}\n{self.job_key or ''}")


class Verdict(Enum):
    """What the spool made of a callback."""

    NEW = "new"
    REPEATED = "repeated"
    REPLAYED = "replayed"


class Spooled(NamedTuple):
    """A callback and its number, which only ever grows."""

    number: int
    callback: ReceivedCallback


class Backlog(NamedTuple):
    """What is still to be forwarded; `oldest_seconds` is 0.0 where nothing is."""

    waiting: int
    oldest_seconds: float


@dataclass(slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]

    def resolve(self, answer: object) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def refuse(self, message: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(SpoolError(message))


class Spool:
    """Accepted callbacks, and to which destinations each is still to be forwarded.

    `open` and `close` it once, from the event loop that uses it. A second process, or a second
    spool object, is refused the same file.

    Args:
        path: The database file; its folder is made if need be.
        destinations: The names of what each new callback is forwarded to.
        kept_days: How long forwarded callbacks are remembered, so that repeats are recognised.
    """

    def __init__(
        self, path: Path, destinations: Sequence[str], *, kept_days: float = KEPT_DAYS
    ) -> None:
        self.path = path
        self._destinations = tuple(destinations)
        self._kept_seconds = kept_days * 86_400
        self._jobs: deque[_Job] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open or make the database.

        Raises:
            SpoolError: It is in use by another receiver, cannot be made or is something else.
        """
        self._connection = await asyncio.to_thread(_connect, self.path)
        self._thread = ThreadPoolExecutor(1, "callback-spool")

    async def close(self) -> None:
        """Commit what has been asked for, and let go of the file."""
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        if self._committing:
            await self._committing
        await asyncio.to_thread(connection.close)
        self._thread.shutdown()

    async def add(self, callback: ReceivedCallback, *, signed_at: int | None = None) -> Verdict:
        """Commit a callback. `signed_at` is the time of a verified signature, in unix seconds.

        A signature vouches for one outcome: with another one it is `REPLAYED`, and not kept.

        Raises:
            SpoolError: It is not committed; the sender should try again.
        """
        verdict: Verdict = await self._ask(partial(_add, self._destinations, callback, signed_at))
        return verdict

    async def waiting(self, destination: str, *, after: int, limit: int) -> list[Spooled]:
        """The next callbacks, by number, that are still to be forwarded to `destination`."""
        found: list[Spooled] = await self._ask(partial(_waiting, destination, after, limit))
        return found

    async def forwarded(self, destination: str, numbers: Iterable[int]) -> None:
        """Take note that `destination` has these callbacks."""
        await self._ask(partial(_forwarded, destination, list(numbers)))

    async def backlog(self, now: datetime) -> Backlog:
        """How much waits for any destination; raises `SpoolError` if nothing can be written."""
        found: Backlog = await self._ask(partial(_backlog, now.timestamp()))
        return found

    async def prune(self, now: datetime) -> None:
        """Forget what was forwarded to all destinations long ago, and outworn signatures."""
        while await self._ask(partial(_prune, now.timestamp(), self._kept_seconds)):
            pass

    async def _ask(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        if self._connection is None:
            raise SpoolError("the spool is not open")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future())
        self._jobs.append(job)
        if self._committing is None:
            self._committing = loop.create_task(self._commit_all(self._connection))
        return await job.answer

    async def _commit_all(self, connection: sqlite3.Connection) -> None:
        loop = asyncio.get_running_loop()
        while self._jobs:
            jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_AT_ONCE))]
            try:
                connection.execute("BEGIN IMMEDIATE")
                answers = [job.work(connection) for job in jobs]
                await loop.run_in_executor(self._thread, connection.execute, "COMMIT")
            except Exception as error:
                # Whatever it is: a sender that hears nothing would not know to try again.
                _roll_back(connection)
                for job in jobs:
                    job.refuse(f"{self.path}: not committed ({error})")
            else:
                for job, answer in zip(jobs, answers, strict=True):
                    job.resolve(answer)
        self._committing = None


def default_spool_path() -> Path:
    """The spool in this user's folder for state, as the platform has it."""
    if sys.platform == "win32":
        state = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        state = Path.home() / "Library" / "Application Support"
    else:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "nanobanana" / "callbacks.sqlite"


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made here rather than by SQLite, so that only its owner can read it from the start.
        path.touch(mode=0o600)
        connection = sqlite3.connect(
            path, timeout=0.2, isolation_level=None, check_same_thread=False
        )
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(f"the spool {path} cannot be opened ({error}).") from None
    try:
        _prepare(connection)
    except sqlite3.Error as error:
        connection.close()
        raise SpoolError(_refusal_to_open(path, error)) from None
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # Held until the connection closes, however the process ends: one receiver per spool.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    [found] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if found == 0 and tables == 0:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"
        )
    elif found == FORMAT:
        connection.execute("UPDATE probe SET written_at = 0")
    else:
        raise sqlite3.DatabaseError("it is not a spool that this version knows")


def _refusal_to_open(path: Path, error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return (
            f"the spool {path} is in use by another receiver. Stop that one, or give each its own."
        )
    return f"the spool {path} cannot be used ({error})."


def _roll_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.execute("ROLLBACK")


def _add(
    destinations: tuple[str, ...],
    callback: ReceivedCallback,
    signed_at: int | None,
    connection: sqlite3.Connection,
) -> Verdict:
    event_id = callback.event_id.bytes
    if signed_at is not None and not _vouches(connection, callback.task_id, signed_at, event_id):
        return Verdict.REPLAYED
    added = connection.execute(
        "INSERT INTO callbacks "
        " (event_id, task_id, status, job_key, error_code, error_message, received_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            event_id,
            callback.task_id,
            int(callback.status),
            callback.job_key,
            callback.error_code,
            callback.error_message,
            callback.received_at.timestamp(),
        ),
    )
    if added.rowcount == 0:
        return Verdict.REPEATED
    for destination in destinations:
        connection.execute("INSERT INTO outbox VALUES (?, ?)", (destination, added.lastrowid))
    return Verdict.NEW


def _vouches(connection: sqlite3.Connection, task_id: str, signed_at: int, event_id: bytes) -> bool:
    connection.execute(
        "INSERT INTO signatures VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (task_id, signed_at, event_id),
    )
    [vouched] = connection.execute(
        "SELECT event_id FROM signatures WHERE task_id = ? AND signed_at = ?", (task_id, signed_at)
    ).fetchone()
    return bool(vouched == event_id)


def _waiting(
    destination: str, after: int, limit: int, connection: sqlite3.Connection
) -> list[Spooled]:
    rows = connection.execute(
        "SELECT number, task_id, status, received_at, error_code, error_message, job_key"
        " FROM outbox JOIN callbacks ON callbacks.number = outbox.callback"
        " WHERE destination = ? AND callback > ? ORDER BY callback LIMIT ?",
        (destination, after, limit),
    )
    return [
        Spooled(
            number,
            ReceivedCallback(
                task_id,
                TaskStatus(status),
                datetime.fromtimestamp(received_at, UTC),
                error_code,
                error_message,
                job_key,
            ),
        )
        for number, task_id, status, received_at, error_code, error_message, job_key in rows
    ]


def _forwarded(destination: str, numbers: list[int], connection: sqlite3.Connection) -> None:
    connection.executemany(
        "DELETE FROM outbox WHERE destination = ? AND callback = ?",
        [(destination, number) for number in numbers],
    )


def _backlog(now: float, connection: sqlite3.Connection) -> Backlog:
    connection.execute("UPDATE probe SET written_at = ?", (now,))
    waiting, first = connection.execute(
        "SELECT count(DISTINCT callback), min(callback) FROM outbox"
    ).fetchone()
    if not waiting:
        return Backlog(0, 0.0)
    [received_at] = connection.execute(
        "SELECT received_at FROM callbacks WHERE number = ?", (first,)
    ).fetchone()
    return Backlog(waiting, max(0.0, now - received_at))


def _prune(now: float, kept_seconds: float, connection: sqlite3.Connection) -> bool:
    connection.execute(
        "DELETE FROM signatures WHERE signed_at < ?", (now - SIGNATURES_KEPT_SECONDS,)
    )
    pruned = connection.execute(
        "DELETE FROM callbacks WHERE number IN ("
        " SELECT number FROM callbacks"
        " WHERE (received_at < ? OR number <= (SELECT max(number) FROM callbacks) - ?)"
        " AND NOT EXISTS (SELECT 1 FROM outbox WHERE callback = number)"
        " ORDER BY number LIMIT ?)",
        (now - kept_seconds, MAX_KEPT, PRUNED_AT_ONCE),
    )
    return pruned.rowcount == PRUNED_AT_ONCE
