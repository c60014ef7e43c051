"""What became of each row's submits, durable before money is spent; it submits and lands nothing.

One small file for each attempt lies beside the images, in `FOLDER`. It is created exclusively
before the submit, so that of several runs only one submits, and rewritten when the submit is
answered. No entry is ever deleted: a delete whose answer is lost could, when it is repeated, remove
what another run has written under that name. What has landed is told by receipts, not here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.batches.attempts import (
    AttemptState,
    Failure,
    SubmissionAttempt,
    failure_of,
    new_attempt,
    unreadable_attempt,
)
from nanobanana_blocks.batches.ledger_mark import LedgerMark
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.errors import (
    DestinationError,
    GenerationFailed,
    NanoBananaError,
    StorageError,
)
from nanobanana_blocks.landing.report import ErrorSummary
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from nanobanana_blocks.storage.names import safe_name

__all__ = ["AttemptState", "Failure", "Ledger", "SubmissionAttempt", "failure_of", "open_ledger"]

FOLDER = ".nanobanana/ledger"
SUMMARY = "summary.json"

MAX_RESERVE_TRIES = 7
FIRST_PAUSE_SECONDS = 0.1

_ENTRY_NAME = re.compile(r"(?P<stem>.+)\.(?P<attempt>[1-9][0-9]{0,5})\.json")
_MEDIA_TYPE = "application/json"
_ENTRIES = TypeAdapter(list[SubmissionAttempt])

_logger = logging.getLogger(__name__)


class Ledger:
    """The attempts made in one place; made by `open_ledger`.

    Attributes:
        rows_not_in_manifest: How many rows it knows that were not asked for when it was loaded.
        mark: By which it is known from another one in its place.
    """

    def __init__(
        self,
        folder: Destination,
        owner: str | None = None,
        *,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        is_written: bool = True,
    ) -> None:
        self._folder, self._owner, self._is_written = folder, owner, is_written
        self._first_pause = first_pause_seconds
        self.rows_not_in_manifest = 0
        self._attempts: dict[str, dict[int, SubmissionAttempt]] = {}
        self._others: dict[str, SubmissionAttempt] = {}
        self.mark = LedgerMark(folder)
        self._last_reserved: str | None = None

    @property
    def is_exclusive(self) -> bool:
        """Whether of several runs at once only one can reserve the same attempt here."""
        return self._folder.can_create

    async def load(self, keys: Iterable[str] | None = None) -> None:
        """Read what is there and not known yet, about the rows of `keys` only, where given.

        An entry that cannot be understood stands as an attempt of which nothing is known.

        Raises:
            StorageError: The storage cannot be read.
        """
        wanted = None if keys is None else {safe_name(key): key for key in keys}
        sizes: dict[str, int] = {}
        rows_not_in_manifest: set[str] = set()
        for name, size in (await self._folder.list()).items():
            parts = _ENTRY_NAME.fullmatch(name)
            if parts and (wanted is None or parts["stem"] in wanted):
                sizes[name] = size
            elif parts:
                rows_not_in_manifest.add(parts["stem"])
        self.rows_not_in_manifest = len(rows_not_in_manifest)
        summary = await self._summary()
        unread = await asyncio.to_thread(self._take_summary, summary, sizes, wanted)
        answered = {}
        if unread:
            answered = {entry.file_name: entry for entry in self._all() if not entry.is_unanswered}
        for found in await map_concurrently(lambda name: self._read(name, wanted), unread):
            # An answer that was known, but could not be written to the file, stays known.
            known = found and answered.get(found.file_name)
            if found and not (known and found.is_unanswered and _may_be_same(found, known)):
                self._keep(found)

    def _take_summary(
        self,
        summary: list[SubmissionAttempt],
        sizes: Mapping[str, int],
        wanted: Mapping[str, str] | None,
    ) -> list[str]:
        """Take over what the summary tells of; return the files that are still to be read.

        What it tells of an entry whose file is gone is the best that is known of it.
        """
        for entry in summary:
            known = self._attempts.get(entry.key, {}).get(entry.attempt)
            if wanted is not None and safe_name(entry.key) not in wanted:
                self._others[entry.file_name] = entry
            elif known is None or known.is_unanswered:
                self._keep(entry)
        answered = {entry.file_name: entry for entry in self._all() if not entry.is_unanswered}
        return [
            name
            for name, size in sizes.items()
            if name not in answered or len(_content(answered[name])) != size
        ]

    def latest(self, key: str) -> SubmissionAttempt | None:
        """The last attempt of a row that was not released."""
        attempts = self._attempts.get(key, {})
        made = (n for n, entry in attempts.items() if entry.state is not AttemptState.RELEASED)
        number = max(made, default=None)
        return None if number is None else attempts[number]

    def task_ids(self, key: str) -> list[str]:
        """The generation tasks of all attempts of a row."""
        return [entry.task_id for entry in self._attempts.get(key, {}).values() if entry.task_id]

    def entries(self) -> list[SubmissionAttempt]:
        """The last attempt of every row."""
        return [entry for key in self._attempts if (entry := self.latest(key))]

    async def reserve(
        self, row: Row, request: GenerationRequest, *, alternative: str | None = None
    ) -> tuple[SubmissionAttempt, bool]:
        """Note that a row is about to be submitted.

        `alternative` is the digest of its alternative prompt, where it is that.

        Returns:
            The attempt, and whether it is the caller's to make: another run may have been first.

        Raises:
            DestinationError: The ledger is gone, or cannot be written to; do not submit.
            StorageError: It was not noted; do not submit.
        """
        await self.mark.require(self._last_reserved)
        tries = 0
        while tries < MAX_RESERVE_TRIES:
            entry = self._next_attempt(row, request, alternative)
            try:
                created = await self._create(entry)
            except DestinationError:
                await self.mark.require(self._last_reserved)  # which says more, if it has just gone
                raise
            if created:
                self._last_reserved = entry.file_name
                self._keep(entry)
                return entry, True
            found = await self._read(entry.file_name, {safe_name(row.key): row.key})
            if found is None:
                # S3 refuses one of two creations at once before the other can be read.
                await asyncio.sleep(self._first_pause * 2**tries)
                tries += 1
                continue
            self._keep(found)
            if found.state is not AttemptState.RELEASED:
                return found, False
        raise StorageError(f"{self._folder.path_of(entry.file_name)} can be neither made nor read.")

    async def adopt(self, row: Row, request: GenerationRequest, task_id: str, digest: str) -> None:
        """Note what a receipt tells of a row that the ledger knows no answer for.

        Args:
            row: The row.
            request: What it asks for.
            task_id: The task that has landed for it.
            digest: That of the row's content when it was submitted.
        """
        entry = self._next_attempt(row, request).model_copy(
            update={
                "digest": digest,
                "state": AttemptState.SUBMITTED,
                "submitted_at": datetime.now(UTC),
                "task_id": task_id,
            }
        )
        try:
            if self._is_written:
                await self._create(entry)
        except NanoBananaError as error:
            _logger.warning("Could not write %s; continuing: %s", entry.file_name, error)
        self._keep(entry)

    def _next_attempt(
        self, row: Row, request: GenerationRequest, alternative: str | None = None
    ) -> SubmissionAttempt:
        return new_attempt(
            row,
            request,
            attempt=max(self._attempts.get(row.key, ()), default=0) + 1,
            owner=self._owner,
            alternative=alternative,
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
        """Note how the task of an attempt ended, where that is permanent."""
        failure = failure_of(error)
        if error is None and entry.failure:
            await self._update(entry, state=AttemptState.SUBMITTED, failure=None, error=None)
        elif error and failure:
            # Later runs ask again about what another key may know, or what only a code has told.
            is_certain = isinstance(error, GenerationFailed) and not error.by_code
            state = AttemptState.FAILED if is_certain else AttemptState.SUBMITTED
            await self._update(entry, state=state, failure=failure, error=ErrorSummary.of(error))

    async def release(self, entry: SubmissionAttempt) -> None:
        """Note that an attempt has certainly not reached the service; another may be made."""
        await self._update(entry, state=AttemptState.RELEASED)

    async def read_again(self, entry: SubmissionAttempt) -> SubmissionAttempt:
        """What another run has made of an attempt meanwhile, where its file tells."""
        found = await self._read(entry.file_name, {safe_name(entry.key): entry.key})
        if found is None or not found.job_key:
            return entry
        self._keep(found)
        return found

    async def summarise(self) -> None:
        """Write what is answered into one file, so that the next run reads that instead of many.

        It is a convenience only: entries that it misses are read one by one.
        """
        answered = [entry for entry in self._all() if not entry.is_unanswered]
        if not answered:
            return
        data = await asyncio.to_thread(
            _ENTRIES.dump_json, [*self._others.values(), *answered], exclude_none=True
        )
        await self._folder.publish(SUMMARY, data, _MEDIA_TYPE)

    def _all(self) -> Iterator[SubmissionAttempt]:
        return (entry for attempts in self._attempts.values() for entry in attempts.values())

    async def _summary(self) -> list[SubmissionAttempt]:
        data = await self._folder.read(SUMMARY)
        try:
            return await asyncio.to_thread(_ENTRIES.validate_json, data) if data else []
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

    async def _read(
        self, name: str, keys: Mapping[str, str] | None = None
    ) -> SubmissionAttempt | None:
        """The entry in a file, or what stands for it where it cannot be understood."""
        try:
            data = await self._folder.read(name)
            if data is None:
                return None
            entry = SubmissionAttempt.model_validate_json(data)
            if entry.file_name == name:
                return entry
        except (ValidationError, DestinationError):
            pass
        parts = _ENTRY_NAME.fullmatch(name)
        if not parts:
            return None
        key = (keys or {}).get(parts["stem"], parts["stem"])
        return unreadable_attempt(key, int(parts["attempt"]), self._folder.path_of(name))

    async def _update(self, entry: SubmissionAttempt, **changes: Any) -> SubmissionAttempt:
        updated = entry.model_copy(update=changes)
        self._keep(updated)
        await self._folder.publish(entry.file_name, _content(updated), _MEDIA_TYPE)
        return updated

    def _keep(self, entry: SubmissionAttempt) -> None:
        self._others.pop(entry.file_name, None)
        self._attempts.setdefault(entry.key, {})[entry.attempt] = entry


def _content(entry: SubmissionAttempt) -> bytes:
    return entry.model_dump_json(exclude_none=True).encode()


def _may_be_same(read: SubmissionAttempt, known: SubmissionAttempt) -> bool:
    """Whether a file may be about the attempt that is known, for all that can be read of it."""
    return read.job_key in (known.job_key, "")


@asynccontextmanager
async def open_ledger(
    images: StorageLocation, *, check: bool = True, owner: str | None = None
) -> AsyncIterator[Ledger]:
    """Reach the ledger beside the images; nothing is read yet.

    Args:
        images: Where the images go.
        check: Whether to make sure that entries can be written; if not, none is made by `adopt`.
        owner: The name of the lease of the run that will make attempts.

    Raises:
        DestinationError: The storage cannot be written to, where that is checked.
    """
    async with await images.child(FOLDER).open() as folder:
        if check:
            await folder.check_writable()
            await folder.check_exclusive()
        ledger = Ledger(folder, owner, is_written=check)
        if check:
            await ledger.mark.make()
        yield ledger
