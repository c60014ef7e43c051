"""What is submitted for a row: once, again where asked, and once more with its alternative."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks.batches.attempts import (
    AttemptState,
    Failure,
    SubmissionAttempt,
    new_attempt,
)
from nanobanana_blocks.batches.manifest import InvalidManifest, Row
from nanobanana_blocks.batches.policies import (
    OnContentPolicy,
    SubmitPolicy,
    describe_alternatives,
    worst_case_submits,
)
from nanobanana_blocks.landing.report import LandingReport
from nanobanana_blocks.orchestration.observability.outcome_table import outcome_rows
from nanobanana_blocks.sandbox import CONTENT_POLICY_MESSAGE, Fault, Sandbox, TaskPlan
from tests.support.batches import PATIENT, classes, entries, opened, rows_of, run, statuses
from tests.support.until import until

SKIP = SubmitPolicy()
TAKE = SubmitPolicy(on_content_policy=OnContentPolicy.ALTERNATIVE_PROMPT)
OWN, ALTERNATIVE = "A nude fig", "A fig in a coat"
FAILED, SUBMITTED = AttemptState.FAILED, AttemptState.SUBMITTED
RETRIED = SubmitPolicy(frozenset({Failure.CONTENT_POLICY}), TAKE.on_content_policy)


def row(**fields: Any) -> Row:
    given = {"key": "fig", "prompt": OWN, "promptOnContentPolicy": ALTERNATIVE} | fields
    return rows_of({name: value for name, value in given.items() if value is not None})[0]


def attempt(
    of: Row, state: AttemptState, failure: Failure | None = None, *, alternative: bool = False
) -> SubmissionAttempt:
    assert of.request
    digest = of.alternative_digest if alternative else None
    made = new_attempt(of, of.request, attempt=1, owner=None, alternative=digest)
    return made.model_copy(update={"state": state, "failure": failure, "task_id": "t"})


def next_prompt(policy: SubmitPolicy, of: Row, entry: SubmissionAttempt | None, **how: bool) -> Any:
    due = policy.next_submit(of, entry, **how)
    return due and due.request.prompt


REFUSED = Failure.CONTENT_POLICY


def test_a_plan_tells_of_alternatives() -> None:
    """Rule: that a field is given and not used is said, and so is what it may cost."""
    rows = [row(), row(promptOnContentPolicy=None)]
    assert describe_alternatives(rows, SKIP) == (
        "1 row gives an alternative prompt, which only on_content_policy=alternative-prompt submits"
    )
    assert "paid for as well" in (describe_alternatives(rows, TAKE) or "")
    assert describe_alternatives(rows[1:], TAKE) is None


@pytest.mark.parametrize("policy", [SKIP, TAKE, RETRIED])
def test_a_new_row_begins_with_its_own_prompt(policy: SubmitPolicy) -> None:
    """Rule: the alternative is for what was refused."""
    assert next_prompt(policy, row(), None) == OWN


@pytest.mark.parametrize(
    ("policy", "entry", "prompt"),
    [
        (SKIP, attempt(row(), FAILED, REFUSED), None),
        (TAKE, attempt(row(), FAILED, REFUSED), ALTERNATIVE),
        (TAKE, attempt(row(), FAILED, Failure.GENERATION_FAILED), None),
        (TAKE, attempt(row(), FAILED, Failure.REFUSED), None),
        (TAKE, attempt(row(), SUBMITTED), None),
        # Only a code of the envelope says so: the task may still be a success.
        (TAKE, attempt(row(), SUBMITTED, REFUSED), None),
        (TAKE, attempt(row(), AttemptState.RESERVED), None),
        (TAKE, attempt(row(), AttemptState.UNCONFIRMED, Failure.UNCONFIRMED), None),
        (TAKE, attempt(row(), FAILED, REFUSED, alternative=True), None),
        (TAKE, attempt(row(), SUBMITTED, alternative=True), None),
        (RETRIED, attempt(row(), FAILED, REFUSED), OWN),
        (RETRIED, attempt(row(), FAILED, REFUSED, alternative=True), ALTERNATIVE),
        (TAKE, attempt(row(prompt="Other"), FAILED, REFUSED), OWN),
        (TAKE, attempt(row(prompt="Other"), FAILED, REFUSED, alternative=True), OWN),
        (
            TAKE,
            attempt(row(promptOnContentPolicy="Other"), FAILED, REFUSED, alternative=True),
            ALTERNATIVE,
        ),
        (
            SKIP,
            attempt(row(promptOnContentPolicy="Other"), FAILED, REFUSED, alternative=True),
            None,
        ),
    ],
)
def test_what_is_submitted_next(
    policy: SubmitPolicy, entry: SubmissionAttempt, prompt: str | None
) -> None:
    """Rule: the alternative follows a certain refusal of the same row, once; a retry repeats."""
    assert next_prompt(policy, row(), entry) == prompt


def test_without_an_alternative_nothing_follows() -> None:
    """Rule: a row that gives none fails as always."""
    bare = row(promptOnContentPolicy=None)
    assert next_prompt(TAKE, bare, attempt(bare, FAILED, REFUSED)) is None
    assert worst_case_submits(bare, TAKE) == 1


def test_what_a_run_has_made_it_does_not_retry() -> None:
    """Rule: no run submits a prompt twice, whatever `retry` holds; the alternative may follow."""
    assert next_prompt(RETRIED, row(), attempt(row(), FAILED, REFUSED), retrying=False) == (
        ALTERNATIVE
    )
    again = attempt(row(), FAILED, REFUSED, alternative=True)
    assert next_prompt(RETRIED, row(), again, retrying=False) is None


@pytest.mark.parametrize(
    ("policy", "entry", "submits"),
    [
        (SKIP, None, 1),
        (TAKE, None, 2),
        (SKIP, attempt(row(), SUBMITTED), 0),
        (TAKE, attempt(row(), SUBMITTED), 1),
        (TAKE, attempt(row(), AttemptState.RESERVED), 1),
        (TAKE, attempt(row(), FAILED, REFUSED), 1),
        (TAKE, attempt(row(), FAILED, Failure.GENERATION_FAILED), 0),
        (TAKE, attempt(row(), SUBMITTED, alternative=True), 0),
        (RETRIED, attempt(row(), FAILED, REFUSED), 2),
        (RETRIED, attempt(row(), FAILED, REFUSED, alternative=True), 1),
    ],
)
def test_the_worst_case(
    policy: SubmitPolicy, entry: SubmissionAttempt | None, submits: int
) -> None:
    """Rule: a plan can say how often a row is submitted at most."""
    assert worst_case_submits(row(), policy, entry) == submits
    assert worst_case_submits(rows_of({"task_id": "abc"})[0], policy) == 0


def test_the_field_is_checked_as_the_prompt_is() -> None:
    """Rule: what is wrong with it is told with all else; a row's identity is without it."""
    with pytest.raises(InvalidManifest) as caught:
        rows_of(
            {"prompt": "a", "promptOnContentPolicy": " "},
            {"prompt": "a", "promptOnContentPolicy": "a", "name": "n"},
            {"prompt": "a", "prompt_on_content_policy": 7, "numImages": 9},
            {"task_id": "abc", "promptOnContentPolicy": "b"},
            {"prompt": "a", "promptOnContentPolicy": "b" * 20_001, "endpoint": "generate-2"},
        )
    told = [str(problem) for problem in caught.value.problems]
    assert [line.partition(":")[0] for line in told] == [
        "row 1, promptOnContentPolicy",
        "row 2, promptOnContentPolicy",
        "row 3, prompt_on_content_policy",
        "row 3, numImages",
        "row 4, promptOnContentPolicy",
        "row 5, promptOnContentPolicy",
    ]
    assert "is the prompt itself" in told[1]
    assert row().digest == row(promptOnContentPolicy=None).digest
    assert row().alternative_digest != row(promptOnContentPolicy="Other").alternative_digest


@pytest.fixture
def strict(sandbox: Sandbox) -> Sandbox:
    """A service that refuses nude figs."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0), flagged_words=("nude",))
    return sandbox


def prompts_of(sandbox: Sandbox) -> list[str]:
    return [submit.body["prompt"] for submit in sandbox.submits()]


async def test_a_refused_row_lands_by_its_alternative(strict: Sandbox, tmp_path: Path) -> None:
    """Rule: once, through the ledger, at the price of two; a run after it finds all done."""
    rows = rows_of(
        {"name": "fig", "prompt": OWN, "promptOnContentPolicy": ALTERNATIVE},
        {"name": "bare", "prompt": "Another nude fig"},
        {"name": "good", "prompt": "A pear", "promptOnContentPolicy": "unused"},
    )
    take = {"on_content_policy": TAKE.on_content_policy, "in_flight": 1}
    outcomes = await run(strict, tmp_path, rows, **take)
    assert statuses(outcomes) == ["landed", "failed", "landed"]
    assert [outcome.alternative_prompt for outcome in outcomes] == [True, False, False]
    assert outcomes[0].describe().endswith(", by its alternative prompt")
    report = LandingReport(destination="", outcomes=outcomes)
    assert outcome_rows(report)[1]["what happened"].endswith("), by its alternative prompt")
    assert [outcome.credits for outcome in outcomes] == [8, 4, 4]
    assert sorted(prompts_of(strict)) == sorted([OWN, ALTERNATIVE, "Another nude fig", "A pear"])
    files = sorted(path.name for path in (tmp_path / ".nanobanana/ledger").glob("fig.*"))
    assert files == ["fig.1.json", "fig.2.json"]
    ledger = "".join(path.read_text() for path in (tmp_path / ".nanobanana").rglob("*.json"))
    assert ALTERNATIVE not in ledger
    receipt = json.loads((tmp_path / "fig.json").read_text())
    assert receipt["provenance"]["alternative_prompt"] is True
    assert "alternative_prompt" not in json.loads((tmp_path / "good.json").read_text())
    again = await run(strict, tmp_path, rows, **take)
    assert statuses(again) == ["already_landed", "failed", "already_landed"]
    assert len(strict.submits()) == 4


@pytest.mark.parametrize(
    ("code", "message", "failure"),
    [
        (400, "No", Failure.CONTENT_POLICY),
        ("400", None, Failure.CONTENT_POLICY),
        (501, CONTENT_POLICY_MESSAGE, Failure.CONTENT_POLICY),
        (501, "Image generation task failed", Failure.GENERATION_FAILED),
        (500, "Internal error, please try again later", Failure.GENERATION_FAILED),
    ],
)
async def test_what_counts_as_refused_content(
    sandbox: Sandbox, tmp_path: Path, code: int | str, message: str | None, failure: Failure
) -> None:
    """Rule: the documented code, or the documented words; no other failure costs an alternative."""
    failing = TaskPlan(seconds=0, outcome="generate-failed", error_code=code, error_message=message)
    sandbox.configure(submitted_task=failing)
    await run(sandbox, tmp_path, [row()], on_content_policy=TAKE.on_content_policy)
    asked = 2 if failure is Failure.CONTENT_POLICY else 1
    assert prompts_of(sandbox) == [OWN, ALTERNATIVE][:asked]
    entry = json.loads((tmp_path / ".nanobanana/ledger/fig.1.json").read_text())
    assert entry["failure"] == failure.value


async def test_an_alternative_that_is_refused_too(strict: Sandbox, tmp_path: Path) -> None:
    """Rule: it is submitted once and no more, also where `retry` asks for refused rows."""
    rows = [row(promptOnContentPolicy="Also nude")]
    take = {"on_content_policy": TAKE.on_content_policy}
    for run_, expected in ((take, 2), (take, 2), (take | {"retry": [REFUSED]}, 3)):
        outcomes = await run(strict, tmp_path, rows, **run_)
        assert classes(outcomes) == ["GenerationFailed"]
        assert len(strict.submits()) == expected
    fresh = await run(strict, tmp_path / "fresh", rows, **take, retry=[REFUSED])
    assert classes(fresh) == ["GenerationFailed"]
    assert len(strict.submits()) == 5


async def test_by_default_a_refused_row_fails(strict: Sandbox, tmp_path: Path) -> None:
    """Rule: nothing is paid for that was not asked for; a later run may be asked."""
    assert classes(await run(strict, tmp_path, [row()])) == ["GenerationFailed"]
    assert prompts_of(strict) == [OWN]
    outcomes = await run(strict, tmp_path, [row()], on_content_policy=TAKE.on_content_policy)
    assert statuses(outcomes) == ["landed"]
    assert prompts_of(strict) == [OWN, ALTERNATIVE]


async def test_a_refusal_that_a_later_run_finds(strict: Sandbox, tmp_path: Path) -> None:
    """Rule: a row submitted by an earlier run goes on with its alternative as well."""
    strict.configure(submitted_task=TaskPlan(seconds=1000), flagged_words=("nude",))
    take = {"on_content_policy": TAKE.on_content_policy}
    assert statuses(await run(strict, tmp_path, [row()], timeout=0.2, **take)) == ["timed_out"]
    strict.configure(submitted_task=TaskPlan(seconds=0))
    strict.advance(1000)
    [outcome] = await run(strict, tmp_path, [row()], **take, retry=[REFUSED])
    assert (outcome.status.value, outcome.credits) == ("landed", 4)
    assert prompts_of(strict) == [OWN, ALTERNATIVE]


async def test_a_changed_row_whose_old_task_fails_waits_for_the_next_run(
    strict: Sandbox, tmp_path: Path
) -> None:
    """Rule: a run goes on with alternative prompts only; what else failed, later ones submit."""
    strict.configure(submitted_task=TaskPlan(seconds=1000), flagged_words=("nude",))
    await run(strict, tmp_path, [row()], timeout=0.2)
    strict.configure(submitted_task=TaskPlan(seconds=0))
    strict.advance(1000)
    take = {"on_content_policy": TAKE.on_content_policy}
    changed = row(prompt="A fig on a tree")
    assert classes(await run(strict, tmp_path, [changed], **take)) == ["GenerationFailed"]
    assert prompts_of(strict) == [OWN]
    assert statuses(await run(strict, tmp_path, [changed], **take)) == ["landed"]
    assert prompts_of(strict) == [OWN, "A fig on a tree"]


async def test_an_alternative_without_an_answer(strict: Sandbox, tmp_path: Path) -> None:
    """Rule: it may have been paid for: it is not repeated unasked, nor is the row's own prompt."""
    take = {"on_content_policy": TAKE.on_content_policy}
    await run(strict, tmp_path, [row()])
    strict.add_fault(Fault(kind="drop", on="submit", takes_effect=True, count=1))
    assert classes(await run(strict, tmp_path, [row()], **take)) == ["UnconfirmedSubmit"]
    assert classes(await run(strict, tmp_path, [row()], **take)) == ["UnconfirmedSubmit"]
    assert prompts_of(strict) == [OWN, ALTERNATIVE]
    outcomes = await run(strict, tmp_path, [row()], **take, retry=[Failure.UNCONFIRMED])
    assert statuses(outcomes) == ["landed"]
    assert prompts_of(strict) == [OWN, ALTERNATIVE, ALTERNATIVE]


async def test_a_submit_that_is_refused_is_told(strict: Sandbox, tmp_path: Path) -> None:
    """Rule: where the alternative cannot be submitted, the row says why, and is left for later."""
    strict.configure(credits=4)
    take = {"on_content_policy": TAKE.on_content_policy}
    [outcome] = await run(strict, tmp_path, [row()], **take)
    assert outcome.error
    assert outcome.error.class_name == "OutOfCredits"
    strict.configure(credits=100)
    assert statuses(await run(strict, tmp_path, [row()], **take)) == ["landed"]
    assert prompts_of(strict).count(OWN) == 1


async def test_two_runs_at_once(strict: Sandbox, tmp_path: Path) -> None:
    """Rule: of several runs that see the refusal, one submits the alternative."""
    rows = rows_of(
        *(
            {"key": f"r{n}", "prompt": f"{OWN} {n}", "promptOnContentPolicy": f"{ALTERNATIVE} {n}"}
            for n in range(10)
        )
    )
    await run(strict, tmp_path, rows)
    runs = await asyncio.gather(
        *(
            run(
                strict,
                tmp_path,
                rows,
                patience=PATIENT,
                on_content_policy=TAKE.on_content_policy,
            )
            for _ in range(3)
        )
    )
    for outcomes in runs:
        assert {outcome.in_storage for outcome in outcomes} == {True}
    assert len(strict.submits()) == 20
    assert len(set(prompts_of(strict))) == 20


async def test_a_cancelled_run_notes_the_alternative_under_way(
    strict: Sandbox, tmp_path: Path
) -> None:
    """Rule: what was sent is noted, and the next run lands it."""
    await run(strict, tmp_path, [row()])
    strict.add_fault(Fault(kind="latency", on="submit", seconds=0.5, count=1, takes_effect=True))
    take = {"on_content_policy": TAKE.on_content_policy}
    async with opened(strict, tmp_path, [row()], **take) as made:
        running = asyncio.create_task(made.process_each(made.rows))
        await until(lambda: len(strict.submits()) == 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert await entries(tmp_path) == {"fig": SUBMITTED}
    assert statuses(await run(strict, tmp_path, [row()], **take)) == ["landed"]
    assert len(strict.submits()) == 2
