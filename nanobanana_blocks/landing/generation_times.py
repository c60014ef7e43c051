"""Keeps what was learned about generation times beside the images, for the runs that follow.

Runs that write at the same time may lose each other's learning, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
"""Reading and writing are given up after so long each."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def remembering(
    images: StorageLocation,
    client: NanoBananaClient,
    policy: PollPolicy | None,
    *,
    every: float = WRITE_EVERY_SECONDS,
) -> AsyncIterator[None]:
    """Read what earlier runs have learned, and write what this one learns, at its end too.

    Nothing here fails a run, or delays it by much: storage that does not answer is logged. Enter it
    when it is known that the place can be written to.

    Args:
        images: Where the images of the run go.
        client: Polls for the run.
        policy: The run's; nothing is kept unless it learns and remembers.
        every: Seconds between two writes.
    """
    policy = policy or PollPolicy()
    if policy.mode == "fixed" or not policy.remember:
        yield
        return
    memory = _Memory(images.child(FOLDER), client.waiter(policy).planner)
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


class _Memory:
    def __init__(self, folder: StorageLocation, planner: PollPlanner) -> None:
        self._folder = folder
        self._planner = planner
        self._polls_written = planner.polls

    async def read(self) -> None:
        """Have the planner go on from what is stored."""
        if (stored := await self._stored()) and not stored.is_empty:
            self._planner.go_on_from(stored.merged(self._planner.learned()))

    async def write_on(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            await self.write()

    async def write(self) -> None:
        """Merge what was learned since the last time into what is stored by now."""
        if self._planner.polls == self._polls_written:
            return
        stored = await self._stored()
        if stored is None:
            return
        # Without an await in between, so that no poll is lost or counted twice.
        self._polls_written = self._planner.polls
        together = stored.merged(self._planner.learned())
        self._planner.go_on_from(together)
        try:
            with anyio.fail_after(STORAGE_SECONDS):
                async with await self._folder.open() as folder:
                    if stored.is_empty:
                        await folder.check_writable()  # makes a folder that is not there yet
                    data = together.to_json(time.time())
                    await folder.publish(FILE, data, "application/json")
        except (NanoBananaError, TimeoutError) as error:
            logger.info("Could not write %s; continuing: %s", FILE, _reason(error))

    async def _stored(self) -> LearnedSummary | None:
        """What is stored; empty where there is nothing, None where storage does not answer."""
        try:
            with anyio.fail_after(STORAGE_SECONDS):
                async with await self._folder.open() as folder:
                    data = await folder.read(FILE)
        except (NanoBananaError, TimeoutError) as error:
            logger.info("Could not read %s; continuing: %s", FILE, _reason(error))
            return None
        if data is None:
            return LearnedSummary()
        return LearnedSummary.from_json(data, time.time(), where=f"{self._folder}/{FILE}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
