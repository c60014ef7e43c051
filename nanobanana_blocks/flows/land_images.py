"""The main flow: wait for generation tasks and land their images, each as soon as it is ready."""

from __future__ import annotations

from typing import Any

from prefect.runtime import flow_run

from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.landing.report import LandingReport
from nanobanana_blocks.orchestration.observability.artifacts import publish_report
from nanobanana_blocks.orchestration.observability.progress import showing_progress
from nanobanana_blocks.orchestration.observability.wakeups import waking_on_callbacks
from nanobanana_blocks.orchestration.runs.landing_runs import land_in_task_runs, opening_lander
from nanobanana_blocks.orchestration.runs.parameters import bounded_flow
from nanobanana_blocks.orchestration.runs.sync import sync_flow
from nanobanana_blocks.storage.locations import redact


def name_run() -> str:
    """Name a run after what it does: ``12 tasks to s3://bucket/folder``."""
    parameters: dict[str, Any] = flow_run.parameters
    task_ids = parameters["task_ids"]
    if isinstance(task_ids, str):
        what = f"tasks of {redact(task_ids)}"
    else:
        what = task_ids[0] if len(task_ids) == 1 else f"{len(task_ids)} tasks"
    return f"{what} to {redact(parameters['destination'])}"


@bounded_flow(name="land-images", flow_run_name=name_run)
async def land_images(
    task_ids: list[str] | str,
    destination: str = "images",
    credentials: str = "default",
    timeout: float = 900.0,
    poll: PollPolicy = PollPolicy(),  # noqa: B008  # frozen, and Prefect shows it in the form
    overwrite: bool = False,
    allow_partial: bool = False,
    timezone: str = "UTC",
) -> LandingReport:
    """Wait for generation tasks and land every finished image in storage, verified, once.

    What has a receipt at the destination already is not fetched again, so running again, or
    Prefect's Retry, does only what is missing. A callback that the receiver has forwarded wakes
    the wait for its task.

    Args:
        task_ids: Ids of the generation tasks, as the API gave them; or the path or URL of a file of
            them, for more than some 15,000, which is what Prefect takes as a parameter: text with
            an id a line, CSV with a column task_id, JSONL or JSON.
        destination: A path, an fsspec URL such as s3://bucket/folder, or the name of a saved
            ImageStore block; {date} in it is the day on which the run was scheduled.
        credentials: Name of a saved NanoBananaCredentials block; where there is none of that name,
            the worker's NANOBANANA_API_KEY and NANOBANANA_BASE_URL are used.
        timeout: Seconds to wait for each generation task.
        poll: When to ask the API.
        overwrite: Land again what has landed already, and replace other programs' files in the way.
        allow_partial: End as Completed even when not every image has landed.
        timezone: Time zone of that day, such as Europe/Berlin.

    Returns:
        What became of each generation task, in the order asked.

    Raises:
        IncompleteLanding: Not everything landed and `allow_partial` is off.
        NanoBananaError: Something is invalid, is missing, or refuses; nothing was begun.
    """
    async with opening_lander(
        task_ids,
        destination,
        credentials,
        timeout=timeout,
        poll=poll,
        overwrite=overwrite,
        timezone=timezone,
    ) as landing:
        progress = showing_progress(landing.expected, lambda: len(landing.outcomes))
        async with progress, waking_on_callbacks(landing):
            await land_in_task_runs(landing)
        report = landing.report()
        await publish_report(report, landing)
    return report if allow_partial else report.raise_unless_complete()


land_images_sync = sync_flow(land_images)
