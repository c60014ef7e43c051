"""Rows are submitted once and landed, whatever happens in between; against a real API sandbox."""

import asyncio
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks import NanoBananaClient, errors
from nanobanana_blocks.api.connection import Connection
from nanobanana_blocks.api.wait_state import Patience as ClientPatience
from nanobanana_blocks.batches import submitter as submitting
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.ledger import AttemptState, Failure, Ledger, open_ledger
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.batches.reporting import keeping_report
from nanobanana_blocks.batches.submitter import Patience, Submitter
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.sandbox import Fault, RateLimit, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from tests.support.batches import (
    PATIENT,
    QUICK,
    classes,
    entries,
    opened,
    prompts,
    rows_of,
    run,
    statuses,
)
from tests.support.until import until

IMAGES = (".png", ".jpg", ".webp")
ANSWER_LOST = Fault(kind="drop", on="submit", takes_effect=True, count=1)

hasty = partial(run, client_patience=ClientPatience(unknown_task_seconds=0))
"""A run that gives a task up which the service does not know."""


@pytest.fixture(autouse=True)
def soon_generated(sandbox: Sandbox) -> None:
    """Have submitted tasks end at once."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0.05))


async def test_rows_become_images(sandbox: Sandbox, tmp_path: Path) -> None:
    """Prompts are submitted and landed, task ids landed; names are taken, receipts beside them."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    rows = rows_of(
        {"prompt": "A banana", "name": "first"},
        {"prompt": "Two", "numImages": 2, "name": "pair", "endpoint": "generate"},
        {"prompt": "Second", "endpoint": "generate-2", "resolution": "2K"},
        {"task_id": task_id, "name": "given"},
    )
    outcomes = await run(sandbox, tmp_path, rows)
    assert statuses(outcomes) == ["landed"] * 4
    assert [outcome.submitted for outcome in outcomes] == [True, True, True, False]
    assert outcomes[3].task_id == task_id
    names = {Path(image.path).stem for outcome in outcomes for image in outcome.images}
    assert names == {"first", "pair-1", "pair-2", outcomes[2].task_id, "given"}
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        *("first", "pair", "given"),
        outcomes[2].task_id,
    }
    assert sandbox.stats().credits_spent == 4 + 4 + 12


async def test_running_again_submits_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """A second run, with the rows in another order, finds everything landed."""
    rows = prompts(5)
    await run(sandbox, tmp_path, rows)
    again = await run(sandbox, tmp_path, rows_of(*({"prompt": f"Banana {n}"} for n in (4, 2, 0))))
    assert statuses(again) == ["already_landed"] * 3
    assert sandbox.stats().submits == 5


async def test_the_intent_is_durable_before_the_submit(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the API is asked, the ledger says already that it was going to be."""
    seen = []
    exchange = Connection.exchange

    async def watched(self: Connection, method: str, path: str, **sending: Any) -> Any:
        if method == "POST":
            seen.append(await entries(tmp_path))
        return await exchange(self, method, path, **sending)

    monkeypatch.setattr(Connection, "exchange", watched)
    [row] = rows = prompts(1)
    await run(sandbox, tmp_path, rows)
    assert seen == [{row.key: AttemptState.RESERVED}]
    assert await entries(tmp_path) == {row.key: AttemptState.SUBMITTED}


async def test_few_rows_are_intended_at_a_time(sandbox: Sandbox, tmp_path: Path) -> None:
    """Of many rows under way, those without an answer at a kill are only those being submitted."""
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=0.2))
    rows = prompts(30)
    async with opened(sandbox, tmp_path, rows, in_flight=30) as made:
        processing = asyncio.create_task(made.process_each(rows))
        while sandbox.stats().submits < 8:
            known = await entries(tmp_path)
            assert sum(state is AttemptState.RESERVED for state in known.values()) <= 4
        processing.cancel()
        await asyncio.gather(processing, return_exceptions=True)


async def test_a_cancelled_run_notes_the_submits_under_way(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Cancelling waits for the answers to what was sent, so that nothing is left unknown."""
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=0.3))
    rows = prompts(10)
    async with opened(sandbox, tmp_path, rows) as made:
        processing = asyncio.create_task(made.process_each(rows))
        await until(lambda: sandbox.stats().faults_fired)
        processing.cancel()
        await asyncio.gather(processing, return_exceptions=True)
    known = await entries(tmp_path)
    assert set(known.values()) == {AttemptState.SUBMITTED}
    assert len(known) == sandbox.stats().submits
    assert statuses(await run(sandbox, tmp_path, rows)) == ["landed"] * 10
    assert sandbox.stats().submits == 10


async def test_a_lost_answer_is_unconfirmed_and_not_repeated(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A submit that may have been billed is told as such, by this run and by the next."""
    sandbox.add_fault(ANSWER_LOST)
    rows = prompts(1)
    for _ in range(2):
        outcomes = await run(sandbox, tmp_path, rows)
        assert classes(outcomes) == ["UnconfirmedSubmit"]
        assert outcomes[0].task_id == ""
    assert sandbox.stats().submits == 1


async def test_unconfirmed_rows_are_submitted_again_on_request(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """With retry=unconfirmed, and only with it, the row is paid for once more."""
    sandbox.add_fault(ANSWER_LOST)
    rows = prompts(1)
    await run(sandbox, tmp_path, rows)
    assert statuses(await run(sandbox, tmp_path, rows, retry=[Failure.UNCONFIRMED])) == ["landed"]
    assert sandbox.stats().submits == 2
    assert statuses(await run(sandbox, tmp_path, rows, retry=[Failure.UNCONFIRMED])) == [
        "already_landed"
    ]
    assert sandbox.stats().submits == 2


async def test_a_callback_reveals_the_task_of_a_lost_answer(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """What a job-bound callback tells makes an unconfirmed row land without being paid twice."""
    sandbox.add_fault(ANSWER_LOST)
    addresses: list[str] = []

    def address(job_key: str) -> str:
        addresses.append(job_key)
        return f"https://receiver.invalid/{job_key}"

    rows = prompts(1)
    async with opened(sandbox, tmp_path, rows, callback_url=address) as made:
        processing = asyncio.create_task(made.process_each(rows))

        async def is_unconfirmed() -> bool:
            return AttemptState.UNCONFIRMED in (await entries(tmp_path)).values()

        await until(is_unconfirmed)
        made.submitter.reveal("another job", "another task")
        [submit] = sandbox.submits()
        assert submit.task_id
        made.submitter.reveal(addresses[0], submit.task_id)
        await processing
        assert statuses([made.outcomes[1]]) == ["landed"]
    assert sandbox.stats().submits == 1


async def test_an_intent_of_a_killed_run_is_unconfirmed(sandbox: Sandbox, tmp_path: Path) -> None:
    """An intent without an answer may have been sent: it is told, and submitted on request only."""
    [row] = rows = prompts(1)
    assert row.request
    async with open_ledger(StorageLocation(str(tmp_path))) as ledger:
        await ledger.reserve(row, row.request)
    assert classes(await run(sandbox, tmp_path, rows)) == ["UnconfirmedSubmit"]
    assert sandbox.stats().submits == 0
    assert statuses(await run(sandbox, tmp_path, rows, retry=[Failure.UNCONFIRMED])) == ["landed"]


async def test_two_runs_at_once_submit_each_row_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """Runs that overlap share the rows out among them: no row is paid for twice."""
    rows = prompts(20)
    both = await asyncio.gather(*(run(sandbox, tmp_path, rows, patience=PATIENT) for _ in "ab"))
    assert sandbox.stats().submits == 20
    assert all(outcome.in_storage for outcomes in both for outcome in outcomes)


async def test_refused_rows_stay_refused_until_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    """What the API refused costs nothing, is not asked again by itself, and is on request."""
    sandbox.add_fault(Fault(kind="body-code", code=422, on="submit"))
    rows = prompts(1)
    assert classes(await run(sandbox, tmp_path, rows)) == ["BadRequest"]
    sandbox.clear_faults()
    before = sandbox.stats().requests
    assert classes(await run(sandbox, tmp_path, rows)) == ["BadRequest"]
    assert sandbox.stats().requests == before
    assert statuses(await run(sandbox, tmp_path, rows, retry=[Failure.REFUSED])) == ["landed"]
    assert sandbox.stats().submits == 1


async def test_a_task_unknown_to_another_key_is_not_given_up(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A run with another account's key leaves a paid task to the next run; only `retry` pays."""
    sandbox.configure(submitted_task=TaskPlan(seconds=1000))
    rows = prompts(1)
    assert classes(await hasty(sandbox, tmp_path, rows, timeout=0.1)) == ["WaitTimedOut"]
    with Sandbox() as other:
        assert classes(await hasty(other, tmp_path, rows)) == ["UnknownTask"]
        assert other.stats().submits == 0
    sandbox.advance(1000)
    assert statuses(await hasty(sandbox, tmp_path, rows)) == ["landed"]
    again = await hasty(sandbox, tmp_path, rows, retry=[Failure.UNKNOWN_TASK])
    assert statuses(again) == ["already_landed"]
    assert sandbox.stats().submits == 1


async def test_a_row_just_submitted_may_be_invisible_for_long(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A task whose id the service has just given is not given up because record-info lags."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0, invisible_seconds=1))
    assert statuses(await hasty(sandbox, tmp_path, prompts(3))) == ["landed"] * 3


async def test_an_unknown_task_is_submitted_again_on_request(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A row whose task the service has lost is paid for again where that is asked for."""
    rows = prompts(1)
    with Sandbox() as other:
        other.configure(submitted_task=TaskPlan(seconds=0))
        await hasty(other, tmp_path / "other", rows)
        [entry] = (tmp_path / "other/.nanobanana/ledger").glob("*.1.json")
        (tmp_path / ".nanobanana/ledger").mkdir(parents=True)
        entry.rename(tmp_path / ".nanobanana/ledger" / entry.name)
    assert classes(await hasty(sandbox, tmp_path, rows)) == ["UnknownTask"]
    again = await hasty(sandbox, tmp_path, rows, retry=[Failure.UNKNOWN_TASK])
    assert statuses(again) == ["landed"]
    assert sandbox.stats().submits == 1


async def test_an_outage_leaves_few_rows_unconfirmed(sandbox: Sandbox, tmp_path: Path) -> None:
    """While the service is down, no row after row is sent into the dark; then it goes on."""
    sandbox.add_fault(Fault(kind="http-status", status=503, on="api"))
    rows = prompts(60)
    running = asyncio.create_task(run(sandbox, tmp_path, rows, in_flight=60))
    await until(lambda: sandbox.stats().requests.get("credit", 0) >= 3)
    sandbox.clear_faults()
    outcomes = await running
    told = Counter(classes(outcomes))
    assert set(told) == {"UnconfirmedSubmit", None}
    assert told["UnconfirmedSubmit"] <= 4
    again = await run(sandbox, tmp_path, rows, retry=[Failure.UNCONFIRMED])
    assert all(outcome.in_storage for outcome in again)
    assert sandbox.stats().submits == 60


@pytest.mark.parametrize("status", [404, 503])
async def test_submits_that_are_never_answered_end_the_submitting(
    sandbox: Sandbox, tmp_path: Path, status: int
) -> None:
    """Where the API is up and yet no submit is answered, most rows are not even tried."""
    sandbox.add_fault(Fault(kind="http-status", status=status, on="submit"))
    rows = prompts(60)
    outcomes = await run(sandbox, tmp_path, rows, in_flight=60)
    told = Counter(classes(outcomes))
    assert set(told) == {"UnconfirmedSubmit", "ServerError"}
    assert told["UnconfirmedSubmit"] <= submitting.MAX_UNCONFIRMED_IN_A_ROW + 3
    sandbox.clear_faults()
    again = await run(sandbox, tmp_path, rows)
    assert statuses(again).count("landed") == told["ServerError"]


async def test_a_submit_that_another_run_releases_is_made(sandbox: Sandbox, tmp_path: Path) -> None:
    """A reservation that another run noted and then released leaves nothing to wait for."""
    [row] = rows = prompts(1)
    assert row.request
    async with (
        open_ledger(StorageLocation(str(tmp_path))) as other,
        opened(sandbox, tmp_path, rows, patience=PATIENT) as made,
    ):
        entry, _ = await other.reserve(row, row.request)
        running = asyncio.create_task(made.process_each(rows))
        await until(lambda: "another run" in made.submitter.waits.describe())
        await other.release(entry)
        await running
        assert statuses([made.outcomes[1]]) == ["landed"]
    assert {path.name for path in (tmp_path / ".nanobanana/ledger").glob("*.*.json")} == {
        f"{row.key}.1.json",
        f"{row.key}.2.json",
    }


async def test_a_deleted_entry_is_remembered_by_the_summary(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Where a person has an entry deleted, its row is not paid for again while it is known of."""
    rows = prompts(1)
    first = (await run(sandbox, tmp_path, rows))[0].task_id
    async with open_ledger(StorageLocation(str(tmp_path))) as ledger:
        await ledger.load()
        await ledger.summarise()
    [entry] = (tmp_path / ".nanobanana/ledger").glob("*.1.json")
    entry.unlink()
    [outcome] = await run(sandbox, tmp_path, rows)
    assert (outcome.status.value, outcome.task_id) == ("already_landed", first)
    assert sandbox.stats().submits == 1


@pytest.mark.parametrize(
    ("code", "failure", "other"),
    [
        (400, Failure.CONTENT_POLICY, Failure.GENERATION_FAILED),
        (501, Failure.GENERATION_FAILED, Failure.CONTENT_POLICY),
    ],
)
async def test_failed_generations_are_retried_by_kind(
    sandbox: Sandbox, tmp_path: Path, code: int, failure: Failure, other: Failure
) -> None:
    """A generation that failed is paid for again only where its own kind is asked for."""
    sandbox.configure(
        submitted_task=TaskPlan(seconds=0, outcome="generate-failed", error_code=code)
    )
    rows = prompts(1)
    assert classes(await run(sandbox, tmp_path, rows)) == ["GenerationFailed"]
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    assert classes(await run(sandbox, tmp_path, rows, retry=[other])) == ["GenerationFailed"]
    assert sandbox.stats().submits == 1
    assert statuses(await run(sandbox, tmp_path, rows, retry=[failure])) == ["landed"]
    assert sandbox.stats().submits == 2


async def test_a_failed_row_that_was_changed_is_submitted(sandbox: Sandbox, tmp_path: Path) -> None:
    """Correcting the prompt of a row that failed is all it takes; nothing landed for it yet."""
    failing = TaskPlan(seconds=0, outcome="generate-failed", error_code=400)
    sandbox.configure(submitted_task=failing)
    await run(sandbox, tmp_path, rows_of({"key": "a", "prompt": "Bad"}))
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    again = await run(sandbox, tmp_path, rows_of({"key": "a", "prompt": "Good"}))
    assert statuses(again) == ["landed"]


async def test_a_landed_row_that_was_changed_is_told_and_left(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A row with a key is recognised when its prompt changes, and paid for again on request."""
    await run(sandbox, tmp_path, rows_of({"name": "a", "prompt": "Old", "numImages": 2}))
    changed = rows_of({"name": "a", "prompt": "New"})
    [outcome] = await run(sandbox, tmp_path, changed)
    assert (outcome.status.value, outcome.changed) == ("already_landed", True)
    [outcome] = await run(sandbox, tmp_path, changed, retry=[Failure.CHANGED])
    assert (outcome.status.value, outcome.changed) == ("landed", False)
    assert [
        path.stem for path in tmp_path.iterdir() if path.suffix in (".png", ".jpg", ".webp")
    ] == ["a"]
    [outcome] = await run(sandbox, tmp_path, changed, retry=[Failure.CHANGED])
    assert outcome.status.value == "already_landed"
    assert sandbox.stats().submits == 2


async def test_credits_that_run_out_end_the_submitting_only(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """What was submitted lands, what was not says so, and a run after topping up goes on."""
    sandbox.configure(credits=12)
    rows = prompts(8)
    outcomes = await run(sandbox, tmp_path, rows, in_flight=2)
    assert statuses(outcomes) == ["landed"] * 3 + ["failed"] * 5
    assert set(classes(outcomes[3:])) == {"OutOfCredits"}
    assert outcomes[7].error
    assert "run again" in outcomes[7].error.message
    assert sandbox.stats().submits_refused <= 2
    sandbox.configure(credits=1000)
    assert statuses(await run(sandbox, tmp_path, rows)) == ["already_landed"] * 3 + ["landed"] * 5
    assert sandbox.stats().submits == 8


async def test_maintenance_ends_the_submitting(sandbox: Sandbox, tmp_path: Path) -> None:
    """A service under maintenance is not asked row after row; the rows not tried stay untried."""
    sandbox.add_fault(Fault(kind="body-code", code=455, on="submit"))
    rows = prompts(30)
    outcomes = await run(sandbox, tmp_path, rows, in_flight=30)
    assert set(classes(outcomes)) == {"ServerError"}
    assert await entries(tmp_path) == {}
    sandbox.clear_faults()
    assert statuses(await run(sandbox, tmp_path, rows)) == ["landed"] * 30
    assert sandbox.stats().submits == 30


async def test_a_refused_key_ends_the_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """A key that is refused is told once, and leaves no row in doubt."""
    sandbox.add_fault(Fault(kind="body-code", code=401, on="submit"))
    async with opened(sandbox, tmp_path, prompts(5)) as made:
        with pytest.raises(errors.Unauthorized):
            await made.process_each(made.rows)
        assert isinstance(made.abort_error, errors.Unauthorized)
        report = made.report(finished=True)
    assert {outcome.status.value for outcome in report.outcomes} == {"failed"}
    assert await entries(tmp_path) == {}


async def test_429s_are_ridden_out_without_a_second_payment(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Submits that are refused for their rate are sent again; each row is billed once."""
    sandbox.configure(
        rate_limits=(RateLimit(on="submit", requests=3, per_seconds=2.0, retry_after=True),)
    )
    outcomes = await run(sandbox, tmp_path, prompts(8))
    assert statuses(outcomes) == ["landed"] * 8
    assert sandbox.stats().submits == 8
    assert sandbox.stats().rate_limited > 0


async def test_a_service_out_of_reach_ends_the_submitting(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are not tried for ever, one after the other, where no connection can be made."""
    nowhere = "http://127.0.0.1:9"
    rows = prompts(30)
    async with (
        NanoBananaClient(sandbox.api_key, nowhere) as client,
        await Destination.open(str(tmp_path)) as place,
        open_ledger(StorageLocation(str(tmp_path))) as ledger,
        open_lander((), client, place, poll=QUICK, expecting=30) as landing,
    ):
        submitter = Submitter(client, ledger, timeout=0.2, patience=Patience(submit=0.1))
        made = Batch("m", "d", rows, submitter, landing, in_flight=30)
        await made.process_each(rows)
    assert set(classes(list(made.outcomes.values()))) == {"NetworkError"}
    assert await entries(tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("package.json", b'{"name": "package", "version": "1.0.0"}'),
        ("package.json", b'{"version": 2, "task_id": "later"}'),
        ("package.png", b"a holiday"),
        ("package-1.jpg", b"a holiday"),
    ],
)
async def test_a_file_of_somebody_else_under_a_rows_name_is_not_replaced(
    sandbox: Sandbox, tmp_path: Path, file: str, content: bytes
) -> None:
    """A row whose files would replace others is refused before anything is spent."""
    (tmp_path / file).write_bytes(content)
    rows = rows_of({"name": "b", "prompt": "y"}, {"name": "package", "prompt": "y"})
    async with opened(sandbox, tmp_path, rows) as made:
        with pytest.raises(errors.InvalidInput, match="row 2: package would replace"):
            await made.refuse_taken_names()
    assert (tmp_path / file).read_bytes() == content
    assert sandbox.stats().submits == 0


async def test_a_taken_name_is_told_before_anything_is_spent(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A name whose receipt is another task's would replace a paid image."""
    await run(sandbox, tmp_path, rows_of({"name": "a", "key": "old", "prompt": "x"}))
    rows = rows_of({"name": "b", "prompt": "y"}, {"name": "a", "key": "new", "prompt": "y"})
    async with opened(sandbox, tmp_path, rows) as made:
        with pytest.raises(errors.InvalidInput, match="row 2: a is task"):
            await made.refuse_taken_names()
    async with opened(
        sandbox, tmp_path, rows_of({"name": "a", "key": "old", "prompt": "x"})
    ) as made:
        await made.refuse_taken_names()


async def test_a_ledger_that_cannot_be_written_spends_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the reservation cannot be noted, nothing is submitted."""

    async def full(*_: Any) -> bool:
        raise errors.StorageError("no space left")

    monkeypatch.setattr(Ledger, "_create", full)
    assert classes(await run(sandbox, tmp_path, prompts(2))) == ["StorageError"] * 2
    assert sandbox.stats().submits == 0


async def test_a_task_that_cannot_be_noted_is_landed_and_told(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A paid task is not lost when the ledger fails just then: it lands, and the log names it."""
    publish = Destination.publish

    async def failing(self: Destination, name: str, *arguments: Any) -> None:
        if "ledger" in self.path:
            raise errors.StorageError("no space left")
        await publish(self, name, *arguments)

    monkeypatch.setattr(Destination, "publish", failing)
    [outcome] = await run(sandbox, tmp_path, prompts(1))
    assert outcome.status.value == "landed"
    assert outcome.task_id in caplog.text


@pytest.mark.parametrize("damaged", [b"", b"{", b"\0" * 300, b"\xff", b'{"version": 2}'])
async def test_a_damaged_entry_concerns_its_row_only(
    sandbox: Sandbox, tmp_path: Path, damaged: bytes
) -> None:
    """Whether its row was paid for is never guessed: it is reported, and the others go on."""
    rows = prompts(4)
    await run(sandbox, tmp_path, rows[:2])
    entry = tmp_path / f".nanobanana/ledger/{rows[0].key}.1.json"
    entry.write_bytes(damaged)
    outcomes = await run(sandbox, tmp_path, rows)
    assert statuses(outcomes) == ["failed", "already_landed", "landed", "landed"]
    assert outcomes[0].error
    assert outcomes[0].error.class_name == "UnconfirmedSubmit"
    assert str(entry) in outcomes[0].error.message
    assert "delete" not in outcomes[0].error.message
    assert sandbox.stats().submits == 4
    again = await run(sandbox, tmp_path, rows, retry=[Failure.UNCONFIRMED])
    assert statuses(again) == ["landed"] + ["already_landed"] * 3
    assert entry.read_bytes() == damaged


@pytest.mark.parametrize("lost", [True, False])
async def test_a_receipt_that_names_the_row_is_adopted(
    sandbox: Sandbox, tmp_path: Path, lost: bool
) -> None:
    """A row whose ledger entry is deleted or damaged is known by its receipt, and paid for once."""
    rows = rows_of({"name": "a", "prompt": "x"}, {"name": "b", "prompt": "y"})
    await run(sandbox, tmp_path, rows)
    entry = tmp_path / ".nanobanana/ledger/a.1.json"
    if lost:
        entry.unlink()
    else:
        entry.write_bytes(b"\0\0")
    for _ in range(2):
        async with opened(sandbox, tmp_path, rows) as made:
            await made.refuse_taken_names()
            await made.process_each(rows)
            assert statuses(list(made.outcomes.values())) == ["already_landed"] * 2
    changed = rows_of({"name": "a", "prompt": "changed"}, {"name": "b", "prompt": "y"})
    async with opened(sandbox, tmp_path, changed) as made:
        await made.refuse_taken_names()
        await made.process_each(changed)
        assert [made.outcomes[n].changed for n in (1, 2)] == [True, False]
    assert sandbox.stats().submits == 2


async def test_an_older_receipt_without_its_entry_concerns_its_row_only(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A receipt that does not tell its row is never taken for it; the other rows go on."""
    await run(sandbox, tmp_path, rows_of({"name": "a", "prompt": "x"}))
    receipt = json.loads((tmp_path / "a.json").read_text())
    del receipt["row_key"], receipt["row_digest"]
    (tmp_path / "a.json").write_text(json.dumps(receipt))
    (tmp_path / ".nanobanana/ledger/a.1.json").unlink()
    rows = rows_of({"name": "a", "prompt": "x"}, {"name": "b", "prompt": "y"})
    async with opened(sandbox, tmp_path, rows) as made:
        await made.refuse_taken_names()
        await made.process_each(rows)
        told = [made.outcomes[1], made.outcomes[2]]
    assert statuses(told) == ["failed", "landed"]
    assert told[0].error
    assert f"task_id {receipt['task_id']}" in told[0].error.message
    assert sandbox.stats().submits == 2


async def test_the_summary_spares_reading_each_entry(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is answered is read from one file; what is not in it, one by one."""
    rows = prompts(6)
    await run(sandbox, tmp_path, rows[:4])
    async with open_ledger(StorageLocation(str(tmp_path))) as ledger:
        await ledger.load()
        await ledger.summarise()
    await run(sandbox, tmp_path, rows[4:])
    read: list[str] = []
    original = Destination.read

    async def counted(self: Destination, name: str) -> bytes | None:
        read.append(name)
        return await original(self, name)

    monkeypatch.setattr(Destination, "read", counted)
    known = await entries(tmp_path)
    assert len(known) == 6
    assert len([name for name in read if name.endswith(".1.json")]) == 2


async def test_the_report_is_kept_up_to_date(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report beside the images tells of what has landed while the batch goes on."""
    rows = rows_of({"prompt": "a"}, {"prompt": "b", "endpoint": "generate-2"})
    file = tmp_path / "rows.report.json"

    def told() -> BatchReport:
        return BatchReport.model_validate_json(file.read_bytes())

    async with opened(sandbox, tmp_path, rows) as made, keeping_report(made, pause_seconds=0.05):
        await made.process(rows[0])
        await until(lambda: file.exists() and told().outcomes)
        assert (told().rows, told().finished_at) == (2, None)
        await made.process(rows[1])
    report = BatchReport.model_validate_json(file.read_bytes())
    assert report.finished_at
    assert report.counts["landed"] == report.submitted == 2
    assert report.credits_estimated == 12
