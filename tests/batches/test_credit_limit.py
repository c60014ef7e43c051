"""`max_credits`: the rows that a run may submit, chosen before anything is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanobanana_blocks.api.prices import PRICES, PriceTable
from nanobanana_blocks.batches.credit_limit import CreditLimit, require_first, rows_within
from nanobanana_blocks.batches.policies import OnContentPolicy
from nanobanana_blocks.errors import CreditLimitReached, InvalidInput
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from tests.support.batches import opened, prompts, rows_of, statuses

CHAIN = (
    {"prompt": "both", "name": "both", "imageUrls": ["row:night", "row:plate"]},
    {"prompt": "plate", "name": "plate", "numImages": 2},
    {"prompt": "night", "name": "night", "imageUrls": ["row:plate#2"]},
    {"prompt": "other", "name": "other"},
)


class TestRowsWithin:
    """The first rows whose credits stay within the limit, each after those that it builds on."""

    @pytest.mark.parametrize(
        ("limit", "chosen"), [(0, 0), (3.9, 0), (4, 1), (7, 1), (8, 2), (12, 3), (1000, 3)]
    )
    def test_in_order(self, limit: float, chosen: int) -> None:
        """It ends before it would be passed."""
        assert [row.number for row in rows_within(prompts(3), limit)] == [1, 2, 3][:chosen]

    @pytest.mark.parametrize(
        ("limit", "chosen"), [(7, []), (8, [2]), (12, [2, 3]), (16, [2, 3, 1]), (20, [2, 3, 1, 4])]
    )
    def test_chains(self, limit: float, chosen: list[int]) -> None:
        """A row that builds on others comes after them; half a chain is begun where it fits."""
        assert [row.number for row in rows_within(rows_of(*CHAIN), limit)] == chosen

    def test_what_is_not_due_costs_nothing(self) -> None:
        """A row whose parent has landed needs its own credits only."""
        due = [row for row in rows_of(*CHAIN) if row.name in ("both", "night")]
        assert [row.number for row in rows_within(due, 8)] == [3, 1]

    def test_tenths(self) -> None:
        """Three tenths are within 0.3, which floating point would deny."""
        rows = [row.priced(row_prices(0.1)) for row in prompts(4)]
        assert len(rows_within(rows, 0.3)) == 3

    def test_a_row_that_costs_much_is_not_jumped_over(self) -> None:
        """What comes after a row that does not fit waits as well: later runs go on in order."""
        rows = rows_of({"prompt": "a", "numImages": 2}, {"prompt": "b"})
        assert rows_within(rows, 4) == []


def row_prices(each: float) -> PriceTable:

    return PRICES.overridden({"generate": each})


def test_a_limit_below_the_first_row() -> None:
    """Rule: it is one error, which says what the first row costs; nothing due is none."""
    with pytest.raises(InvalidInput, match=r"is 7, and row 2, the first .* about 8\. Raise"):
        require_first(7.0, rows_of(*CHAIN))
    require_first(8, rows_of(*CHAIN))
    require_first(0, [])


def test_what_is_left_is_for_second_submits() -> None:
    """Rule: a row may be submitted once more only as long as something is left."""
    first, second = prompts(2)
    limit = CreditLimit(10, 10, [first])
    assert (limit.allows(first), limit.allows(second), limit.left) == (True, False, 6)
    assert limit.take_more(second)
    assert (limit.allows(second), limit.left) == (True, 2)
    assert not limit.take_more(first)
    with pytest.raises(CreditLimitReached, match=r"max_credits \(10\)"):
        CreditLimit(10.0, 0, []).require(first)


class TestBatches:
    """A run submits the rows that were chosen, and lands them; the next goes on."""

    @pytest.fixture(autouse=True)
    def soon(self, sandbox: Sandbox) -> None:
        sandbox.configure(submitted_task=TaskPlan(seconds=0), image_bytes=3000)

    async def test_rows_beyond_it_are_held_back(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """What does not fit is not submitted, says why, and is done by later runs."""
        rows = prompts(5)
        for due, landed in ((2, 2), (2, 4), (1, 5)):
            async with opened(sandbox, tmp_path, rows) as batch:
                batch.limit_credits(11)
                assert len(batch.rows_to_submit) == due
                await batch.process_each(rows)
                report = batch.report(finished=True)
            assert sum(outcome.in_storage for outcome in report.outcomes) == landed
            assert sandbox.stats().credits_spent == 4 * landed
            assert (len(report.held_back), report.failures) == (5 - landed, {})
        assert report.max_credits == 11

    async def test_a_held_back_row_is_no_failure(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Its status and its message tell that nothing was submitted, and how to go on."""
        rows = prompts(2)
        async with opened(sandbox, tmp_path, rows) as batch:
            batch.limit_credits(4)
            await batch.process_each(rows)
            report = batch.report(finished=True)
        assert report.counts["held_back"] == 1
        assert report.describe() == "1 landed, 1 held back"
        assert "Nothing was submitted. Run again" in report.outcomes[1].describe()
        assert not report.outcomes[1].submitted

    async def test_a_row_that_failed_takes_nothing(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Rows that will not be submitted, or build on one that failed, leave their share."""
        rows = rows_of(
            {"prompt": "a", "name": "a"},
            {"prompt": "b", "name": "b", "imageUrls": ["row:a"]},
            {"prompt": "c", "name": "c"},
        )
        sandbox.add_fault(Fault(kind="body-code", code=422, on="submit", count=1))
        async with opened(sandbox, tmp_path, rows[:1]) as batch:
            await batch.process_each(rows[:1])
        async with opened(sandbox, tmp_path, rows) as batch:
            batch.limit_credits(4)
            await batch.process_each(rows)
            outcomes = [batch.outcomes[row.number] for row in rows]
        assert statuses(outcomes) == ["failed", "blocked", "landed"]

    async def test_a_chain_is_held_back_in_the_middle(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """What builds on a row that is held back is held back too, and goes on later."""
        links = ({"prompt": n, "name": n, "imageUrls": [f"row:{p}"]} for n, p in ("ba", "cb"))
        rows = rows_of({"prompt": "a", "name": "a"}, *links)
        async with opened(sandbox, tmp_path, rows) as batch:
            batch.limit_credits(4)
            await batch.process_each(rows)
            report = batch.report(finished=True)
        assert statuses(list(report.outcomes)) == ["landed", "held_back", "held_back"]
        assert sandbox.stats().submits == 1

    @pytest.mark.parametrize(("limit", "status", "submits"), [(4, "failed", 1), (8, "landed", 2)])
    async def test_alternative_prompts_count(
        self, sandbox: Sandbox, tmp_path: Path, limit: int, status: str, submits: int
    ) -> None:
        """One is submitted only where something is left for it."""
        sandbox.configure(flagged_words=("naked",))
        rows = rows_of({"prompt": "a naked mole-rat", "promptOnContentPolicy": "a mole-rat"})
        policy = OnContentPolicy.ALTERNATIVE_PROMPT
        async with opened(sandbox, tmp_path, rows, on_content_policy=policy) as batch:
            batch.limit_credits(limit)
            await batch.process_each(rows)
            report = batch.report(finished=True)
        assert statuses(list(report.outcomes)) == [status]
        assert (sandbox.stats().submits, report.credits_estimated) == (submits, 4 * submits)

    async def test_below_the_first_row(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """It is told before anything is spent; of a part of a batch, it is no error."""
        async with opened(sandbox, tmp_path, prompts(2)) as batch:
            with pytest.raises(InvalidInput, match="max_credits is 3"):
                batch.limit_credits(3)
            batch.limit_credits(8, 0)
            await batch.process_each(batch.rows)
            assert len(batch.report(finished=True).held_back) == 2
        assert sandbox.stats().submits == 0
