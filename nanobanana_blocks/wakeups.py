"""Lets callbacks wake a landing: each received one has its task looked at now; it decides nothing.

Prefect's event stream carries them, from a minute before the subscription on, so that none is
missed between. Without the stream everything is found by polling, only later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL

from nanobanana_blocks.events import CALLBACK_RECEIVED, task_id_of
from nanobanana_blocks.landing import Landing

SUBSCRIBE_SECONDS = 3.0
"""How long a landing waits for its subscription before it begins without."""

RECONNECT_SECONDS = 10.0


@asynccontextmanager
async def waking_on_callbacks(landing: Landing) -> AsyncIterator[None]:
    """Have callbacks wake the landing for as long as the context lasts; polling goes on beside."""
    if not PREFECT_API_URL.value():
        get_run_logger().info("No Prefect server is set: callbacks cannot wake this run.")
        yield
        return
    subscribed = asyncio.Event()
    listener = asyncio.create_task(_listen(landing, subscribed))
    try:
        with anyio.move_on_after(SUBSCRIBE_SECONDS):
            await subscribed.wait()
        yield
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


async def _listen(landing: Landing, subscribed: asyncio.Event) -> None:
    logger = get_run_logger()
    told = False
    while True:
        try:
            callbacks = EventFilter(event=EventNameFilter(name=[CALLBACK_RECEIVED]))
            async with get_events_subscriber(filter=callbacks) as events:
                subscribed.set()
                told = False
                async for event in events:
                    landing.wake(task_id_of(event.resource.id))
        except (
            Exception
        ) as error:  # the stream is a convenience: whatever it raises, polling goes on
            if not told:
                logger.info(
                    "Callbacks cannot wake this run for now (%s); polling goes on.",
                    type(error).__name__,
                )
            told = True
        subscribed.set()
        await asyncio.sleep(RECONNECT_SECONDS)
