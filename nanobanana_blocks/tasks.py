"""The Prefect tasks for flows of your own; those that end in `_sync` are for sync flows."""

from nanobanana_blocks.orchestration.runs.tasks import (
    get_task_details,
    get_task_details_sync,
    land_task,
    land_task_sync,
    submit_generation,
    submit_generation_sync,
    wait_for_task,
    wait_for_task_sync,
)

__all__ = [
    "get_task_details",
    "get_task_details_sync",
    "land_task",
    "land_task_sync",
    "submit_generation",
    "submit_generation_sync",
    "wait_for_task",
    "wait_for_task_sync",
]
