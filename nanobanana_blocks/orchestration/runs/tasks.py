"""The Prefect tasks for flows of your own; a run is named after its generation task."""

from __future__ import annotations

from nanobanana_blocks.api.details import TaskDetails
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.landing.report import LandingOutcome
from nanobanana_blocks.orchestration.blocks.credentials import load_credentials
from nanobanana_blocks.orchestration.runs.landing_runs import opening_lander
from nanobanana_blocks.orchestration.runs.retries import RETRIES
from nanobanana_blocks.orchestration.runs.sync import async_task, sync_task


@async_task(task_run_name="poll {task_id}", **RETRIES)
async def get_task_details(task_id: str, credentials: str = "default") -> TaskDetails:
    """Ask record-info about one generation task, once.

    Args:
        task_id: The generation task.
        credentials: Name of a saved `NanoBananaCredentials` block.

    Raises:
        MissingCredentials: No such block is saved, nor is `NANOBANANA_API_KEY` set.
        APIError: One of its subclasses.
    """
    async with (await load_credentials(credentials)).get_client() as client:
        return await client.get_task_details(task_id)


@async_task(task_run_name="wait for {task_id}", **RETRIES)
async def wait_for_task(
    task_id: str,
    credentials: str = "default",
    timeout: float = 900.0,
    poll: PollPolicy | None = None,
) -> TaskDetails:
    """Wait until a generation task has succeeded.

    Args:
        task_id: The generation task.
        credentials: Name of a saved `NanoBananaCredentials` block.
        timeout: Seconds to wait at most.
        poll: When to ask.

    Raises:
        GenerationFailed: It ended without an image.
        WaitTimedOut: It had not ended in time; Prefect shows the run as `TimedOut`.
        MissingCredentials: No such block is saved, nor is `NANOBANANA_API_KEY` set.
        APIError: A failure that waiting does not mend, or that outlasted its bound.
    """
    async with (await load_credentials(credentials)).get_client() as client:
        return (await client.wait_for_task(task_id, timeout, poll)).raise_for_status()


@async_task(task_run_name="land {task_id}", **RETRIES)
async def land_task(
    task_id: str,
    destination: str = "images",
    credentials: str = "default",
    timeout: float = 900.0,
    poll: PollPolicy | None = None,
    overwrite: bool = False,
) -> LandingOutcome:
    """Wait for one generation task and land its images; for flows of your own.

    Args:
        task_id: The generation task.
        destination: A path, an fsspec URL, or the name of a saved `ImageStore` block.
        credentials: Name of a saved `NanoBananaCredentials` block.
        timeout: Seconds to wait at most.
        poll: When to ask.
        overwrite: Land again what has a receipt already.

    Raises:
        NanoBananaError: The images did not land.
    """
    async with opening_lander(
        [task_id], destination, credentials, timeout=timeout, poll=poll, overwrite=overwrite
    ) as landing:
        outcome = await landing.land(task_id)
        if task_id in landing.errors:
            raise landing.errors[task_id]
        return outcome


@async_task(task_run_name="submit to {request.endpoint.value}", **RETRIES)
async def submit_generation(
    request: GenerationRequest, credentials: str = "default", callback_url: str | None = None
) -> str:
    """Submit a generation task, which costs credits, and return its id; for flows of your own.

    Prefect retries it only where the service has certainly not taken it. A flow that runs again
    submits again: `run_batch` is what remembers.

    Args:
        request: What to generate.
        credentials: Name of a saved `NanoBananaCredentials` block.
        callback_url: Where the service is to post the outcome.

    Raises:
        UnconfirmedSubmit: It is not known whether a task was created, and billed.
        MissingCredentials: No such block is saved, nor is `NANOBANANA_API_KEY` set.
        APIError: Another of its subclasses: no task was created.
    """
    async with (await load_credentials(credentials)).get_client() as client:
        return await client.submit(request, callback_url=callback_url)


get_task_details_sync = sync_task(get_task_details, task_run_name="poll {task_id}", **RETRIES)
wait_for_task_sync = sync_task(wait_for_task, task_run_name="wait for {task_id}", **RETRIES)
land_task_sync = sync_task(land_task, task_run_name="land {task_id}", **RETRIES)
submit_generation_sync = sync_task(
    submit_generation, task_run_name="submit to {request.endpoint.value}", **RETRIES
)
