"""Keeps the report of a batch beside its images up to date; what it holds is decided elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.report import BatchReport, report_name
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.storage.destination import Destination

logger = logging.getLogger(__name__)

REPORT_SECONDS = 10.0
"""The pause before a report is written again, while it is small."""

REPORT_BYTES = 500_000
"""A report of more than that is written less often, in proportion."""


@asynccontextmanager
async def keeping_report(
    batch: Batch,
    place: Destination | None = None,
    name: str | None = None,
    *,
    pause_seconds: float = REPORT_SECONDS,
) -> AsyncIterator[None]:
    """Keep the batch's report up to date until the context ends.

    Args:
        batch: The batch.
        place: Where the report goes; beside the images by default.
        name: What it is called; by default after the manifest.
        pause_seconds: The pause before it is written again, while it is small.
    """
    place = place or batch.landing.destination
    ended = asyncio.Event()
    keeper = asyncio.create_task(_keep_report(batch, place, name, ended, pause_seconds))
    try:
        yield
    finally:
        ended.set()  # a publish that is cancelled may still take place, after the last one
        await asyncio.gather(keeper, return_exceptions=True)
        await write_report(place, batch.report(finished=True), name)


async def write_report(place: Destination, report: BatchReport, name: str | None = None) -> int:
    """Write a report; that it cannot be written is logged. Return its size in bytes."""
    data = await asyncio.to_thread(report.to_json)
    try:
        await place.publish(name or report_name(report.manifest), data, "application/json")
    except NanoBananaError as error:
        logger.warning("Could not write the report of the batch; continuing: %s", error)
    return len(data)


def report_pause(size: int, least: float = REPORT_SECONDS) -> float:
    """Seconds until a report of that many bytes is written again, `least` while it is small.

    They grow with it, so that what is written in all grows no faster than the batch.
    """
    return least * max(1.0, size / REPORT_BYTES)


async def _keep_report(
    batch: Batch, place: Destination, name: str | None, ended: asyncio.Event, pause: float
) -> None:
    while not ended.is_set():
        size = await write_report(place, batch.report(finished=False), name)
        with anyio.move_on_after(report_pause(size, pause)):
            await ended.wait()
