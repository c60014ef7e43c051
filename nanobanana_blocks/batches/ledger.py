"""What became of each row's submits, durable before money is spent; it submits and lands nothing.

One small file for each attempt lies beside the images, in `FOLDER`. It is created exclusively
before the submit, so that of several runs only one submits, and rewritten when the submit is
answered. What has landed is not told here but by its receipt.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nanobanana_blocks.api.requests import Endpoint, GenerationRequest
from nanobanana_blocks.batches.job_keys import BATCH_JOB_PREFIX
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.errors import GenerationFailed, NanoBananaError, StorageError, UnknownTask
from nanobanana_blocks.landing.report import ErrorSummary
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from nanobanana_blocks.storage.names import safe_name

FOLDER = ".nanobanana/ledger"
SUMMARY = "summary.json"

MAX_RESERVE_TRIES = 5

CONTENT_POLICY_CODE = "400"
"""Documented for callbacks: the generation was refused for its content."""

_ENTRY_NAME = re.compile(r"(?P<stem>.+)\.(?P<attempt>[1-9][0-9]{0,5})\.json")
_MEDIA_TYPE = "application/json"


class Failure(StrEnum):
    """Why a row has no image for good, unless it is submitted again, which may cost again."""

    REFUSED = "refused"
    CONTENT_POLICY = "content-policy"
    GENERATION_FAILED = "generation-failed"
    UNKNOWN_TASK = "unknown-task"
    UNCONFIRMED = "unconfirmed"
    CHANGED = "changed"


def failure_of(error: NanoBananaError | None) -> Failure | None:
    """Which failure for good it is that a generation task ended with, if it is one."""
    if isinstance(error, UnknownTask):
        return Failure.UNKNOWN_TASK
    if not isinstance(error, GenerationFailed):
        return None
    refused = str(error.error_code) == CONTENT_POLICY_CODE
    return Failure.CONTENT_POLICY if refused else Failure.GENERATION_FAILED


class AttemptState(StrEnum):
    """How far an attempt to submit a row has come."""

    RESERVED = "intended"
    SUBMITTED = "submitted"
    UNCONFIRMED = "unconfirmed"
    FAILED = "failed"


class SubmissionAttempt(BaseModel):
    """One attempt to submit a row; times are UTC.

    `job_key` is unguessable and unlike any other attempt's: the callback address of the submit is
    bound to it. `digest` is that of the row's content; the prompt itself is not kept.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    version: Literal[1] = 1
    key: str
    attempt: int
    digest: str
    name: str | None = None
    endpoint: Endpoint
    credits: int
    job_key: str
    reserved_at: AwareDatetime = Field(alias="intended_at")
    state: AttemptState = AttemptState.RESERVED
    submitted_at: AwareDatetime | None = None
    task_id: str | None = None
    failure: Failure | None = None
    error: ErrorSummary | None = None

    @property
    def stem(self) -> str | None:
        """What its files are called."""
        return self.name or self.task_id

    @property
    def is_unanswered(self) -> bool:
        """Whether it is not known what came of it."""
        return self.state in (AttemptState.RESERVED, AttemptState.UNCONFIRMED)

    @property
    def age_seconds(self) -> float:
        """Seconds since it was intended; 0 where another machine's clock is ahead."""
        return max(0.0, (datetime.now(UTC) - self.reserved_at).total_seconds())

    @property
    def file_name(self) -> str:
        """What its file is called."""
        return _file_name(self.key, self.attempt)


_ENTRIES = TypeAdapter(list[SubmissionAttempt])


class Ledger:
    """The attempts made in one place; made by `open_ledger`.

    Attributes:
        rows_not_in_manifest: How many rows it knows that were not asked for when it was loaded.
    """

    def __init__(self, folder: Destination) -> None:
        self._folder = folder
        self.rows_not_in_manifest = 0
        self._attempts: dict[str, dict[int, SubmissionAttempt]] = {}
        self._others: dict[str, SubmissionAttempt] = {}

    @property
    def is_exclusive(self) -> bool:
        """Whether of several runs at once only one can intend the same attempt here."""
        return self._folder.can_create

    async def load(self, keys: Iterable[str] | None = None) -> None:
        """Read what is there and not known yet, about the rows of `keys` only, where given.

        Raises:
            StorageError: An entry cannot be understood: whether it was paid for cannot be told.
        """
        wanted = None if keys is None else {safe_name(key) for key in keys}
        sizes: dict[str, int] = {}
        rows_not_in_manifest: set[str] = set()
        for name, size in (await self._folder.list()).items():
            parts = _ENTRY_NAME.fullmatch(name)
            if parts and (wanted is None or parts["stem"] in wanted):
                sizes[name] = size
            elif parts:
                rows_not_in_manifest.add(parts["stem"])
        self.rows_not_in_manifest = len(rows_not_in_manifest)
        for entry in await self._summary():
            known = self._attempts.get(entry.key, {}).get(entry.attempt)
            if entry.file_name not in sizes:
                self._others[entry.file_name] = entry
            elif known is None or known.is_unanswered:
                self._keep(entry)
        answered = {entry.file_name: entry for entry in self._all() if not entry.is_unanswered}
        unread = (
            name
            for name, size in sizes.items()
            if name not in answered or len(_content(answered[name])) != size
        )
        for found in await asyncio.gather(*map(self._read, unread)):
            # An answer that was known, but could not be written to the file, stays known.
            known = found and answered.get(found.file_name)
            if found and not (known and known.job_key == found.job_key and found.is_unanswered):
                self._keep(found)

    def latest(self, key: str) -> SubmissionAttempt | None:
        """The last attempt of a row."""
        attempts = self._attempts.get(key)
        return attempts[max(attempts)] if attempts else None

    def task_ids(self, key: str) -> list[str]:
        """The generation tasks of all attempts of a row."""
        return [entry.task_id for entry in self._attempts.get(key, {}).values() if entry.task_id]

    def entries(self) -> list[SubmissionAttempt]:
        """The last attempt of every row."""
        return [attempts[max(attempts)] for attempts in self._attempts.values()]

    async def reserve(self, row: Row, request: GenerationRequest) -> tuple[SubmissionAttempt, bool]:
        """Note that a row is about to be submitted.

        Returns:
            The attempt, and whether it is the caller's to make: another run may have been first.

        Raises:
            StorageError: It was not noted; do not submit.
        """
        for _ in range(MAX_RESERVE_TRIES):
            entry = self._next_attempt(row, request)
            if await self._create(entry):
                self._keep(entry)
                return entry, True
            if found := await self._read(entry.file_name):
                self._keep(found)
                return found, False
            # The run that was first has taken its attempt back meanwhile.
        raise StorageError(f"{self._folder.path_of(entry.file_name)} can be neither made nor read.")

    def _next_attempt(self, row: Row, request: GenerationRequest) -> SubmissionAttempt:
        attempt = max(self._attempts.get(row.key, ()), default=0) + 1
        while _file_name(row.key, attempt) in self._others:
            attempt += 1  # its file was deleted, and the summary still tells of it
        return SubmissionAttempt(
            key=row.key,
            attempt=attempt,
            digest=row.digest,
            name=row.name,
            endpoint=request.endpoint,
            credits=request.estimated_credits,
            job_key=f"{BATCH_JOB_PREFIX}{secrets.token_hex(16)}",
            reserved_at=datetime.now(UTC),
        )

    async def submitted(self, entry: SubmissionAttempt, task_id: str) -> SubmissionAttempt:
        """Note that a submit was answered with a task, or that its callback has told the task."""
        return await self._update(
            entry,
            state=AttemptState.SUBMITTED,
            task_id=task_id,
            submitted_at=datetime.now(UTC),
            failure=None,
            error=None,
        )

    async def unconfirmed(self, entry: SubmissionAttempt, error: ErrorSummary) -> SubmissionAttempt:
        """Note that it is not known what came of a submit."""
        return await self._update(
            entry, state=AttemptState.UNCONFIRMED, failure=Failure.UNCONFIRMED, error=error
        )

    async def refused(self, entry: SubmissionAttempt, error: ErrorSummary) -> SubmissionAttempt:
        """Note that the service did not take a submit."""
        return await self._update(
            entry, state=AttemptState.FAILED, failure=Failure.REFUSED, error=error
        )

    async def ended(self, entry: SubmissionAttempt, error: NanoBananaError | None) -> None:
        """Note how the task of an attempt ended, where that is for good."""
        failure = failure_of(error)
        if error is None and entry.failure:
            await self._update(entry, state=AttemptState.SUBMITTED, failure=None, error=None)
        elif error and failure:
            # A task that is not known may be known to another key.
            state = (
                AttemptState.SUBMITTED if failure is Failure.UNKNOWN_TASK else AttemptState.FAILED
            )
            await self._update(entry, state=state, failure=failure, error=ErrorSummary.of(error))

    async def release(self, entry: SubmissionAttempt) -> None:
        """Forget an attempt that has certainly not reached the service."""
        await self._folder.delete(entry.file_name)
        self._forget(entry)

    async def look_again(self, entry: SubmissionAttempt) -> SubmissionAttempt | None:
        """What another run has made of an attempt meanwhile; None: it took the attempt back."""
        found = await self._read(entry.file_name)
        if found:
            self._keep(found)
        else:
            self._forget(entry)
        return found

    async def summarise(self) -> None:
        """Write what is answered into one file, so that the next run reads that instead of many.

        It is a convenience only: entries that it misses are read one by one.
        """
        answered = [entry for entry in self._all() if not entry.is_unanswered]
        if not answered:
            return
        data = _ENTRIES.dump_json([*self._others.values(), *answered], exclude_none=True)
        await self._folder.publish(SUMMARY, data, _MEDIA_TYPE)

    def _all(self) -> Iterator[SubmissionAttempt]:
        return (entry for attempts in self._attempts.values() for entry in attempts.values())

    async def _summary(self) -> list[SubmissionAttempt]:
        data = await self._folder.read(SUMMARY)
        try:
            return _ENTRIES.validate_json(data) if data else []
        except ValidationError:
            return []

    async def _create(self, entry: SubmissionAttempt) -> bool:
        name, data = entry.file_name, _content(entry)
        if not self._folder.can_create:
            if await self._folder.size_of(name) is not None:
                return False
            await self._folder.publish(name, data, _MEDIA_TYPE)
            return True
        failure = None
        try:
            if await self._folder.create(name, data, _MEDIA_TYPE):
                return True
        except StorageError as error:
            failure = error
        if await self._folder.read(name) == data:  # it took effect, and its answer was lost
            return True
        if failure:
            raise failure
        return False

    async def _read(self, name: str) -> SubmissionAttempt | None:
        data = await self._folder.read(name)
        if data is None:
            return None
        try:
            return SubmissionAttempt.model_validate_json(data)
        except ValidationError:
            raise StorageError(
                f"{self._folder.path_of(name)} is no ledger entry, so it cannot be told whether "
                "its row was paid for. Restore it, or delete it to have the row submitted again."
            ) from None

    async def _update(self, entry: SubmissionAttempt, **changes: Any) -> SubmissionAttempt:
        updated = entry.model_copy(update=changes)
        self._keep(updated)
        await self._folder.publish(entry.file_name, _content(updated), _MEDIA_TYPE)
        return updated

    def _forget(self, entry: SubmissionAttempt) -> None:
        self._attempts[entry.key].pop(entry.attempt, None)
        if not self._attempts[entry.key]:
            del self._attempts[entry.key]

    def _keep(self, entry: SubmissionAttempt) -> None:
        self._others.pop(entry.file_name, None)
        self._attempts.setdefault(entry.key, {})[entry.attempt] = entry


def _content(entry: SubmissionAttempt) -> bytes:
    return entry.model_dump_json(exclude_none=True).encode()


def _file_name(key: str, attempt: int) -> str:
    return f"{safe_name(key)}.{attempt}.json"


@asynccontextmanager
async def open_ledger(images: StorageLocation, *, check: bool = True) -> AsyncIterator[Ledger]:
    """Reach the ledger beside the images; nothing is read yet.

    Args:
        images: Where the images go.
        check: Whether to make sure that entries can be written, and find out whether exclusively.

    Raises:
        DestinationError: The storage cannot be written to, where that is checked.
    """
    async with await images.child(FOLDER).open() as folder:
        if check:
            await folder.check_writable()
            await folder.check_exclusive()
        yield Ledger(folder)
