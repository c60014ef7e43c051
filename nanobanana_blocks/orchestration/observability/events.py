"""The Prefect events that people hang automations on; posting them never fails or delays a run.

Events go to Prefect's API in batches, which costs a fraction of Prefect's own `emit_event`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.related import related_resources_from_run_context
from prefect.logging import get_run_logger

from nanobanana_blocks.batches.job_keys import BATCH_JOB_PREFIX
from nanobanana_blocks.concurrency import background_task, restarting
from nanobanana_blocks.landing.report import LandingOutcome, LandingStatus
from nanobanana_blocks.orchestration.observability.optional import PREFECT_FAILED

CALLBACK_RECEIVED = "nanobanana.callback.received"
IMAGE_LANDED = "nanobanana.image.landed"
TASK_FAILED = "nanobanana.task.failed"

BATCH = 100
BATCH_SECONDS = 1.0
LAST_BATCH_SECONDS = 5.0


_RESOURCE = "nanobanana.task."
_JOB_RESOURCE = "nanobanana.job."
_OF_A_BATCH = " (batch)"
"""How the names of their resources end; prefect.yaml's trigger leaves those events out by it."""


def resource_of(task_id: str, job_key: str | None = None) -> dict[str, str]:
    """The event resource that stands for a generation task, submitted under a job key."""
    of_a_batch = job_key is not None and job_key.startswith(BATCH_JOB_PREFIX)
    return {
        "prefect.resource.id": f"{_RESOURCE}{task_id}",
        "prefect.resource.name": f"{task_id}{_OF_A_BATCH if of_a_batch else ''}",
    }


def task_id_of(resource_id: str) -> str:
    """The generation task that an event resource stands for."""
    return resource_id.removeprefix(_RESOURCE)


def related_job(job_key: str) -> dict[str, str]:
    """The related resource that stands for the submit whose callback an event is about."""
    return {"prefect.resource.id": job_id_of(job_key), "prefect.resource.role": "nanobanana-job"}


def job_id_of(job_key: str) -> str:
    """The id of the resource that stands for a submit."""
    return f"{_JOB_RESOURCE}{job_key}"


async def post_events(prefect: PrefectClient, events: list[dict[str, Any]]) -> None:
    """Give events to Prefect's API and wait until it has taken them."""
    (await prefect.request("POST", "/events", json=events)).raise_for_status()


class OutcomeEvents:
    """Posts an event for each image landed, and for each task that failed permanently."""

    def __init__(self, prefect: PrefectClient) -> None:
        self._prefect = prefect
        self._related: list[dict[str, str]] = []
        self._waiting: list[dict[str, Any]] = []

    def add(self, outcome: LandingOutcome) -> None:
        """Have the events of an outcome posted soon."""
        self._waiting += [
            {
                "id": str(uuid4()),
                "event": event,
                "occurred": datetime.now(UTC).isoformat(),
                "resource": resource_of(outcome.task_id),
                "payload": {"task_id": outcome.task_id, **payload},
            }
            for event, payload in _events_of(outcome)
        ]

    async def post_regularly(self) -> None:
        """Post what has come together, about once a second, for ever."""
        while True:
            await anyio.sleep(BATCH_SECONDS)
            await self.post_waiting()

    async def post_waiting(self) -> None:
        """Post what has come together; what Prefect does not take now stays for the next time.

        What is posted again because its answer was lost has the same id, which Prefect knows then.
        """
        with suppress(*PREFECT_FAILED):
            while batch := self._waiting[:BATCH]:
                related = await self._related_to_run()
                await post_events(self._prefect, [event | {"related": related} for event in batch])
                del self._waiting[: len(batch)]

    async def post_rest(self) -> None:
        """Post what is left, and log how much could not be."""
        with anyio.move_on_after(LAST_BATCH_SECONDS):
            await self.post_waiting()
        if self._waiting:
            get_run_logger().warning("Prefect did not take %s events", len(self._waiting))

    async def _related_to_run(self) -> list[dict[str, str]]:
        if not self._related:
            found = await related_resources_from_run_context(self._prefect)
            self._related = [dict(resource) for resource in found]
        return self._related


@asynccontextmanager
async def posting_outcomes() -> AsyncIterator[OutcomeEvents]:
    """Post the events of outcomes for as long as the context lasts; the last ones at its end."""
    log = get_run_logger()
    async with get_client() as prefect:
        outcomes = OutcomeEvents(prefect)
        try:
            async with background_task(restarting(outcomes.post_regularly, log=log), log=log):
                yield outcomes
        finally:
            await outcomes.post_rest()


def _events_of(outcome: LandingOutcome) -> Iterator[tuple[str, dict[str, Any]]]:
    if not outcome.task_id:
        return
    if outcome.status is LandingStatus.LANDED:
        for image in outcome.images:
            yield IMAGE_LANDED, image.model_dump()
    elif outcome.status is LandingStatus.FAILED and outcome.error and not outcome.error.retryable:
        yield TASK_FAILED, outcome.error.model_dump()
