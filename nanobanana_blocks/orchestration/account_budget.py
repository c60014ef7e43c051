"""Shares one account's request budget among all runs, through a Prefect global concurrency limit.

The limit stands for the account: its slots are requests per second. Each run at work takes an equal
share of them all, so what the runs send together stays evenly spaced whatever their number, at the
cost of a request every few seconds. Change the rate by changing the limit.

Which runs are at work is kept in a second limit, that of a task run tag, in which each of them
leases a slot: only of such limits does Prefect say who holds a lease. The number of active slots
alone would not do: the leases are in the server's memory by default, the number is in its database,
so a restart of the server leaves slots behind that nobody gives back. A run that died is no longer
counted within about a minute; one whose lease is gone leases anew.

(Slots that decay, Prefect's own rate limits, do not serve: in Prefect 3.8 every refusal also starts
their decay anew, so runs that wait for one another starve. This, and what is said of leases, was
read in its source.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID, uuid4

import anyio
import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import (
    ConcurrencyLimitWithLeaseResponse,
    GlobalConcurrencyLimitResponse,
)
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException
from prefect.logging import get_run_logger

from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.concurrency import background_task, restarting
from nanobanana_blocks.errors import InvalidInput

KEPT_BACK = 0.05
"""Part of the budget left unused: requests may arrive closer together than they were sent."""

MAX_REFRESH_SECONDS = 10.0
LEAVE_SECONDS = 3.0
"""How long a run that ends tries to give its slot back; where it cannot, its lease runs out."""

LEASE_SECONDS = 60.0
"""The shortest that Prefect takes."""

MAX_RUNS = 1_000_000
PREFECT_FAILED = (PrefectException, httpx.HTTPError, OSError, ValueError)


@dataclass
class Pace:
    """When a run looks at who else is at work, in seconds.

    Attributes:
        refresh: Between two looks.
        settle: For how long a run that joins others waits until they have made room.
        regather: For how long a run that has just leased its slot also counts slots that nobody
            holds: after a restart of Prefect's server, those who held them may be about to lease
            anew.
    """

    refresh: float = 4.0
    settle: float = 5.0
    regather: float = 60.0


def budget_name(credentials: str) -> str:
    """The name of the global concurrency limit of the account behind a credentials block."""
    return f"nanobanana-{credentials}"


async def ensure_account_budget(credentials: str, requests_per_second: float) -> int:
    """Make the account's limit where there is none, and return how many runs are worth having.

    The rate of one that is there already stays.

    Raises:
        InvalidInput: The limit is 0.
    """
    wanted = GlobalConcurrencyLimitCreate(
        name=budget_name(credentials),
        limit=max(1, int(requests_per_second)),
        active=True,
        slot_decay_per_second=0,
    )
    async with get_client() as prefect:
        with suppress(ObjectAlreadyExists):
            if await _limit(prefect, credentials) is None:
                await prefect.create_global_concurrency_limit(wanted)
        limit = await _limit_in_force(prefect, credentials)
    return limit.limit if limit else wanted.limit


@asynccontextmanager
async def sharing_account_budget(
    credentials: str, budget: RequestBudget, pace: Pace | None = None
) -> AsyncIterator[None]:
    """Keep a run's budget within its share of the account's, where the account has a limit.

    While Prefect cannot be reached, or the limit is 0, the share stays what it was.

    Raises:
        InvalidInput: The limit is 0 at the beginning.
    """
    pace = pace or Pace()
    own = budget.allowed
    async with get_client() as prefect:
        limit = await _limit_in_force(prefect, credentials)
        if limit is None:
            yield
            return
        async with _being_at_work(prefect, credentials, pace) as attendance:
            runs = await attendance.count()
            budget.allow(_share(limit, runs, own))
            get_run_logger().info(
                "Sharing %s requests per second with %s other runs (limit %s)",
                limit.limit,
                runs - 1,
                limit.name,
            )
            if runs > 1:
                await anyio.sleep(pace.settle)
            follow = partial(_follow, prefect, credentials, attendance, budget, own, pace.refresh)
            log = get_run_logger()
            async with background_task(restarting(follow, log=log), log=log):
                yield


async def _follow(
    prefect: PrefectClient,
    credentials: str,
    attendance: _Attendance,
    budget: RequestBudget,
    own: float,
    pause: float,
) -> None:
    while True:
        await anyio.sleep(pause)
        with suppress(*PREFECT_FAILED), anyio.fail_after(MAX_REFRESH_SECONDS):
            runs = await attendance.count()
            limit = await _limit(prefect, credentials)
            if limit and limit.limit:
                budget.allow(_share(limit, runs, own))


def _share(limit: GlobalConcurrencyLimitResponse, runs: int, own: float) -> float:
    """Requests per second for one of the runs at work."""
    return min(own, (1 - KEPT_BACK) * limit.limit / runs) if limit.active else own


class _Attendance:
    """One run's slot among those of all runs of an account that are at work."""

    def __init__(self, prefect: PrefectClient, credentials: str, pace: Pace) -> None:
        self._pace = pace
        self._prefect = prefect
        self._tag = f"{budget_name(credentials)}-runs"
        self._name = f"tag:{self._tag}"
        self._holder = ConcurrencyLeaseHolder(type="task_run", id=uuid4())
        self._lease: UUID | None = None
        self._leased_at = 0.0

    async def count(self) -> int:
        """How many runs are at work, this one included, whose lease is renewed or made anew."""
        await self._keep_slot()
        slots = await self._active_slots()
        holders = await self._holders()
        if self._holder.id not in holders:  # a server that does not say who holds leases
            return max(slots, 1)
        if asyncio.get_running_loop().time() < self._leased_at + self._pace.regather:
            return max(slots, len(holders))
        if slots != len(holders):
            await self._prefect.update_global_concurrency_limit(
                self._name, GlobalConcurrencyLimitUpdate(active_slots=len(holders))
            )
        return len(holders)

    async def leave(self) -> None:
        """Give the slot back."""
        if self._lease:
            await self._prefect.release_concurrency_slots_with_lease(self._lease)

    async def _keep_slot(self) -> None:
        if self._lease is None:
            await self._lease_slot()
            return
        try:
            await self._prefect.renew_concurrency_lease(self._lease, LEASE_SECONDS)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.GONE:
                raise
            await self._lease_slot()

    async def _lease_slot(self) -> None:
        await self._make_limit()
        granted = await self._prefect.increment_concurrency_slots_with_lease(
            names=[self._name],
            slots=1,
            mode="concurrency",
            lease_duration=LEASE_SECONDS,
            holder=self._holder,
        )
        self._lease = ConcurrencyLimitWithLeaseResponse.model_validate(granted.json()).lease_id
        self._leased_at = asyncio.get_running_loop().time()

    async def _make_limit(self) -> None:
        wanted = GlobalConcurrencyLimitCreate(
            name=self._name, limit=MAX_RUNS, active=True, slot_decay_per_second=0
        )
        try:
            await self._prefect.read_global_concurrency_limit_by_name(self._name)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):
                await self._prefect.create_global_concurrency_limit(wanted)

    async def _active_slots(self) -> int:
        try:
            limit = await self._prefect.read_global_concurrency_limit_by_name(self._name)
        except ObjectNotFound:
            self._lease = None  # somebody deleted the limit: the next refresh makes it again
            raise
        return limit.active_slots

    async def _holders(self) -> set[UUID]:
        try:
            return set((await self._prefect.read_concurrency_limit_by_tag(self._tag)).active_slots)
        except ObjectNotFound:
            return set()


@asynccontextmanager
async def _being_at_work(
    prefect: PrefectClient, credentials: str, pace: Pace
) -> AsyncIterator[_Attendance]:
    attendance = _Attendance(prefect, credentials, pace)
    try:
        yield attendance
    finally:
        with suppress(*PREFECT_FAILED), anyio.move_on_after(LEAVE_SECONDS, shield=True):
            await attendance.leave()


async def _limit_in_force(
    prefect: PrefectClient, credentials: str
) -> GlobalConcurrencyLimitResponse | None:
    limit = await _limit(prefect, credentials)
    if limit is None or not limit.active:
        return None
    if not limit.limit:
        raise InvalidInput(
            f"the global concurrency limit {limit.name} is 0: the account is paused. Give it the "
            f"account's requests per second: prefect gcl update {limit.name} --limit 20"
        )
    return limit


async def _limit(prefect: PrefectClient, credentials: str) -> GlobalConcurrencyLimitResponse | None:
    try:
        return await prefect.read_global_concurrency_limit_by_name(budget_name(credentials))
    except ObjectNotFound:
        return None
