"""The Prefect tasks for flows of your own."""

from nanobanana_blocks.orchestration.runs.tasks import (
    get_task_details,
    land_task,
    submit_generation,
    wait_for_task,
)

__all__ = ["get_task_details", "land_task", "submit_generation", "wait_for_task"]
