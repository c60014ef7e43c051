"""The Prefect events that people hang automations on; emitting one never fails or delays a run."""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

from nanobanana_blocks.models import LandingOutcome, LandingStatus

CALLBACK_RECEIVED = "nanobanana.callback.received"
IMAGE_LANDED = "nanobanana.image.landed"
TASK_FAILED = "nanobanana.task.failed"


_RESOURCE = "nanobanana.task."


def resource_of(task_id: str) -> dict[str, str]:
    """The event resource that stands for a generation task."""
    return {"prefect.resource.id": f"{_RESOURCE}{task_id}", "prefect.resource.name": task_id}


def task_id_of(resource_id: str) -> str:
    """The generation task that an event resource stands for."""
    return resource_id.removeprefix(_RESOURCE)


def emit_outcome(outcome: LandingOutcome) -> None:
    """Emit one event for each image landed, or one for a failure that a re-run will not mend."""
    if outcome.status is LandingStatus.LANDED:
        for image in outcome.images:
            _emit(IMAGE_LANDED, outcome.task_id, image.model_dump())
    elif outcome.status is LandingStatus.FAILED and outcome.error and not outcome.error.retryable:
        _emit(TASK_FAILED, outcome.task_id, outcome.error.model_dump())


def _emit(event: str, task_id: str, payload: dict[str, Any]) -> None:
    emit_event(event=event, resource=resource_of(task_id), payload={"task_id": task_id, **payload})
