"""The Prefect tasks, each named after the generation task that it is about.

A Prefect task run is made for each generation task of a small batch, and for each group of a large
one: at 4 ms of CPU a run, one for every image would cost as much as landing it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed
from prefect.tasks import exponential_backoff

from nanobanana_blocks.account_budget import sharing_account_budget
from nanobanana_blocks.background import cancelled_by_sigterm
from nanobanana_blocks.credentials import load_credentials
from nanobanana_blocks.errors import NanoBananaError, WaitTimedOut
from nanobanana_blocks.events import OutcomeEvents, telling_outcomes
from nanobanana_blocks.generation import GenerationRequest
from nanobanana_blocks.image_store import ImageStore, load_store
from nanobanana_blocks.landing import Landing, Placement, open_landing, side_by_side
from nanobanana_blocks.models import LandingOutcome, TaskDetails
from nanobanana_blocks.schedule import PollPolicy

T = TypeVar("T")

TASK_RUN_EACH = 50
"""Batches of up to so many generation tasks get a Prefect task run for each."""

MOST_GROUPS = 20
MOST_WARNINGS = 50


def may_succeed_later(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect should retry: the error says so, and a whole wait has not passed already."""
    error = state.data
    return getattr(error, "retryable", False) and not isinstance(error, WaitTimedOut)


RETRIES: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_succeed_later,
}


@task(task_run_name="look at {task_id}", **RETRIES)
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


@task(task_run_name="wait for {task_id}", **RETRIES)
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


@task(task_run_name="land {task_id}", **RETRIES)
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
    async with opening_landing(
        [task_id], destination, credentials, timeout=timeout, poll=poll, overwrite=overwrite
    ) as landing:
        outcome = await landing.land(task_id)
        if task_id in landing.errors:
            raise landing.errors[task_id]
        return outcome


@task(task_run_name="submit to {request.endpoint.value}", **RETRIES)
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


@asynccontextmanager
async def opening_landing(
    task_ids: list[str],
    destination: str | ImageStore,
    credentials: str,
    *,
    timeout: float = 900.0,
    poll: PollPolicy | None = None,
    overwrite: bool = False,
) -> AsyncIterator[Landing]:
    """Turn the names that a flow takes into what landing needs, and close it all at the end.

    Raises:
        NanoBananaError: Something cannot be meant, is missing, or cannot be written to.
    """
    store = destination if isinstance(destination, ImageStore) else await load_store(destination)
    client = (await load_credentials(credentials)).get_client()
    async with (
        cancelled_by_sigterm(),
        client,
        await store.open() as place,
        telling_outcomes() as events,
        open_landing(
            task_ids,
            client,
            place,
            timeout=timeout,
            poll=poll,
            overwrite=overwrite,
            keep_prompts=store.keep_prompts,
            on_outcome=Storyteller(len(set(task_ids)), events),
        ) as landing,
        sharing_account_budget(credentials, client.budget),
    ):
        yield landing


async def land_in_task_runs(landing: Landing) -> None:
    """Land all tasks of a landing, in Prefect task runs that a person can follow.

    Raises:
        NanoBananaError: What concerns the whole run, such as a refused key; raised once.
    """
    task_ids = landing.unique_task_ids
    get_run_logger().info(
        "Landing %s generation tasks in %s", f"{len(task_ids):,}", landing.destination.path
    )
    if len(task_ids) <= TASK_RUN_EACH:
        runs: list[Any] = [_land_one(task_id, landing, return_state=True) for task_id in task_ids]
    else:
        runs = [
            _land_group(first, group, landing, return_state=True)
            for first, group in in_groups(task_ids)
        ]
    await run_side_by_side(runs)
    if landing.stopped_by:
        raise landing.stopped_by


def in_groups(items: Sequence[T]) -> list[tuple[int, Sequence[T]]]:
    """Split many items into groups for a Prefect task run each, with the number of each's first."""
    size = max(TASK_RUN_EACH, math.ceil(len(items) / MOST_GROUPS))
    return [(start + 1, items[start : start + size]) for start in range(0, len(items), size)]


async def run_side_by_side(runs: Iterable[Coroutine[Any, Any, State[Any]]]) -> None:
    """Run Prefect task runs at the same time."""
    # Starting a task run takes Prefect some 15 ms on the event loop.
    await side_by_side(runs, started_at_once=1)


async def land_what_is_done(
    landing: Landing, placed: Mapping[str, Placement] | None = None
) -> None:
    """Ask once about all tasks of a landing and land those that are done; log the others.

    Args:
        landing: The landing.
        placed: Where the files of a task go, where not under its id.

    Raises:
        NanoBananaError: What concerns the whole run, such as a refused key.
    """
    await landing.land_each(landing.unique_task_ids, placed=placed, wait=False)
    report = landing.report()
    logger = get_run_logger()
    logger.info("%s, in %s", report.describe(), report.destination)
    for outcome in report.not_landed[:MOST_WARNINGS]:
        logger.warning("%s %s", outcome.task_id, outcome.describe())


@task(name="land", task_run_name="land {task_id}", **RETRIES)
async def _land_one(task_id: str, landing: Landing) -> State[Any]:
    try:
        outcome = await landing.land(task_id)
    except NanoBananaError as error:
        return Cancelled(message=f"Not landed: {error}")
    if failure := landing.errors.get(task_id):
        name = "TimedOut" if isinstance(failure, WaitTimedOut) else "Failed"
        return Failed(name=name, message=str(failure), data=failure)
    return Completed(message=outcome.describe())


@task(name="land-group", task_run_name="land {first} and on", cache_policy=NO_CACHE)
async def _land_group(first: int, task_ids: Sequence[str], landing: Landing) -> State[Any]:
    try:
        await landing.land_each(task_ids)
    except NanoBananaError as error:
        return Cancelled(message=f"Not all landed: {error}")
    missing = [landing.errors[task_id] for task_id in task_ids if task_id in landing.errors]
    landed = len(task_ids) - len(missing)
    if missing:
        return Failed(message=f"{landed} in storage, {len(missing)} not. First: {missing[0]}")
    return Completed(message=f"{landed} in storage, {first} to {first + landed - 1}")


class Storyteller:
    """Tells Prefect's events, and for large batches the log, what became of each task.

    A small batch has a task run for each, whose end is logged anyway.
    """

    def __init__(self, total: int, events: OutcomeEvents) -> None:
        self._events = events
        self._total = total
        self._settled = 0
        self._warnings = 0

    def __call__(self, outcome: LandingOutcome) -> None:
        self._events.tell(outcome)
        self._settled += 1
        if self._total <= TASK_RUN_EACH:
            return
        if not outcome.in_storage and self._warnings < MOST_WARNINGS:
            self._warnings += 1
            get_run_logger().warning("%s %s", outcome.label, outcome.describe())
        if self._settled % (self._total // 10) == 0:
            get_run_logger().info("%s of %s settled", f"{self._settled:,}", f"{self._total:,}")
