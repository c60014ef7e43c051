"""Shares one account's request budget among all runs, through a Prefect global concurrency limit.

The limit stands for the account: its slots are requests per second. A run at work holds one slot
and takes an equal share of them all, so what the runs send together stays evenly spaced whatever
their number, at the cost of a look at the limit every two seconds. Slots are leased: that of a run
that died returns to the others within about a minute. Change the rate by changing the limit.

(Slots that decay, Prefect's own rate limits, do not serve: in Prefect 3.8 every refusal also starts
their decay anew, so runs that wait for one another starve; read in its source.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.asyncio import AcquireConcurrencySlotTimeoutError, concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException
from prefect.logging import get_run_logger

from nanobanana_blocks.budget import RequestBudget
from nanobanana_blocks.errors import NanoBananaError

KEPT_BACK = 0.05
"""Part of the budget left unused: requests may arrive closer together than they were sent."""

LOOK_SECONDS = 2.0
SETTLE_SECONDS = 3.0
"""How long a run that joins others waits until they have made room."""

LEASE_SECONDS = 60.0
TURN_SECONDS = 3600.0
"""How long a run waits for a slot where more runs are at work than the limit has slots."""


def budget_name(credentials: str) -> str:
    """The name of the global concurrency limit of the account behind a credentials block."""
    return f"nanobanana-{credentials}"


async def ensure_account_budget(credentials: str, requests_per_second: float) -> int:
    """Make the account's limit where there is none, and return how many runs it lets work.

    The rate of one that is there already stays.
    """
    wanted = GlobalConcurrencyLimitCreate(
        name=budget_name(credentials),
        limit=max(1, int(requests_per_second)),
        active=True,
        slot_decay_per_second=0,
    )
    async with get_client() as prefect:
        limit = await _limit(prefect, credentials)
        if limit is None:
            with suppress(ObjectAlreadyExists):
                await prefect.create_global_concurrency_limit(wanted)
            limit = await _limit(prefect, credentials)
    return limit.limit if limit else wanted.limit


@asynccontextmanager
async def sharing_account_budget(credentials: str, budget: RequestBudget) -> AsyncIterator[None]:
    """Keep a run's budget within its share of the account's, where the account has a limit.

    Raises:
        NanoBananaError: No slot became free within an hour.
    """
    own = budget.allowed
    async with get_client() as prefect:
        limit = await _limit(prefect, credentials)
        if limit is None or not limit.active:
            yield
            return
        if limit.active_slots >= limit.limit:
            get_run_logger().info("All %s slots of %s are taken: waiting", limit.limit, limit.name)
        async with _holding_a_slot(limit.name):
            joined = await _limit(prefect, credentials) or limit
            budget.allow(_share(joined, own))
            get_run_logger().info(
                "Sharing %s requests per second with %s other runs (limit %s)",
                joined.limit,
                max(joined.active_slots - 1, 0),
                joined.name,
            )
            if joined.active_slots > 1:
                await anyio.sleep(SETTLE_SECONDS)
            follower = asyncio.create_task(_follow(prefect, credentials, budget, own))
            try:
                yield
            finally:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)


@asynccontextmanager
async def _holding_a_slot(name: str) -> AsyncIterator[None]:
    holding = concurrency(
        name,
        lease_duration=LEASE_SECONDS,
        timeout_seconds=TURN_SECONDS,
        raise_on_lease_renewal_failure=False,
    )
    try:
        await holding.__aenter__()
    except AcquireConcurrencySlotTimeoutError:
        raise NanoBananaError(
            f"no slot of the global concurrency limit {name} became free in an hour. Raise the "
            "limit, or run fewer batches at a time."
        ) from None
    try:
        yield
    finally:
        await holding.__aexit__(None, None, None)


async def _follow(
    prefect: PrefectClient, credentials: str, budget: RequestBudget, own: float
) -> None:
    while True:
        await anyio.sleep(LOOK_SECONDS)
        try:
            limit = await _limit(prefect, credentials)
        except (PrefectException, httpx.HTTPError, OSError):
            continue  # the share stays what it was
        if limit:
            budget.allow(_share(limit, own))


def _share(limit: GlobalConcurrencyLimitResponse, own: float) -> float:
    """Requests per second for one of the runs that hold slots."""
    return min(own, (1 - KEPT_BACK) * limit.limit / max(limit.active_slots, 1))


async def _limit(prefect: PrefectClient, credentials: str) -> GlobalConcurrencyLimitResponse | None:
    try:
        return await prefect.read_global_concurrency_limit_by_name(budget_name(credentials))
    except ObjectNotFound:
        return None
