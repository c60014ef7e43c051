"""A parent's child runs as Prefect has them: started, followed, cancelled; it knows no batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import anyio
from prefect import State
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import FlowRunContext
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelling

from nanobanana_blocks.concurrency import background_task, restarting
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.orchestration.observability.optional import PREFECT_FAILED

PARENT_SECONDS = 10.0
REQUEST_SECONDS = 10.0
"""For one question to Prefect: its client alone would retry for over a minute."""

CANCELLED_SECONDS = 15.0
"""How long a parent that is cancelled waits for its child runs: Prefect kills it after 30."""


async def start(
    deployment: str, parameters: dict[str, Any], *, name: str, idempotency_key: str
) -> UUID:
    """Start a child run of this run, once for an idempotency key, and return its id.

    Raises:
        InvalidInput: There is no such deployment.
    """
    try:
        run = await arun_deployment(
            deployment,
            parameters=parameters,
            flow_run_name=name,
            idempotency_key=idempotency_key,
            timeout=0,
        )
    except ObjectNotFound:
        raise InvalidInput(
            f"there is no deployment {deployment!r} for the child runs: "
            "`prefect --no-prompt deploy --all` makes it. Or run with shards=1."
        ) from None
    return run.id


async def states_of(
    prefect: PrefectClient, run_ids: Iterable[UUID], *, seconds: float = REQUEST_SECONDS
) -> dict[UUID, State[Any]] | None:
    """The states of those runs that there are; None where Prefect does not answer in time."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(run_ids)))
    try:
        with anyio.fail_after(seconds):
            found = await prefect.read_flow_runs(flow_run_filter=wanted)
    except PREFECT_FAILED:
        return None
    return {run.id: run.state for run in found if run.state}


async def cancel(
    prefect: PrefectClient, run_ids: Iterable[UUID], *, seconds: float = REQUEST_SECONDS
) -> bool:
    """Ask once for the end of the runs that have not ended; whether Prefect took it for each."""
    states = await states_of(prefect, run_ids, seconds=seconds)
    if states is None:
        return False
    try:
        with anyio.fail_after(seconds):
            for run_id, state in states.items():
                if not state.is_final() and not state.is_cancelling():
                    await prefect.set_flow_run_state(run_id, Cancelling())
    except PREFECT_FAILED:
        return False
    return True


async def cancel_and_wait(prefect: PrefectClient, run_ids: Collection[UUID]) -> None:
    """Cancel runs and wait until they have ended, within the time that a cancelled parent has."""
    with anyio.move_on_after(CANCELLED_SECONDS):
        while True:
            if await cancel(prefect, run_ids) and await _have_ended(prefect, run_ids):
                return
            await anyio.sleep(1)


async def _have_ended(prefect: PrefectClient, run_ids: Iterable[UUID]) -> bool:
    states = await states_of(prefect, run_ids)
    return states is not None and all(state.is_final() for state in states.values())


@asynccontextmanager
async def ending_with_parent(pause_seconds: float = PARENT_SECONDS) -> AsyncIterator[None]:
    """Have this child run cancelled when its parent is, also one that could not say so any more."""
    log = get_run_logger()
    async with get_client() as prefect:
        follow = partial(_follow_parent, prefect, pause_seconds)
        async with background_task(restarting(follow, pause=pause_seconds, log=log), log=log):
            yield


async def _follow_parent(prefect: PrefectClient, pause: float) -> None:
    context = FlowRunContext.get()
    this_run = context.flow_run if context else None
    if this_run is None or this_run.parent_task_run_id is None:
        return
    # Prefect's own `runtime.flow_run` would ask in another thread, and block this event loop.
    parent_id = (await prefect.read_task_run(this_run.parent_task_run_id)).flow_run_id
    if parent_id is None:
        return
    while True:
        parents = await states_of(prefect, [parent_id]) or {}
        is_ending = any(s.is_cancelled() or s.is_cancelling() for s in parents.values())
        if is_ending and await cancel(prefect, [this_run.id]):
            return
        await anyio.sleep(pause)
