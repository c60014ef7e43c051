"""The balance before and after a batch: what it says of costs, and of submits without an answer."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanobanana_blocks.api.prices import PRICES
from nanobanana_blocks.batches.balance import (
    evidence_in_words,
    held_back_in_words,
    note_balance_after,
    note_balance_before,
    require_answer,
    spending_in_words,
)
from nanobanana_blocks.batches.report import BatchReport, RowOutcome
from nanobanana_blocks.batches.submitter import Patience
from nanobanana_blocks.errors import NetworkError
from nanobanana_blocks.landing.report import LandingStatus
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from tests.support.batches import opened, prompts

LOG = logging.getLogger(__name__)
NOW = datetime.now(UTC)


async def done(sandbox: Sandbox, folder: Path, rows: Any, **options: Any) -> BatchReport:
    """What becomes of rows, with the balance before and after."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0), image_bytes=3000)
    async with opened(sandbox, folder, rows) as batch:
        await note_balance_before(batch, LOG, **({"check": True} | options))
        await batch.process_each(rows)
        await note_balance_after(batch)
        return batch.report(finished=True)


async def test_estimate_and_measured_stand_side_by_side(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the report has the balance before and after; where they differ from the estimate, both
    figures are told."""
    sandbox.configure(credits=100)
    prices = PRICES.overridden({"generate": 9})
    rows = [row.priced(prices) for row in prompts(2)]
    report = await done(sandbox, tmp_path, rows)
    assert (report.credits_before, report.credits_after) == (100, 92)
    assert (report.credits_estimated, report.credits_measured) == (18, 8)
    assert "for about 18 credits (estimated). The balance went from 100 to 92, by 8;" in (
        spending_in_words(report)
    )
    assert BatchReport.model_validate_json(report.to_json()).credits_measured == 8


@pytest.mark.parametrize("ask", [require_answer, partial(note_balance_before, log=LOG, check=True)])
async def test_nothing_answers(tmp_path: Path, ask: Any) -> None:
    """Rule: where the API is out of reach, it is said what to do, and that nothing was spent."""
    nowhere: Any = SimpleNamespace(api_key="key", base_url="http://127.0.0.1:9")
    patience = Patience(poll=0.01, unreachable=0.05)
    async with opened(nowhere, tmp_path, prompts(1), patience=patience) as batch:
        with pytest.raises(NetworkError, match=r"Nothing was submitted; check the base URL and"):
            await ask(batch)


async def test_without_the_check(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the balance is noted where it is not checked, too; if it is not told, no matter."""
    report = await done(sandbox, tmp_path / "a", prompts(1), check=False)
    assert report.credits_measured == 4
    sandbox.add_fault(Fault(kind="body-code", code=401, on="credit"))
    silent = await done(sandbox, tmp_path / "b", prompts(1), check=False)
    assert (silent.credits_before, silent.credits_after, silent.complete) == (None, None, True)


async def test_nothing_to_submit_asks_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a run that spends nothing does not ask for the balance."""
    await done(sandbox, tmp_path, prompts(2))
    asked = sandbox.stats().requests["credit"]
    report = await done(sandbox, tmp_path, prompts(2))
    assert (sandbox.stats().requests["credit"], spending_in_words(report)) == (asked, "")


@pytest.mark.parametrize(
    ("takes_effect", "words"),
    [
        (True, "fell by 4 more than the confirmed submits cost, so probably it was paid for."),
        (False, "no more than the confirmed submits cost, so it was probably not paid for."),
    ],
)
async def test_evidence_about_a_lost_answer(
    sandbox: Sandbox, tmp_path: Path, takes_effect: bool, words: str
) -> None:
    """Rule: a submit whose answer was lost comes with what the balance says of it."""
    sandbox.add_fault(Fault(kind="drop", on="submit", takes_effect=takes_effect, count=1))
    report = await done(sandbox, tmp_path, prompts(3))
    assert [outcome.unconfirmed for outcome in report.outcomes].count(True) == 1
    assert report.credits_estimated == 8
    assert evidence_in_words(report).startswith("1 submit was not answered (about 4 credits): ")
    assert evidence_in_words(report).endswith(words)
    assert evidence_in_words(report) in spending_in_words(report)
    later = await done(sandbox, tmp_path, prompts(3))
    assert evidence_in_words(later) == ""


def report_of(*outcomes: RowOutcome, **facts: Any) -> BatchReport:
    return BatchReport(
        destination="d",
        manifest="m",
        rows=len(outcomes),
        started_at=NOW,
        updated_at=NOW,
        outcomes=outcomes,
        **facts,
    )


def outcome(number: int, status: LandingStatus = LandingStatus.FAILED, **facts: Any) -> RowOutcome:
    return RowOutcome(
        task_id="", status=status, row=number, key=str(number), **({"credits": 4} | facts)
    )


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (96, "so probably none was paid for."),
        (97, "so probably none was paid for."),
        (92, "fell by 4 more than the confirmed submits cost, so probably some were paid for."),
        (88, "fell by 8 more than the confirmed submits cost, so probably all were paid for."),
        (80, "fell by 16 more than the confirmed submits cost, so probably all were paid for."),
        (None, "the balance before and after is not known, which would tell more."),
    ],
)
def test_what_the_balance_says_of_several(after: int | None, words: str) -> None:
    """Rule: it tells by how much the balance fell beyond what is confirmed, and what that means."""
    outcomes = [outcome(n, unconfirmed=True) for n in (1, 2)] + [outcome(3, submitted=True)]
    report = report_of(*outcomes, credits_before=100, credits_after=after)
    assert evidence_in_words(report).startswith("2 submits were not answered (about 8 credits): ")
    assert evidence_in_words(report).endswith(words)


def test_what_was_held_back() -> None:
    """Rule: it says how many rows, about which cost, and how to go on."""
    rows = [outcome(n, LandingStatus.HELD_BACK) for n in (1, 2)]
    assert held_back_in_words(report_of(*rows, max_credits=20)) == (
        "2 rows were held back by max_credits (20), for about 8 credits; nothing was submitted for "
        "them. Run again to go on: each run may spend as much."
    )
    assert held_back_in_words(report_of(outcome(1), max_credits=20)) == ""
