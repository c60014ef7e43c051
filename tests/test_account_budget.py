"""Runs that share an account share its request budget; against a real Prefect server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import anyio
import pytest
from prefect import get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.exceptions import ObjectNotFound
from prefect.logging import disable_run_logger

from nanobanana_blocks import account_budget
from nanobanana_blocks.account_budget import (
    budget_name,
    ensure_account_budget,
    sharing_account_budget,
)
from nanobanana_blocks.budget import RequestBudget

CREDENTIALS = "default"
LIMIT = budget_name(CREDENTIALS)


@pytest.fixture(autouse=True)
async def without_limit(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Look at the limit often, and leave none behind: other tests share the server."""
    monkeypatch.setattr(account_budget, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(account_budget, "SETTLE_SECONDS", 0.05)
    with disable_run_logger():
        yield
    async with get_client() as prefect:
        try:
            await prefect.delete_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound:
            return


async def make_limit(slots: int, *, active: bool = True) -> None:
    limit = GlobalConcurrencyLimitCreate(
        name=LIMIT, limit=slots, active=active, slot_decay_per_second=0
    )
    async with get_client() as prefect:
        await prefect.create_global_concurrency_limit(limit)


async def slots_of_limit() -> int:
    async with get_client() as prefect:
        return (await prefect.read_global_concurrency_limit_by_name(LIMIT)).limit


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as something is so."""
    with anyio.fail_after(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_one_run_gets_nearly_all() -> None:
    """Alone, a run may send what the account allows, but for the part kept back."""
    await make_limit(10)
    budget = RequestBudget(20)
    async with sharing_account_budget(CREDENTIALS, budget):
        assert budget.allowed == pytest.approx(9.5)


async def test_two_runs_get_half_each_and_the_last_one_all() -> None:
    """The shares follow the number of runs at work, up and down."""
    await make_limit(10)
    first, second = RequestBudget(20), RequestBudget(20)
    async with sharing_account_budget(CREDENTIALS, first):
        async with sharing_account_budget(CREDENTIALS, second):
            assert second.allowed == pytest.approx(4.75)
            await until(lambda: first.allowed == pytest.approx(4.75))
        await until(lambda: first.allowed == pytest.approx(9.5))


async def test_a_run_never_gets_more_than_its_own_rate() -> None:
    """What a flow was told, by its poll policy, holds under a generous account."""
    await make_limit(1000)
    budget = RequestBudget(20)
    async with sharing_account_budget(CREDENTIALS, budget):
        assert budget.allowed == 20


async def test_a_refusal_before_does_not_lower_the_share_for_good() -> None:
    """What a run may have is what it was allowed, not what a 429 has left of it just then."""
    await make_limit(1000)
    budget = RequestBudget(20)
    budget.refused(0)
    async with sharing_account_budget(CREDENTIALS, budget):
        assert budget.allowed == 20


async def test_the_rate_is_changed_by_changing_the_limit() -> None:
    """A run at work takes up the new rate by itself."""
    await make_limit(10)
    budget = RequestBudget(100)
    async with sharing_account_budget(CREDENTIALS, budget), get_client() as prefect:
        await prefect.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(limit=20))
        await until(lambda: budget.allowed == pytest.approx(19))


async def test_no_limit_leaves_the_budget_alone() -> None:
    """Where nobody has made a limit, each run keeps its own rate."""
    budget = RequestBudget(20)
    async with sharing_account_budget(CREDENTIALS, budget):
        assert budget.allowed == 20


async def test_an_inactive_limit_leaves_the_budget_alone() -> None:
    """A limit that is switched off in the UI is as none."""
    await make_limit(2, active=False)
    budget = RequestBudget(20)
    async with AsyncExitStack() as runs:
        for _ in range(3):
            await runs.enter_async_context(sharing_account_budget(CREDENTIALS, budget))
        assert budget.allowed == 20


async def test_the_limit_is_made_once_and_then_left_to_people() -> None:
    """Making sure of the limit again, with another rate, does not change it."""
    await ensure_account_budget(CREDENTIALS, 12.5)
    assert await slots_of_limit() == 12
    await asyncio.gather(*(ensure_account_budget(CREDENTIALS, 3) for _ in range(3)))
    assert await slots_of_limit() == 12
