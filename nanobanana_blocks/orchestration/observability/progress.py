"""A progress artifact that follows a run; it neither fails nor delays what it follows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import anyio
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.logging import get_run_logger

from nanobanana_blocks.concurrency import background_task, restarting
from nanobanana_blocks.orchestration.observability.optional import optional

PROGRESS_KEY = "nanobanana-progress"
PROGRESS_SECONDS = 2.0
LAST_PROGRESS_SECONDS = 3.0


@asynccontextmanager
async def showing_progress(
    total: int,
    settled: Callable[[], int],
    what: str = "Generation tasks",
    waits: Callable[[], str] = str,
) -> AsyncIterator[None]:
    """Keep a progress artifact up to date while what `settled` counts approaches `total`.

    Args:
        total: How many there are.
        settled: Counts those that are done.
        what: What is counted.
        waits: Says what is waited for just now, if anything.
    """
    progress = _Progress(total, settled, what, waits)
    log = get_run_logger()
    async with background_task(restarting(progress.follow, log=log), log=log):
        try:
            yield
        finally:
            with anyio.move_on_after(LAST_PROGRESS_SECONDS):
                await progress.show(LAST_PROGRESS_SECONDS)


class _Progress:
    def __init__(
        self,
        total: int,
        settled: Callable[[], int],
        what: str,
        waits: Callable[[], str] = str,
    ) -> None:
        self._total = max(total, 1)
        self._settled = settled
        self._what = what
        self._waits = waits
        self._artifact: UUID | None = None
        self._shown = (-1, "")
        self._failed = False
        self._writing = asyncio.Lock()

    async def follow(self) -> None:
        while True:
            await self.show(PROGRESS_SECONDS * 4)
            await asyncio.sleep(PROGRESS_SECONDS)

    async def show(self, seconds: float) -> None:
        """Show how many have settled; only the first of several failures is a warning."""
        async with self._writing:  # what is cut off while it makes the artifact would be made twice
            done, waits = self._settled(), self._waits()
            if (done, waits) == self._shown:
                return
            failed, self._failed = self._failed, True
            with optional("the progress artifact", seconds, quiet=failed):
                await self._write(math.floor(1000 * done / self._total) / 10, waits)
                self._shown, self._failed = (done, waits), False

    async def _write(self, percent: float, waits: str) -> None:
        description = f"{self._what} settled, of {self._total:,}.{f' {waits}.' if waits else ''}"
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(
                percent, key=PROGRESS_KEY, description=description
            )
        else:
            await aupdate_progress_artifact(self._artifact, percent, description=description)
