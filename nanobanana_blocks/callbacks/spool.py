"""Keeps accepted callbacks on disk until they are forwarded; it neither receives nor forwards.

Whatever is asked of it while a transaction is being committed shares the next one, so the cost of
a commit that survives a power cut (`synchronous=FULL`) is spread over all requests in flight. An
answer is given only after the commit. Statements run in the event loop, where they take
microseconds; the commit, which waits for the disk, runs in a thread. (With all of it in a thread,
each statement may wait for the interpreter lock: measured, a quarter more CPU and longer tails.)

A file that was deleted or replaced while it is open takes commits all the same, and loses them when
the process ends: after each commit, the files at the spool's path must still be those opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from nanobanana_blocks.callbacks import records
from nanobanana_blocks.callbacks.database import (
    FileIdentity,
    SpoolError,
    connect,
    default_spool_path,
    identify,
)
from nanobanana_blocks.callbacks.records import Backlog, ReceivedCallback, Spooled, Verdict

__all__ = [
    "KEPT_DAYS",
    "Backlog",
    "ReceivedCallback",
    "Spool",
    "SpoolError",
    "Spooled",
    "Verdict",
    "default_spool_path",
]

KEPT_DAYS = 7.0
MAX_AT_ONCE = 500

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]
    must_last: bool

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
        self._opened: FileIdentity | None = None
        self._is_displaced = False

    async def open(self) -> None:
        """Open or make the database; a damaged one is set aside, and a new one made.

        Raises:
            SpoolError: It is in use by another receiver, cannot be made or is something else.
        """
        self._connection = await asyncio.to_thread(connect, self.path)
        self._opened = identify(self.path)
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
        verdict: Verdict = await self._ask(
            partial(records.add, self._destinations, callback, signed_at), must_last=True
        )
        return verdict

    async def waiting(
        self, destination: str, *, after: int, limit: int, now: datetime
    ) -> list[Spooled]:
        """The next callbacks, by number, that are due to be forwarded to `destination`."""
        found: list[Spooled] = await self._ask(
            partial(records.waiting, destination, after, limit, now.timestamp())
        )
        return found

    async def next_due(self, destination: str, now: datetime) -> float | None:
        """In how many seconds the next callback is due that is not yet; None if there is none."""
        due_at: float | None = await self._ask(
            partial(records.next_due, destination, now.timestamp())
        )
        return None if due_at is None else due_at - now.timestamp()

    async def forwarded(self, destination: str, numbers: Iterable[int]) -> None:
        """Take note that `destination` has these callbacks."""
        await self._ask(partial(records.forwarded, destination, list(numbers)))

    async def backlog(self, now: datetime) -> Backlog:
        """How much waits for any destination; raises `SpoolError` if nothing can be kept."""
        found: Backlog = await self._ask(partial(records.backlog, now.timestamp()), must_last=True)
        return found

    async def prune(self, now: datetime) -> None:
        """Forget what was forwarded to all destinations long ago, and outworn signatures."""
        while await self._ask(partial(records.prune, now.timestamp(), self._kept_seconds)):
            pass

    async def _ask(
        self, work: Callable[[sqlite3.Connection], Any], *, must_last: bool = False
    ) -> Any:
        if self._connection is None:
            raise SpoolError("the spool is not open")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future(), must_last)
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
                in_place = await loop.run_in_executor(self._thread, self._commit, connection)
            except Exception as error:
                # Whatever it is: a sender that hears nothing would not know to try again.
                _roll_back(connection)
                for job in jobs:
                    job.refuse(f"{self.path}: not committed ({error})")
            else:
                for job, answer in zip(jobs, answers, strict=True):
                    if in_place or not job.must_last:
                        job.resolve(answer)
                    else:
                        job.refuse(f"{self.path} was deleted or replaced while in use")
        self._committing = None

    def _commit(self, connection: sqlite3.Connection) -> bool:
        """Commit; whether what was committed is in the files at the spool's path."""
        connection.execute("COMMIT")
        in_place = self._opened is not None and identify(self.path) == self._opened
        if not in_place and not self._is_displaced:
            logger.error(
                "The spool %s was deleted or replaced while in use. Callbacks are refused (503) "
                "until the receiver is started again; what it had accepted is still forwarded.",
                self.path,
            )
        self._is_displaced = not in_place
        return in_place


def _roll_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.execute("ROLLBACK")
