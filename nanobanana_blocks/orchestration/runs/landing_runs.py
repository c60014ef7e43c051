"""The Prefect tasks, each named after the generation task that it is about.

A Prefect task run is made for each generation task of a small batch, and for each group of a large
one: at 4 ms of CPU a run, one for every image would cost as much as landing it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from prefect import State, task
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.batches.task_files import read_task_ids
from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import (
    DestinationError,
    InvalidInput,
    NanoBananaError,
    WaitTimedOut,
)
from nanobanana_blocks.garbage import short_collections
from nanobanana_blocks.landing.generation_times import remembering
from nanobanana_blocks.landing.lander import Lander, Placement, open_lander
from nanobanana_blocks.landing.provenance import Provenance
from nanobanana_blocks.landing.report import LandingOutcome
from nanobanana_blocks.orchestration.account_budget import sharing_account_budget
from nanobanana_blocks.orchestration.account_memory import AccountMemory
from nanobanana_blocks.orchestration.blocks.credentials import load_credentials
from nanobanana_blocks.orchestration.blocks.image_store import ImageStore, load_store
from nanobanana_blocks.orchestration.observability.events import OutcomeEvents, posting_outcomes
from nanobanana_blocks.orchestration.runs.retries import RETURNS_ITS_STATE
from nanobanana_blocks.orchestration.runs.scheduled_day import scheduled_day
from nanobanana_blocks.signals import cancelled_by_sigterm
from nanobanana_blocks.storage.locations import Location

T = TypeVar("T")

TASK_RUN_EACH = 50
"""Batches of up to so many generation tasks get a Prefect task run for each."""

MAX_GROUPS = 20
MAX_WARNINGS = 50


@asynccontextmanager
async def opening_lander(
    task_ids: list[str] | str,
    destination: str | ImageStore,
    credentials: str,
    *,
    timeout: float = 900.0,
    poll: PollPolicy | None = None,
    overwrite: bool = False,
    timezone: str = "UTC",
) -> AsyncIterator[Lander]:
    """Turn the names that a flow takes into what landing needs, and close it all at the end.

    Args:
        task_ids: The generation tasks, or the path or URL of a file of them.
        destination: A path, an fsspec URL, the name of a saved block, or a store.
        credentials: Name of a saved block.
        timeout: Seconds to wait for each task.
        poll: When to ask the API.
        overwrite: Land again what has landed already.
        timezone: Time zone of the run's scheduled day, which {date} in the destination means.

    Raises:
        NanoBananaError: Something is invalid, is missing, or cannot be written to.
    """
    if not isinstance(destination, ImageStore):
        destination = (await load_store(destination)).for_date(scheduled_day(timezone))
    store = destination
    if isinstance(task_ids, str):
        task_ids = await _ids_in_file(task_ids, store)
    client = (await load_credentials(credentials)).get_client()
    async with (
        cancelled_by_sigterm(),
        short_collections(),
        client,
        await store.open() as place,
        posting_outcomes() as events,
        open_lander(
            task_ids,
            client,
            place,
            timeout=timeout,
            poll=poll,
            overwrite=overwrite,
            keep_prompts=store.keep_prompts,
            on_outcome=OutcomeReporter(len(set(task_ids)), events),
            facts=Provenance(flow_run=flow_run.id),
        ) as landing,
        remembering(store.location, client, poll, account=AccountMemory(credentials)),
        sharing_account_budget(credentials, client.budget),
    ):
        yield landing


async def _ids_in_file(url: str, store: ImageStore) -> list[str]:
    same = Location.parse(url).protocol == Location.parse(store.url).protocol
    options = store.storage_options.get_secret_value() if same else None
    try:
        return await read_task_ids(url, options)
    except DestinationError as error:
        raise InvalidInput(
            "task_ids takes a list of ids, or the path or URL of a file that holds them. Taken as "
            f"a file: {error.message}"
        ) from None


async def land_in_task_runs(landing: Lander) -> None:
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
    await run_task_runs_concurrently(runs)
    if landing.abort_error:
        raise landing.abort_error


def in_groups(items: Sequence[T]) -> list[tuple[int, Sequence[T]]]:
    """Split many items into groups for a Prefect task run each, with the number of each's first."""
    size = max(TASK_RUN_EACH, math.ceil(len(items) / MAX_GROUPS))
    return [(start + 1, items[start : start + size]) for start in range(0, len(items), size)]


async def run_task_runs_concurrently(runs: Iterable[Coroutine[Any, Any, State[Any]]]) -> None:
    """Run Prefect task runs at the same time."""
    # Starting a task run takes Prefect some 15 ms on the event loop.
    await run_concurrently(runs, started_at_once=1)


async def land_what_is_done(landing: Lander, placed: Mapping[str, Placement] | None = None) -> None:
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
    for outcome in report.not_landed[:MAX_WARNINGS]:
        logger.warning("%s %s", outcome.task_id, outcome.describe())


@task(name="land", task_run_name="land {task_id}", **RETURNS_ITS_STATE)
async def _land_one(task_id: str, landing: Lander) -> State[Any]:
    try:
        outcome = await landing.land(task_id)
    except NanoBananaError as error:
        return Cancelled(message=f"Not landed: {error}")
    if failure := landing.errors.get(task_id):
        name = "TimedOut" if isinstance(failure, WaitTimedOut) else "Failed"
        return Failed(name=name, message=str(failure), data=failure)
    return Completed(message=outcome.describe())


@task(name="land-group", task_run_name="land {first} and on", **RETURNS_ITS_STATE)
async def _land_group(first: int, task_ids: Sequence[str], landing: Lander) -> State[Any]:
    try:
        await landing.land_each(task_ids)
    except NanoBananaError as error:
        return Cancelled(message=f"Not all landed: {error}")
    missing = [landing.errors[task_id] for task_id in task_ids if task_id in landing.errors]
    landed = len(task_ids) - len(missing)
    if missing:
        return Failed(message=f"{landed} in storage, {len(missing)} not. First: {missing[0]}")
    return Completed(message=f"{landed} in storage, {first} to {first + landed - 1}")


class OutcomeReporter:
    """Tells Prefect's events, and for large batches the log, what became of each task.

    A small batch has a task run for each, whose end is logged anyway.
    """

    def __init__(self, total: int, events: OutcomeEvents) -> None:
        self._events = events
        self._total = total
        self._settled = 0
        self._warnings = 0

    def __call__(self, outcome: LandingOutcome) -> None:
        self._events.add(outcome)
        self._settled += 1
        if self._total <= TASK_RUN_EACH:
            return
        if not outcome.in_storage and self._warnings < MAX_WARNINGS:
            self._warnings += 1
            get_run_logger().warning("%s %s", outcome.label, outcome.describe())
        if self._settled % (self._total // 10) == 0:
            get_run_logger().info("%s of %s settled", f"{self._settled:,}", f"{self._total:,}")
