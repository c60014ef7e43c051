"""Where received callbacks go: to Prefect's events, and to the pending notes of a destination."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.settings import PREFECT_API_URL

from nanobanana_blocks.batches.job_keys import BATCH_JOB_PREFIX
from nanobanana_blocks.callbacks.sinks import (
    DELIVERY_SECONDS,
    EVENTS_PER_SECOND,
    Delivery,
    SinkDown,
    describe_failure,
)
from nanobanana_blocks.callbacks.spool import ReceivedCallback, Spooled
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.orchestration.blocks.image_store import load_store
from nanobanana_blocks.orchestration.observability.events import (
    CALLBACK_RECEIVED,
    post_events,
    related_job,
    resource_of,
)
from nanobanana_blocks.recovery.pending import PendingTasks, open_pending
from nanobanana_blocks.storage.dates import DATE
from nanobanana_blocks.storage.locations import redact

logger = logging.getLogger(__name__)


class Announcer:
    """Announces tasks in the place that a `destination` means, which it reaches when first called.

    For as long as the process lasts; made for the callback receiver. The tasks of batches are left
    out: the ledgers of their own places know them.

    Raises:
        InvalidInput: The destination holds ``{date}``; of a saved block that is known, and raised,
            when it is first called.
    """

    def __init__(self, destination: str) -> None:
        _require_one_place(destination)
        self.description = f"tells the sweep of {redact(destination)}"
        self._destination = destination
        self._opening = asyncio.Lock()
        self._place = AsyncExitStack()
        self._pending: PendingTasks | None = None

    async def __call__(self, callback: ReceivedCallback) -> None:
        if callback.job_key and callback.job_key.startswith(BATCH_JOB_PREFIX):
            logger.info("Task %s is a batch's, whose ledger knows it.", callback.task_id)
            return
        async with self._opening:
            if self._pending is None:
                store = await load_store(self._destination)
                _require_one_place(store.url)
                self._pending = await self._place.enter_async_context(open_pending(store.location))
        await self._pending.announce(callback.task_id)
        logger.info("Task %s is announced in %s.", callback.task_id, redact(self._destination))


def _require_one_place(destination: str) -> None:
    if DATE in destination:
        raise InvalidInput(
            f"a callback belongs to no day, so its task cannot be announced in a place with {DATE} "
            "in it. Give a place without."
        )


class PrefectEvents:
    """The Prefect API that Prefect's own settings lead to: a server, or Prefect Cloud.

    Events are posted and the answer is awaited; Prefect's `emit_event` would only queue them in
    this process. An open-source server answers once an event is in its memory, and drops events
    without a word where 10,000 are queued already (read in its source). It stored some 400 a second
    (measured, on two cores), hence the pace.
    """

    name = "prefect"

    @property
    def description(self) -> str:
        """Where events go now, without a password."""
        if api_url := PREFECT_API_URL.value():
            parts = urlsplit(str(api_url))
            return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return "nowhere, until PREFECT_API_URL is set: they wait in the spool"

    def __init__(self) -> None:
        self._connections = AsyncExitStack()
        self._client: PrefectClient | None = None

    async def deliver(self, batch: Sequence[Spooled]) -> Delivery:
        if not PREFECT_API_URL.value():
            # Prefect would start a temporary server here, which no automation listens to.
            raise SinkDown("PREFECT_API_URL is not set")
        try:
            with anyio.fail_after(DELIVERY_SECONDS):
                await self._post([event_of(callback) for _, callback in batch])
        except Exception as error:
            # Whatever Prefect's client raises, these events are still to be delivered.
            await self.aclose()
            raise SinkDown(f"the Prefect API takes no events ({describe_failure(error)})") from None
        await anyio.sleep(len(batch) / EVENTS_PER_SECOND)
        return Delivery([number for number, _ in batch])

    async def aclose(self) -> None:
        self._client = None
        await self._connections.aclose()

    async def _post(self, events: list[dict[str, Any]]) -> None:
        if self._client is None:
            self._client = await self._connections.enter_async_context(get_client())
        await post_events(self._client, events)


def event_of(callback: ReceivedCallback) -> dict[str, Any]:
    """The event that stands for a callback, as the Prefect API takes it."""
    received_at = callback.received_at.isoformat()
    return {
        "id": str(callback.event_id),
        "event": CALLBACK_RECEIVED,
        "occurred": received_at,
        "resource": resource_of(callback.task_id, callback.job_key),
        "related": [related_job(callback.job_key)] if callback.job_key else [],
        "payload": {
            "task_id": callback.task_id,
            "status": callback.status.name,
            "error_code": callback.error_code,
            "error_message": callback.error_message,
            "job_key": callback.job_key,
            "received_at": received_at,
        },
    }
