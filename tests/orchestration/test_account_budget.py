"""Runs that share an account share its request budget; against a real Prefect server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.exceptions import ObjectNotFound
from prefect.logging import disable_run_logger

from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.orchestration.account_budget import (
    Pace,
    budget_name,
    ensure_account_budget,
    sharing_account_budget,
)
from tests.support.until import until

CREDENTIALS = "default"
LIMIT = budget_name(CREDENTIALS)
RUNS_TAG = f"{LIMIT}-runs"
RUNS_LIMIT = f"tag:{RUNS_TAG}"


OFTEN = Pace(refresh=0.05, settle=0.05)
sharing = partial(sharing_account_budget, pace=OFTEN)


@pytest.fixture(autouse=True)
async def without_limit(prefect_api: str) -> AsyncIterator[None]:
    """Find no limit and leave none: other tests share the server."""
    await forget_limits()
    with disable_run_logger():
        yield
    await forget_limits()


async def forget_limits() -> None:
    async with get_client() as prefect:
        for name in (LIMIT, RUNS_LIMIT):
            with suppress(ObjectNotFound):
                await prefect.delete_global_concurrency_limit_by_name(name)


async def make_limit(slots: int, *, active: bool = True) -> None:
    limit = GlobalConcurrencyLimitCreate(
        name=LIMIT, limit=slots, active=active, slot_decay_per_second=0
    )
    async with get_client() as prefect:
        await prefect.create_global_concurrency_limit(limit)


async def slots_of_limit() -> int:
    async with get_client() as prefect:
        return (await prefect.read_global_concurrency_limit_by_name(LIMIT)).limit


async def slots_of_runs() -> int:
    """How many slots Prefect's database says are taken."""
    async with get_client() as prefect:
        return (await prefect.read_global_concurrency_limit_by_name(RUNS_LIMIT)).active_slots


async def runs_listed() -> set[UUID]:
    """Those whose leases Prefect's server has."""
    async with get_client() as prefect:
        return set((await prefect.read_concurrency_limit_by_tag(RUNS_TAG)).active_slots)


async def lease_as_a_run_that_dies() -> None:
    async with get_client() as prefect:
        await prefect.increment_concurrency_slots_with_lease(
            names=[RUNS_LIMIT],
            slots=1,
            mode="concurrency",
            lease_duration=60,
            holder=ConcurrencyLeaseHolder(type="task_run", id=uuid4()),
        )


class Watched(RequestBudget):
    """A budget that keeps the greatest sum of the shares of all of its kind."""

    def __init__(self, others: list["Watched"]) -> None:
        super().__init__(100)
        self.most_together = 0.0
        self._all = others
        others.append(self)

    def allow(self, requests_per_second: float) -> None:
        super().allow(requests_per_second)
        self.most_together = max(self.most_together, sum(one.allowed for one in self._all))


async def test_one_run_gets_nearly_all() -> None:
    """Alone, a run may send what the account allows, but for the part kept back."""
    await make_limit(10)
    budget = RequestBudget(20)
    async with sharing(CREDENTIALS, budget):
        assert budget.allowed == pytest.approx(9.5)


async def test_two_runs_get_half_each_and_the_last_one_all() -> None:
    """The shares follow the number of runs at work, up and down."""
    await make_limit(10)
    first, second = RequestBudget(20), RequestBudget(20)
    async with sharing(CREDENTIALS, first):
        async with sharing(CREDENTIALS, second):
            assert second.allowed == pytest.approx(4.75)
            await until(lambda: first.allowed == pytest.approx(4.75))
        await until(lambda: first.allowed == pytest.approx(9.5))


async def test_a_run_never_gets_more_than_its_own_rate() -> None:
    """What a flow was told, by its poll policy, holds under a generous account."""
    await make_limit(1000)
    budget = RequestBudget(20)
    async with sharing(CREDENTIALS, budget):
        assert budget.allowed == 20


async def test_a_refusal_before_does_not_lower_the_share_for_good() -> None:
    """What a run may have is what it was allowed, not what a 429 has left of it just then."""
    await make_limit(1000)
    budget = RequestBudget(20)
    budget.refused(0)
    async with sharing(CREDENTIALS, budget):
        assert budget.allowed == 20


async def test_the_rate_is_changed_by_changing_the_limit() -> None:
    """A run at work takes up the new rate by itself."""
    await make_limit(10)
    budget = RequestBudget(100)
    async with sharing(CREDENTIALS, budget), get_client() as prefect:
        await prefect.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(limit=20))
        await until(lambda: budget.allowed == pytest.approx(19))


async def test_no_limit_leaves_the_budget_alone() -> None:
    """Where nobody has made a limit, each run keeps its own rate."""
    budget = RequestBudget(20)
    async with sharing(CREDENTIALS, budget):
        assert budget.allowed == 20


async def test_an_inactive_limit_leaves_the_budget_alone() -> None:
    """A limit that is switched off in the UI is as none."""
    await make_limit(2, active=False)
    budget = RequestBudget(20)
    async with AsyncExitStack() as runs:
        for _ in range(3):
            await runs.enter_async_context(sharing(CREDENTIALS, budget))
        assert budget.allowed == 20


async def test_the_limit_is_made_once_and_then_left_to_people() -> None:
    """Making sure of the limit again, with another rate, does not change it."""
    await ensure_account_budget(CREDENTIALS, 12.5)
    assert await slots_of_limit() == 12
    await asyncio.gather(*(ensure_account_budget(CREDENTIALS, 3) for _ in range(3)))
    assert await slots_of_limit() == 12


async def test_more_runs_than_slots_share_all_the_same() -> None:
    """No run waits for another to end: the shares get smaller."""
    await make_limit(1)
    budgets = [RequestBudget(20) for _ in range(3)]
    async with AsyncExitStack() as runs:
        for budget in budgets:
            await runs.enter_async_context(sharing(CREDENTIALS, budget))
        await until(lambda: [one.allowed for one in budgets] == pytest.approx([0.95 / 3] * 3))


async def test_a_limit_of_0_is_refused() -> None:
    """An account that was paused on purpose is said to be, at once."""
    await make_limit(0)
    with pytest.raises(InvalidInput, match=f"{LIMIT} is 0: the account is paused"):
        await ensure_account_budget(CREDENTIALS, 12)
    with pytest.raises(InvalidInput, match=f"{LIMIT} is 0: the account is paused"):
        async with sharing(CREDENTIALS, RequestBudget(20)):
            raise AssertionError("it has begun")


async def test_a_limit_that_becomes_0_leaves_the_runs_at_work_alone() -> None:
    """A pause keeps new runs from beginning; those at work go on as they were."""
    await make_limit(10)
    budget = RequestBudget(100)
    async with sharing(CREDENTIALS, budget), get_client() as prefect:
        update = prefect.update_global_concurrency_limit
        await update(LIMIT, GlobalConcurrencyLimitUpdate(limit=0))
        await prefect.delete_global_concurrency_limit_by_name(RUNS_LIMIT)
        await until(there_again)  # the run has looked
        assert budget.allowed == pytest.approx(9.5)
        await update(LIMIT, GlobalConcurrencyLimitUpdate(limit=20))
        await until(lambda: budget.allowed == pytest.approx(19))


async def test_slots_that_nobody_holds_count_for_a_while_only() -> None:
    """They may be those of runs that are about to lease anew; then they are taken back."""
    pace = replace(OFTEN)
    await make_limit(10)
    budget = RequestBudget(100)
    async with get_client() as prefect:
        await prefect.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(
                name=RUNS_LIMIT, limit=1000, active=True, active_slots=4, slot_decay_per_second=0
            )
        )
    async with sharing(CREDENTIALS, budget, pace=pace):
        assert budget.allowed == pytest.approx(9.5 / 5)
        pace.regather = 0
        await until(lambda: budget.allowed == pytest.approx(9.5))
        assert await slots_of_runs() == 1


async def test_the_limit_of_the_runs_may_be_deleted() -> None:
    """A run at work makes it again, and leases anew."""
    await make_limit(10)
    async with sharing(CREDENTIALS, RequestBudget(20)), get_client() as prefect:
        [run] = await runs_listed()
        await prefect.delete_global_concurrency_limit_by_name(RUNS_LIMIT)
        await until(there_again)
        assert await runs_listed() == {run}


async def there_again() -> bool:
    with suppress(ObjectNotFound):
        return bool(await runs_listed())
    return False


async def test_a_cancelled_run_gives_its_slot_back() -> None:
    """At once, not only when its lease ends."""
    await make_limit(10)
    begun = asyncio.Event()

    async def work() -> None:
        async with sharing(CREDENTIALS, RequestBudget(20)):
            begun.set()
            await asyncio.Event().wait()

    run = asyncio.create_task(work())
    await begun.wait()
    assert await slots_of_runs() == 1
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert await slots_of_runs() == 0
    assert not await runs_listed()


async def test_runs_outlast_a_restart_of_prefects_server() -> None:
    """They lease anew, never send too much, and forget the slot of a run that died meanwhile.

    All leases are revoked here, and the active slots stay, as after a restart of a server that has
    its leases in memory.
    """
    pace = replace(OFTEN)
    await make_limit(10)
    both: list[Watched] = []
    first, second = Watched(both), Watched(both)
    async with AsyncExitStack() as runs:
        await runs.enter_async_context(sharing(CREDENTIALS, first, pace=pace))
        await runs.enter_async_context(sharing(CREDENTIALS, second, pace=pace))
        before = await runs_listed()
        await lease_as_a_run_that_dies()
        await until(lambda: [one.allowed for one in both] == pytest.approx([9.5 / 3] * 2))
        first.most_together = second.most_together = 0
        async with get_client() as prefect:
            await prefect.reset_concurrency_limit_by_tag(RUNS_TAG)
        await until(lambda: listed(before))
        await until(lambda: [one.allowed for one in both] == pytest.approx([9.5 / 5] * 2))
        assert max(one.most_together for one in both) < 9.5
        pace.regather = 0
        await until(lambda: [one.allowed for one in both] == pytest.approx([4.75] * 2))
        assert await slots_of_runs() == 2


async def listed(runs: set[UUID]) -> bool:
    return await runs_listed() == runs
