"""Keeps what was learned about generation times for the runs that follow: beside the images, and
wherever else a caller knows of.

Runs that write at the same time may lose each other's learning, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.planner import PollPlanner
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.concurrency import background_task
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.storage.destination import StorageLocation

FOLDER, FILE = ".nanobanana", "generation-times.json"
WRITE_EVERY_SECONDS = 300.0
STORAGE_SECONDS = 10.0
"""Reading and writing beside the images are given up after so long each."""

_logger = logging.getLogger(__name__)


class SummaryStore(Protocol):
    """A place that keeps a summary.

    Its methods raise `NanoBananaError` or `TimeoutError` where it fails, and take seconds at most.
    """

    async def read(self) -> LearnedSummary:
        """What is kept, faded by its age; empty where there is nothing."""

    async def write(self, summary: LearnedSummary) -> None:
        """Keep a summary in place of what is there."""


@asynccontextmanager
async def remembering(
    images: StorageLocation,
    client: NanoBananaClient,
    policy: PollPolicy | None,
    *,
    account: SummaryStore | None = None,
    every: float = WRITE_EVERY_SECONDS,
) -> AsyncIterator[None]:
    """Read what earlier runs have learned, and write what this one learns, at its end too.

    Nothing here fails a run, or delays it by much: a store that does not answer is logged. Enter it
    when it is known that the place can be written to.

    Args:
        images: Where the images of the run go; a summary is kept beside them.
        client: Polls for the run.
        policy: The run's; nothing is kept unless it learns and remembers.
        account: Keeps what all runs of the account have learned, for destinations that are new.
        every: Seconds between two writes.
    """
    policy = policy or PollPolicy()
    if policy.mode == "fixed" or not policy.remember:
        yield
        return
    stores: list[SummaryStore] = [_Beside(images.child(FOLDER))]
    stores += [account] if account else []
    memory = _Memory(stores, client.waiter(policy).planner)
    await memory.read()
    async with background_task(memory.write_on(every)):
        try:
            yield
        except asyncio.CancelledError:
            raise  # whoever is being stopped has no time for it
        except BaseException:
            await memory.write()
            raise
        await memory.write()


async def learned_so_far(
    images: StorageLocation, account: SummaryStore | None = None
) -> LearnedSummary:
    """What earlier runs have learned, by the store that knows most; nothing is written.

    Args:
        images: Where the images of a run go.
        account: As `remembering` has it.
    """
    stores: list[SummaryStore] = [_Beside(images.child(FOLDER))]
    stores += [account] if account else []
    found = [LearnedSummary()]
    for store in stores:
        try:
            found.append(await store.read())
        except (NanoBananaError, TimeoutError) as error:
            _logger.info("Could not read %s; continuing: %s", store, _reason(error))
    return max(found, key=lambda known: known.pool.polls)


class _Memory:
    def __init__(self, stores: Sequence[SummaryStore], planner: PollPlanner) -> None:
        self._stores = stores
        self._planner = planner
        self._polls_written = planner.polls

    async def read(self) -> None:
        """Have the planner go on from the store that knows most."""
        stored = await self._stored()
        if any(not known.is_empty for known in stored.values()):
            self._go_on_from(stored)

    async def write_on(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            await self.write()

    async def write(self) -> None:
        """Merge what was learned since the last time into what each store holds by now."""
        if self._planner.polls == self._polls_written:
            return
        stored = await self._stored()
        if not stored:
            return
        # Without an await in between, so that no poll is lost or counted twice.
        self._polls_written = self._planner.polls
        learned = self._planner.learned()
        together = {store: known.merged(learned) for store, known in stored.items()}
        self._go_on_from(stored)
        for store, summary in together.items():
            try:
                await store.write(summary)
            except (NanoBananaError, TimeoutError) as error:
                _logger.info("Could not write %s; continuing: %s", store, _reason(error))

    def _go_on_from(self, stored: Mapping[SummaryStore, LearnedSummary]) -> None:
        best = max(stored.values(), key=lambda known: known.pool.polls)
        self._planner.go_on_from(best.merged(self._planner.learned()))

    async def _stored(self) -> dict[SummaryStore, LearnedSummary]:
        """What each store holds; those that do not answer are left out."""
        stored = {}
        for store in self._stores:
            try:
                stored[store] = await store.read()
            except (NanoBananaError, TimeoutError) as error:
                _logger.info("Could not read %s; continuing: %s", store, _reason(error))
        return stored


class _Beside:
    """The file beside the images."""

    def __init__(self, folder: StorageLocation) -> None:
        self._folder = folder
        self._has_folder = False

    def __str__(self) -> str:
        return f"{self._folder}/{FILE}"

    async def read(self) -> LearnedSummary:
        with anyio.fail_after(STORAGE_SECONDS):
            async with await self._folder.open() as folder:
                data = await folder.read(FILE)
        self._has_folder = data is not None
        if data is None:
            return LearnedSummary()
        return LearnedSummary.from_json(data, time.time(), where=str(self))

    async def write(self, summary: LearnedSummary) -> None:
        with anyio.fail_after(STORAGE_SECONDS):
            async with await self._folder.open() as folder:
                if not self._has_folder:
                    await folder.check_writable()  # makes it
                await folder.publish(FILE, summary.to_json(time.time()), "application/json")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
