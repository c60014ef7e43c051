"""The spool's tables and what is written to and read from them; it opens no file.

Every function here is one piece of work within a transaction that the spool begins and commits.
"""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

from nanobanana_blocks.api.details import TaskStatus

FORMAT = 2
MAX_KEPT = 1_000_000
PRUNED_AT_ONCE = 200
SIGNATURES_KEPT_SECONDS = 3600.0

MAX_OUTCOMES = 8
"""So many distinct outcomes of one task are forwarded at once; more wait, as repeats do."""

HINT_SECONDS = 10.0
"""What repeats within so long adds nothing: who was woken asks record-info for longer than that."""

MAX_PAUSE_SECONDS = 300.0
"""The pause between the hints about one task doubles with each of them, up to this."""

SCHEMA = """
CREATE TABLE callbacks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id BLOB NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    job_key TEXT,
    error_code,
    error_message TEXT,
    received_at REAL NOT NULL,
    hint INTEGER NOT NULL DEFAULT 0,
    due_at REAL NOT NULL DEFAULT 0
);
CREATE TABLE outbox (
    destination TEXT NOT NULL,
    callback INTEGER NOT NULL REFERENCES callbacks,
    PRIMARY KEY (destination, callback)
) WITHOUT ROWID;
CREATE INDEX outbox_callback ON outbox (callback);
CREATE INDEX callbacks_task ON callbacks (task_id);
CREATE TABLE signatures (
    task_id TEXT NOT NULL,
    signed_at INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    PRIMARY KEY (task_id, signed_at)
) WITHOUT ROWID;
CREATE TABLE probe (written_at REAL NOT NULL);
INSERT INTO probe VALUES (0);
"""

FROM_FORMAT_1 = """
ALTER TABLE callbacks ADD COLUMN hint INTEGER NOT NULL DEFAULT 0;
ALTER TABLE callbacks ADD COLUMN due_at REAL NOT NULL DEFAULT 0;
CREATE INDEX callbacks_task ON callbacks (task_id);
"""

_EVENT_NAMESPACE = uuid.UUID("5f0a2f6e-5a0b-5d6f-8f3e-8a4c6f1f4f57")


@dataclass(frozen=True, slots=True)
class ReceivedCallback:
    """A callback as it is kept and forwarded: what it said, without any image URL.

    `job_key` is the one that its address was bound to. `hint` counts from 0, and is more where an
    outcome that was forwarded before came again later. It is a hint, not a fact: confirm with
    record-info.
    """

    task_id: str
    status: TaskStatus
    received_at: datetime
    error_code: int | str | None = None
    error_message: str | None = None
    job_key: str | None = None
    hint: int = 0

    @property
    def event_id(self) -> uuid.UUID:
        """The same however often it is delivered: of the task, its outcome, job key and hint."""
        outcome = f"{self.status.name} {self.error_code}"
        again = f"\nhint {self.hint}" if self.hint else ""
        return uuid.uuid5(
            _EVENT_NAMESPACE, f"{self.task_id}\n{outcome}\n{self.job_key or ''}{again}"
        )


class Verdict(Enum):
    """What the spool made of a callback."""

    NEW = "new"
    REPEATED = "repeated"
    RENEWED = "renewed"
    """A repeat, kept and forwarded as a new hint, perhaps only after a pause."""

    REPLAYED = "replayed"


class Spooled(NamedTuple):
    """A callback and its number, which only ever grows."""

    number: int
    callback: ReceivedCallback


class Backlog(NamedTuple):
    """What is still to be forwarded; `oldest_seconds` is 0.0 where nothing is."""

    waiting: int
    oldest_seconds: float


def add(
    destinations: tuple[str, ...],
    callback: ReceivedCallback,
    signed_at: int | None,
    connection: sqlite3.Connection,
) -> Verdict:
    """Keep a callback, unless it repeats one so early that it adds nothing.

    Whoever forges a callback before the true one arrives must not have the true one taken for a
    mere repeat: what comes later than `HINT_SECONDS` is forwarded again. Nor may anybody flood by
    repeating: the pauses between the hints about one task grow.
    """
    event_id = callback.event_id.bytes
    if signed_at is not None and not _vouches(connection, callback.task_id, signed_at, event_id):
        return Verdict.REPLAYED
    count, last_hint, hinted_at, same = connection.execute(
        "SELECT count(*), max(hint), max(max(received_at, due_at)), sum(event_id = ?)"
        " FROM callbacks WHERE task_id = ?",
        (event_id, callback.task_id),
    ).fetchone()
    if not same and count < MAX_OUTCOMES:
        _insert(destinations, callback, 0.0, connection)
        return Verdict.NEW
    now = callback.received_at.timestamp()
    pause = min(HINT_SECONDS * 2 ** min(count - 1, 20), MAX_PAUSE_SECONDS)
    since = now - hinted_at
    if -pause < since < HINT_SECONDS:  # further ahead than a pause, the clock has been set back
        return Verdict.REPEATED
    due_at = max(0.0, hinted_at + pause) if 0 <= since < pause else 0.0
    _insert(destinations, replace(callback, hint=last_hint + 1), due_at, connection)
    return Verdict.RENEWED


def waiting(
    destination: str, after: int, limit: int, now: float, connection: sqlite3.Connection
) -> list[Spooled]:
    """The next callbacks that are to be forwarded to a destination and are due."""
    rows = connection.execute(
        "SELECT number, task_id, status, received_at, error_code, error_message, job_key, hint"
        " FROM outbox JOIN callbacks ON callbacks.number = outbox.callback"
        " WHERE destination = ? AND callback > ? AND due_at <= ? ORDER BY callback LIMIT ?",
        (destination, after, now, limit),
    )
    return [
        Spooled(
            number,
            ReceivedCallback(
                task_id, TaskStatus(status), datetime.fromtimestamp(received_at, UTC), *others
            ),
        )
        for number, task_id, status, received_at, *others in rows
    ]


def next_due(destination: str, now: float, connection: sqlite3.Connection) -> float | None:
    """When the next callback that is not due yet will be, in unix seconds."""
    [due_at] = connection.execute(
        "SELECT min(due_at) FROM outbox JOIN callbacks ON callbacks.number = outbox.callback"
        " WHERE destination = ? AND due_at > ?",
        (destination, now),
    ).fetchone()
    return None if due_at is None else float(due_at)


def forwarded(destination: str, numbers: list[int], connection: sqlite3.Connection) -> None:
    """Take what a destination has out of its outbox."""
    connection.executemany(
        "DELETE FROM outbox WHERE destination = ? AND callback = ?",
        [(destination, number) for number in numbers],
    )


def backlog(now: float, connection: sqlite3.Connection) -> Backlog:
    """How much is to be forwarded; writes, to find out whether that is possible."""
    connection.execute("UPDATE probe SET written_at = ?", (now,))
    count, first = connection.execute(
        "SELECT count(DISTINCT callback), min(callback) FROM outbox"
    ).fetchone()
    if not count:
        return Backlog(0, 0.0)
    [received_at] = connection.execute(
        "SELECT received_at FROM callbacks WHERE number = ?", (first,)
    ).fetchone()
    return Backlog(count, max(0.0, now - received_at))


def prune(now: float, kept_seconds: float, connection: sqlite3.Connection) -> bool:
    """Delete some of what was forwarded long ago; whether there may be more."""
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


def _insert(
    destinations: tuple[str, ...],
    callback: ReceivedCallback,
    due_at: float,
    connection: sqlite3.Connection,
) -> None:
    added = connection.execute(
        "INSERT INTO callbacks (event_id, task_id, status, job_key, error_code, error_message,"
        " received_at, hint, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            callback.event_id.bytes,
            callback.task_id,
            int(callback.status),
            callback.job_key,
            callback.error_code,
            callback.error_message,
            callback.received_at.timestamp(),
            callback.hint,
            due_at,
        ),
    )
    for destination in destinations:
        connection.execute("INSERT INTO outbox VALUES (?, ?)", (destination, added.lastrowid))


def _vouches(connection: sqlite3.Connection, task_id: str, signed_at: int, event_id: bytes) -> bool:
    connection.execute(
        "INSERT INTO signatures VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (task_id, signed_at, event_id),
    )
    [vouched] = connection.execute(
        "SELECT event_id FROM signatures WHERE task_id = ? AND signed_at = ?", (task_id, signed_at)
    ).fetchone()
    return bool(vouched == event_id)
