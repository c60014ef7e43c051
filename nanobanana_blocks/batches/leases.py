"""Which runs are at work in a place: a small file for each, rewritten while the run lives; no more.

It tells others that waiting for a run makes sense, or that the run is dead; nothing is locked by
it, and taking a living run for dead costs time, never money. Its parts:

* `open_leases(images)` writes this run's lease, in `FOLDER` beside the images, keeps rewriting it
  every `BEAT_SECONDS`, and deletes it at the end. Its name is `Leases.owner`, unguessable unless
  given: give one only to be found by a name agreed on before, as a parent finds its child runs.
* `await leases.liveness(owner)` judges another run by its lease. Ask about every five seconds: it
  is judged by what changes between the questions, on this process's own monotonic clock, so clocks
  of other machines do not matter.

A run is `DEAD` when its process is gone, where that can be seen (the same Linux machine and
container), or when its lease has not changed for `SILENT_SECONDS` of successful reads. It is
`ENDED` when there is no lease of that name: the run has ended properly, or not begun. A read that
fails is neither: the answer is `UNKNOWN`, and the silence is counted anew.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from nanobanana_blocks.concurrency import background_task
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from nanobanana_blocks.storage.names import safe_name

FOLDER = ".nanobanana/runs"

BEAT_SECONDS = 10.0
"""How often a lease is rewritten."""

SILENT_SECONDS = 45.0
"""After so long without a change of its lease, a run is dead: it has missed four of them."""

SAME_ANSWER_SECONDS = 1.0
"""For how long one reading of a lease serves all who ask."""

_MEDIA_TYPE = "application/json"


class Liveness(StrEnum):
    """What the lease of a run says of it."""

    AT_WORK = "at work"
    ENDED = "ended"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Lease(BaseModel):
    """The file of a run; `beats` counts how often it was rewritten, `beaten_at` is for people.

    `process` identifies the process on its machine, where the system tells. `done` is how many rows
    the run has settled, where it says.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    owner: str
    beats: int = 0
    beaten_at: AwareDatetime
    host: str = ""
    process: str | None = None
    done: int | None = None


@dataclass
class _Seen:
    """What was last read of a lease, and for how many seconds it has not changed since."""

    content: bytes | None = None
    silent_for: float = 0.0
    read_at: float | None = None
    answer: Liveness = Liveness.UNKNOWN
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Leases:
    """The leases in one place, one of them this run's own; made by `open_leases`.

    Attributes:
        owner: The name of this run's own lease.
    """

    def __init__(
        self,
        folder: Destination,
        owner: str,
        *,
        beat_seconds: float,
        silent_seconds: float,
        same_answer_seconds: float,
    ) -> None:
        self.owner = owner
        self._folder = folder
        self._beat_seconds = beat_seconds
        self._same_answer_seconds = same_answer_seconds
        self._silent_seconds = silent_seconds
        self._beats = 0
        self._seen: dict[str, _Seen] = {}

    async def liveness(self, owner: str) -> Liveness:
        """What a run's lease says of it; of this run itself, that it is at work."""
        if owner == self.owner:
            return Liveness.AT_WORK
        seen = self._seen.setdefault(owner, _Seen())
        async with seen.asking:
            if seen.read_at is None or _now() - seen.read_at >= self._same_answer_seconds:
                seen.answer = await self._ask(owner, seen)
        return seen.answer

    async def done_by(self, owner: str) -> int | None:
        """How many rows a run says that it has settled; None where it does not, or cannot, say."""
        lease = await self.read(owner)
        return lease.done if lease else None

    async def read(self, owner: str) -> Lease | None:
        """The lease of a run; None where there is none that can be read."""
        with suppress(NanoBananaError, ValidationError):
            data = await self._folder.read(_file_name(owner))
            return Lease.model_validate_json(data) if data else None
        return None

    async def remove(self, owner: str) -> None:
        """Delete the lease of a run that is known to have ended, such as a child's by its parent.

        Raises:
            StorageError: It is still there.
        """
        await self._folder.delete(_file_name(owner))

    async def _ask(self, owner: str, seen: _Seen) -> Liveness:
        try:
            content = await self._folder.read(_file_name(owner))
        except NanoBananaError:
            seen.silent_for, seen.read_at = 0.0, None
            return Liveness.UNKNOWN
        now = _now()
        if content is None:
            seen.content, seen.silent_for, seen.read_at = None, 0.0, now
            return Liveness.ENDED
        if content != seen.content or seen.read_at is None:
            seen.content, seen.silent_for = content, 0.0
        else:
            # Time in which nobody asked, as when this process was suspended, tells little.
            seen.silent_for += min(now - seen.read_at, self._silent_seconds / 3)
        seen.read_at = now
        gone = await asyncio.to_thread(_is_gone, content)
        return (
            Liveness.DEAD if gone or seen.silent_for >= self._silent_seconds else Liveness.AT_WORK
        )

    async def beat(self, done: int | None = None) -> None:
        """Rewrite this run's lease.

        Raises:
            StorageError: It could not be written.
        """
        self._beats += 1
        lease = Lease(
            owner=self.owner,
            beats=self._beats,
            beaten_at=datetime.now(UTC),
            host=socket.gethostname(),
            process=_this_process(),
            done=done,
        )
        data = lease.model_dump_json(exclude_none=True).encode()
        await self._folder.publish(_file_name(self.owner), data, _MEDIA_TYPE)

    async def keep_beating(self, done: Callable[[], int] | None) -> None:
        """Rewrite this run's lease until cancelled, also after a failure."""
        while True:
            await asyncio.sleep(self._beat_seconds)
            with suppress(NanoBananaError):
                await self.beat(done() if done else None)


@asynccontextmanager
async def open_leases(
    images: StorageLocation,
    *,
    owner: str | None = None,
    done: Callable[[], int] | None = None,
    beat_seconds: float = BEAT_SECONDS,
    silent_seconds: float = SILENT_SECONDS,
    same_answer_seconds: float = SAME_ANSWER_SECONDS,
) -> AsyncIterator[Leases]:
    """Show others that this run is at work, for as long as the block lasts, and see who else is.

    Args:
        images: Where the images go.
        owner: What this run's lease is called; by default a name that no other run has had.
        done: Tells how many rows this run has settled, to be read by whoever follows it.
        beat_seconds: How often the lease is rewritten.
        silent_seconds: After so long without a change another run is taken for dead.
        same_answer_seconds: For how long one reading of a lease serves all who ask.

    Raises:
        DestinationError: The storage cannot be written to.
        StorageError: The lease could not be written.
    """
    async with await images.child(FOLDER).open() as folder:
        await folder.check_writable()
        leases = Leases(
            folder,
            owner or secrets.token_hex(16),
            beat_seconds=beat_seconds,
            silent_seconds=silent_seconds,
            same_answer_seconds=same_answer_seconds,
        )
        await leases.beat(done() if done else None)
        try:
            async with background_task(leases.keep_beating(done)):
                yield leases
        finally:
            with suppress(NanoBananaError):
                await leases.remove(leases.owner)


def _file_name(owner: str) -> str:
    return f"{safe_name(owner)}.json"


def _now() -> float:
    return asyncio.get_running_loop().time()


def _this_process() -> str | None:
    """What tells this process from all others, ever; None where the system does not tell."""
    number = os.getpid()
    started = _started(number)
    machine = _machine()
    return f"{machine} {number} {started}" if started and machine else None


def _is_gone(content: bytes) -> bool:
    """Whether a lease is that of a process which ran on this machine and does not any more."""
    try:
        process = Lease.model_validate_json(content).process
    except ValidationError:
        return False
    machine, number, started = [*(process or "").rsplit(" ", 2), "", ""][:3]
    if not machine or machine != _machine() or not number.isdigit():
        return False
    return _started(int(number)) != started


def _machine() -> str | None:
    """This boot of this machine, and the container, within which process ids have a meaning."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except (OSError, ValueError):
        return None


def _started(number: int) -> str | None:
    """When a process was started, in the kernel's ticks; None where there is none alive."""
    try:
        status = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()  # the name of the program may hold anything
    return None if fields[0] in ("Z", "X") else fields[19]
