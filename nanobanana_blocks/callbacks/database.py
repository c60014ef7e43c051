"""Opens the spool's database file, and knows whether it is still in its place; writes no callback.

A damaged spool is set aside under another name. A file that is no spool is refused and left alone.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

from nanobanana_blocks.callbacks.records import FORMAT, FROM_FORMAT_1, SCHEMA
from nanobanana_blocks.errors import NanoBananaError

BUSY_SECONDS = 0.2

logger = logging.getLogger(__name__)

FileIdentity = tuple[tuple[int, int], ...]


class SpoolError(NanoBananaError):
    """Raised when the spool cannot be opened, or what was asked of it cannot be committed."""

    retryable = True


def default_spool_path() -> Path:
    """The spool in this user's folder for state, as the platform has it."""
    if sys.platform == "win32":
        state = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        state = Path.home() / "Library" / "Application Support"
    else:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "nanobanana" / "callbacks.sqlite"


def connect(path: Path) -> sqlite3.Connection:
    """Open or make the spool at `path`, checked whole; a damaged one is set aside.

    Raises:
        SpoolError: It is in use by another receiver, cannot be made, or is something else.
    """
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_CORRUPT:
            raise SpoolError(_refusal_to_open(path, error)) from None
        _report_damage(path, error, _set_aside(path))
    try:
        return _connect(path)
    except sqlite3.Error as error:
        raise SpoolError(_refusal_to_open(path, error)) from None


def identify(path: Path) -> FileIdentity | None:
    """Which files are at a spool's path just now: the database and its log; None if not both."""
    try:
        found = [file.stat() for file in (path, _log_of(path))]
    except OSError:
        return None
    return tuple((stat.st_dev, stat.st_ino) for stat in found)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made here rather than by SQLite, so that only its owner can read it from the start.
        path.touch(mode=0o600)
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(f"the spool {path} cannot be opened ({error}).") from None
    try:
        _prepare(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # Held until the connection closes, however the process ends: one receiver per spool.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    [found] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if found == 0 and tables == 0:
        _change(connection, SCHEMA)
        return
    if found not in (1, FORMAT):
        raise sqlite3.DatabaseError("it is not a spool that this version knows")
    [verdict] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        damage = sqlite3.DatabaseError(str(verdict).strip())
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage
    if found == 1:
        _change(connection, FROM_FORMAT_1)
    connection.execute("UPDATE probe SET written_at = 0")


def _change(connection: sqlite3.Connection, statements: str) -> None:
    connection.executescript(
        f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {FORMAT}; COMMIT;"
    )


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z")
    try:
        path.rename(aside)
        if _log_of(path).exists():
            _log_of(path).rename(_log_of(aside))
    except OSError as error:
        raise SpoolError(
            f"the spool {path} is damaged and cannot be renamed ({error}). Move it away."
        ) from None
    return aside


def _report_damage(path: Path, error: sqlite3.Error, aside: Path) -> None:
    logger.error(
        "The spool %s is damaged (%s). It is kept as %s, with callbacks that may not have been "
        "forwarded; a sweep lands what they were about. Receiving with a new spool.",
        path,
        error,
        aside.name,
    )


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _refusal_to_open(path: Path, error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return (
            f"the spool {path} is in use by another receiver. Stop that one, or give each its own."
        )
    return f"the spool {path} cannot be used ({error}). Move that file away, or name another spool."
