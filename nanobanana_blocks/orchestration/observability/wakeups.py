"""Lets callbacks wake a landing: each received one has its task polled now; it decides nothing.

Prefect's event stream carries them, from a minute before the subscription on, so that none is
missed between. Without the stream everything is found by polling, only later. A callback also says
which task came of a submit whose answer was lost: those of earlier runs are found among the events
that Prefect has kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio
from prefect.client.orchestration import get_client
from prefect.client.schemas.events import EventPage
from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventRelatedFilter,
)
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL

from nanobanana_blocks.concurrency import background_task, describe_crash
from nanobanana_blocks.landing.lander import Lander
from nanobanana_blocks.orchestration.observability.events import (
    CALLBACK_RECEIVED,
    job_id_of,
    task_id_of,
)
from nanobanana_blocks.orchestration.observability.optional import PREFECT_FAILED

SUBSCRIBE_SECONDS = 3.0
"""How long a landing waits for its subscription before it begins without."""

KEPT_EVENTS_SECONDS = 30.0
"""How long kept events are read for; what is not found by then is found by polling, or a sweep."""

RECONNECT_SECONDS = 10.0
JOBS_AT_ONCE = 50

CLOCKS_APART = timedelta(minutes=10)
"""How far the receiver's clock may be behind; job keys are unique, so looking too far is safe."""

Reveal = Callable[[str, str], object]
"""Takes the job key of a submit and the task that a callback names for it."""


@asynccontextmanager
async def waking_on_callbacks(landing: Lander, reveal: Reveal | None = None) -> AsyncIterator[None]:
    """Have callbacks wake the landing for as long as the context lasts; polling goes on beside."""
    if not PREFECT_API_URL.value():
        get_run_logger().info("No Prefect server is set: callbacks cannot wake this run.")
        yield
        return
    subscribed = asyncio.Event()
    async with background_task(_listen(landing, reveal, subscribed), log=get_run_logger()):
        with anyio.move_on_after(SUBSCRIBE_SECONDS):
            await subscribed.wait()
        yield


async def reveal_from_kept_events(job_keys: Sequence[str], since: datetime, reveal: Reveal) -> None:
    """Reveal the tasks of submits whose callbacks came while nobody listened.

    Prefect keeps events for some days (7, unless its server is set otherwise).
    """
    async with get_client() as prefect:
        for start in range(0, len(job_keys), JOBS_AT_ONCE):
            jobs = [job_id_of(job_key) for job_key in job_keys[start : start + JOBS_AT_ONCE]]
            callbacks = EventFilter(
                event=EventNameFilter(name=[CALLBACK_RECEIVED]),
                related=EventRelatedFilter(id=jobs),
                occurred=EventOccurredFilter(since=since - CLOCKS_APART),
            )
            page: EventPage | None = await prefect.read_events(callbacks, limit=JOBS_AT_ONCE)
            while page:
                for event in page.events:
                    _reveal(event, reveal)
                page = await page.get_next_page(prefect)


async def find_kept_callbacks(job_keys: Sequence[str], since: datetime) -> dict[str, str]:
    """The tasks that kept events name for job keys; none, with a warning, where Prefect is down."""
    found: dict[str, str] = {}
    try:
        with anyio.fail_after(KEPT_EVENTS_SECONDS):
            await reveal_from_kept_events(job_keys, since, found.setdefault)
    except PREFECT_FAILED as error:
        get_run_logger().warning("Prefect's events cannot be read: %s", type(error).__name__)
    return found


def _reveal(event: Event, reveal: Reveal) -> None:
    if job_key := event.payload.get("job_key"):
        reveal(str(job_key), task_id_of(event.resource.id))


async def _listen(landing: Lander, reveal: Reveal | None, subscribed: asyncio.Event) -> None:
    """Subscribe again and again: the stream is a convenience, and polling goes on without it."""
    logger = get_run_logger()
    reported = False
    while True:
        try:
            callbacks = EventFilter(event=EventNameFilter(name=[CALLBACK_RECEIVED]))
            async with get_events_subscriber(filter=callbacks) as events:
                subscribed.set()
                reported = False
                async for event in events:
                    landing.wake(task_id_of(event.resource.id))
                    if reveal:
                        _reveal(event, reveal)
        except Exception as error:
            if not reported:
                logger.info(
                    "Callbacks cannot wake this run for now (%s); polling goes on",
                    describe_crash(error),
                )
            reported = True
        subscribed.set()
        await asyncio.sleep(RECONNECT_SECONDS)
