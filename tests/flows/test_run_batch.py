"""The batch flow and the sweep, against a real Prefect server and a real API sandbox."""

import asyncio
import csv
import datetime
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4
from zoneinfo import ZoneInfo

import anyio
import pytest
from prefect import get_client
from prefect.blocks.fields import SecretDict
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, ParameterTypeError
from prefect.flow_engine import run_flow_async
from prefect.logging.configuration import setup_logging
from prefect.states import Failed, Running, Scheduled

from flows.run_batch import run_batch, run_shard
from flows.sweep import sweep
from nanobanana_blocks import ImageStore, PollPolicy, errors
from nanobanana_blocks.api.details import TaskStatus
from nanobanana_blocks.batches import opening
from nanobanana_blocks.batches.ledger import (
    AttemptState,
    Failure,
    Ledger,
    SubmissionAttempt,
    open_ledger,
)
from nanobanana_blocks.batches.manifest import InvalidManifest, Row, RowDefaults, parse_manifest
from nanobanana_blocks.batches.plan import BatchPlan
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.batches.submitter import Patience
from nanobanana_blocks.callbacks import ReceivedCallback, verify_callback_token
from nanobanana_blocks.landing.receipt import Receipt
from nanobanana_blocks.orchestration.account_budget import budget_name
from nanobanana_blocks.orchestration.callback_events import event_of
from nanobanana_blocks.orchestration.observability import artifacts, plan_artifacts, progress
from nanobanana_blocks.orchestration.observability.wakeups import reveal_from_kept_events
from nanobanana_blocks.orchestration.runs import child_runs
from nanobanana_blocks.orchestration.runs import shards as sharding
from nanobanana_blocks.orchestration.runs.batch_runs import Shard
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.prefect_runs import PROJECT, artifact_of, last_run, prefect, task_runs_of
from tests.support.storage_servers import s3_server
from tests.support.until import block_until, until

pytestmark = pytest.mark.usefixtures("prefect_api")

SOON = PollPolicy.fixed(0.05)
SECRET = "a-callback-secret-that-nobody-guesses"
RECEIVER = "https://receiver.invalid"
REFUSED = TaskPlan(seconds=0, outcome="generate-failed", error_code=400, error_message="No")
ANSWER_LOST = Fault(kind="drop", on="submit", takes_effect=True, count=1)


@pytest.fixture(autouse=True)
def quick(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images, soon generated; and no patience with what would otherwise be waited for."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0.05), image_bytes=5000)
    monkeypatch.setattr(
        opening, "PATIENCE", Patience(unowned=0, living=0, poll=0.05, unreachable=0.2)
    )


class Lines(logging.Handler):
    """Keeps what is logged, with its arguments."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("uvicorn"):
            self.lines.append(f"{self.format(record)} {record.args!r}")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def log() -> Iterator[Lines]:
    """All that runs and this package log."""
    setup_logging()
    handler = Lines()
    loggers = [logging.getLogger(name) for name in ("", "prefect.flow_runs", "prefect.task_runs")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)


def write(path: Path, *rows: dict[str, Any]) -> str:
    """Write a JSONL manifest and return its path."""
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Banana {number}", "name": f"b{number}"} for number in range(1, count + 1)]


async def run(manifest: str, folder: Path | str, **options: Any) -> BatchReport:
    report: BatchReport = await run_batch(manifest, str(folder), poll=SOON, **options)
    return report


def statuses(report: BatchReport) -> list[str]:
    return [outcome.status.value for outcome in report.outcomes]


def pictures(folder: Path) -> set[str]:
    """The names of images that have a receipt."""
    return {
        image["name"].partition(".")[0]
        for path in folder.glob("*.json")
        if not path.name.endswith(".report.json")
        for image in json.loads(path.read_text())["images"]
        if (folder / image["name"]).stat().st_size == image["size"]
    }


@asynccontextmanager
async def ledger_of(folder: Path) -> AsyncIterator[Ledger]:
    async with open_ledger(StorageLocation(str(folder))) as ledger:
        await ledger.load()
        yield ledger


async def entries(folder: Path) -> dict[str, SubmissionAttempt]:
    """What the ledger says of each row's last attempt, by key."""
    async with ledger_of(folder) as ledger:
        return {entry.key: entry for entry in ledger.entries()}


async def forward_callback(task_id: str, job_key: str) -> None:
    """Do what the receiver does with a callback: give Prefect its event."""
    callback = ReceivedCallback(
        task_id=task_id,
        status=TaskStatus.SUCCESS,
        received_at=datetime.datetime.now(datetime.UTC),
        job_key=job_key,
    )
    async with get_client() as client:
        answer = await client.request("POST", "/events", json=[event_of(callback)])
        answer.raise_for_status()


async def until_kept(job_key: str) -> None:
    """Return as soon as Prefect has stored the event of a job."""
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)

    async def kept() -> list[str]:
        found: list[str] = []
        await reveal_from_kept_events([job_key], since, lambda job, _: found.append(job))
        return found

    await until(kept)


class TestManifests:
    """A manifest is checked whole, then every row of it lands."""

    async def test_jsonl(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Prompts and task ids land under the names of their rows, in the manifest's order."""
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        manifest = write(
            tmp_path / "tonight.jsonl",
            {"prompt": "A banana", "name": "first"},
            {"prompt": "Two", "numImages": 2, "name": "pair"},
            {"task_id": task_id, "name": "given"},
        )
        report = await run(manifest, tmp_path / "images")
        assert statuses(report) == ["landed"] * 3
        assert [outcome.name for outcome in report.outcomes] == ["first", "pair", "given"]
        assert pictures(tmp_path / "images") == {"first", "pair-1", "pair-2", "given"}
        assert (report.submitted, report.credits_estimated) == (2, 12)
        assert report.credits_before == 10_000

    async def test_csv(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A spreadsheet is a manifest too; its rows are numbered as it shows them."""
        text = io.StringIO()
        csv.writer(text).writerows([["name", "prompt"], ["a", "One, two"], ["b", "Three"]])
        (tmp_path / "rows.csv").write_text(text.getvalue())
        defaults = RowDefaults(image_size="16:9")
        report = await run(str(tmp_path / "rows.csv"), tmp_path / "images", defaults=defaults)
        assert [outcome.row for outcome in report.outcomes] == [2, 3]
        assert pictures(tmp_path / "images") == {"a", "b"}
        bodies = [submit.body for submit in sandbox.submits()]
        assert sorted(body["prompt"] for body in bodies) == ["One, two", "Three"]
        assert {body["image_size"] for body in bodies} == {"16:9"}

    async def test_all_problems_are_told_at_once(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A bad manifest is one error with everything in it, before the API is asked anything."""
        manifest = write(
            tmp_path / "bad.jsonl",
            {"prompt": "ok", "name": "a"},
            {"prompt": "ok", "name": "a"},
            {"prompt": "ok", "nmae": "b"},
            {"name": "c"},
        )
        with pytest.raises(InvalidManifest, match=r"bad\.jsonl has 3 problems") as caught:
            await run(manifest, tmp_path / "images")
        assert [problem.row for problem in caught.value.problems] == [2, 3, 4]
        assert sandbox.stats().requests == {}
        assert not (tmp_path / "images").exists()

    async def test_a_missing_manifest(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A manifest that is not there is one clear error that names it."""
        with pytest.raises(errors.DestinationError, match=r"none\.jsonl: there is no such file"):
            await run(str(tmp_path / "none.jsonl"), tmp_path / "images")
        assert sandbox.stats().requests == {}

    async def test_in_s3_by_a_block(self, sandbox: Sandbox) -> None:
        """A store's options reach the manifest in its bucket; {date} in its URL is replaced."""
        with s3_server() as s3:
            store = ImageStore(
                url="s3://bucket/images/{date}", storage_options=SecretDict(s3.options())
            )
            await store.asave("batch-s3", overwrite=True)
            body = b'{"prompt": "A banana", "name": "a"}'
            s3.client.put_object(Bucket="bucket", Key="manifests/2026-01-02.jsonl", Body=body)
            manifest, day = "s3://bucket/manifests/{date}.jsonl", datetime.date(2026, 1, 2)
            report = await run(manifest, "batch-s3", date=day)
            again = await run(manifest, "batch-s3", date=day)
            listed = s3.client.list_objects_v2(Bucket="bucket", Prefix="images/")["Contents"]
        names = {item["Key"].removeprefix("images/2026-01-02/") for item in listed}
        assert statuses(report) == ["landed"]
        assert statuses(again) == ["already_landed"]
        assert report.manifest == "s3://bucket/manifests/2026-01-02.jsonl"
        assert {"a.json", "2026-01-02.report.json", ".nanobanana/ledger/a.1.json"} <= names
        assert sandbox.stats().submits == 1


class TestDates:
    """{date} is the day given, or that on which the run was scheduled, where the user is."""

    async def test_given(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A date that is given is that of the manifest and of the destination."""
        write(tmp_path / "2026-01-02.jsonl", *prompts(1))
        report = await run(
            str(tmp_path / "{date}.jsonl"), tmp_path / "{date}", date=datetime.date(2026, 1, 2)
        )
        assert report.destination == str(tmp_path / "2026-01-02")
        assert pictures(tmp_path / "2026-01-02") == {"b1"}
        assert (await last_run()).name == f"2026-01-02.jsonl to {tmp_path}/2026-01-02"

    async def test_of_the_schedule(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A run that starts late has the date for which it was scheduled, in its time zone."""
        write(tmp_path / "2020-07-02.jsonl", *prompts(1))
        parameters: dict[str, Any] = {
            "manifest": str(tmp_path / "{date}.jsonl"),
            "destination": str(tmp_path / "{date}"),
            "timezone": "Europe/Berlin",
            "poll": SOON,
        }
        evening = datetime.datetime(2020, 7, 1, 22, 30, tzinfo=ZoneInfo("UTC"))
        async with get_client() as client:
            planned = await client.create_flow_run(
                run_batch, parameters=parameters, state=Scheduled(scheduled_time=evening)
            )
        await run_flow_async(run_batch, flow_run=planned, parameters=parameters)
        assert pictures(tmp_path / "2020-07-02") == {"b1"}
        async with get_client() as client:
            done = await client.read_flow_run(planned.id)
        assert done.name == f"2020-07-02.jsonl to {tmp_path}/2020-07-02"

    @pytest.mark.parametrize("timezone", ["Mars/Olympus", "", "Europe", "../etc"])
    async def test_unknown_time_zone(self, sandbox: Sandbox, tmp_path: Path, timezone: str) -> None:
        """A time zone that does not exist is one clear error."""
        manifest = write(tmp_path / "rows.jsonl", *prompts(1))
        with pytest.raises(errors.InvalidInput, match="is not known: write Europe/Berlin"):
            await run(manifest, tmp_path / "images", timezone=timezone)
        assert sandbox.stats().requests == {}


class TestCredits:
    """An account that is too poor is told of before, or met in the middle without a loss."""

    async def test_too_few_before_the_first_submit(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """One error has the figures and what to do; nothing is spent."""
        sandbox.configure(credits=8)
        manifest = write(tmp_path / "rows.jsonl", *prompts(4))
        with pytest.raises(errors.OutOfCredits, match=r"has 8 credits; 4 rows .* about 16\. Top"):
            await run(manifest, tmp_path / "images")
        assert sandbox.stats().submits == sandbox.stats().submits_refused == 0

    async def test_as_far_as_they_last(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Without the check what the credits last for lands, and a run after topping up goes on."""
        sandbox.configure(credits=8)
        manifest = write(tmp_path / "rows.jsonl", *prompts(4))
        with pytest.raises(errors.IncompleteLanding, match="Top up, then run again") as caught:
            await run(manifest, tmp_path / "images", check_credits=False, in_flight=1)
        assert statuses(caught.value.report) == ["landed", "landed", "failed", "failed"]
        sandbox.configure(credits=1000)
        report = await run(manifest, tmp_path / "images")
        assert statuses(report) == ["already_landed"] * 2 + ["landed"] * 2
        assert sandbox.stats().submits == 4

    async def test_prices_of_the_users(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Estimate and check use the figures that are given; a name that is none ends it."""
        sandbox.configure(credits=8)
        manifest = write(tmp_path / "rows.jsonl", *prompts(2))
        with pytest.raises(errors.OutOfCredits, match=r"about 9\. Top"):
            await run(manifest, tmp_path / "images", prices={"generate": 4.5})
        with pytest.raises(errors.InvalidInput, match="did you mean generate-2"):
            await run(manifest, tmp_path / "images", prices={"generat-2": 1})
        report = await run(manifest, tmp_path / "images", prices={"generate": 2.5})
        assert report.credits_estimated == 5
        assert {entry.credits for entry in (await entries(tmp_path / "images")).values()} == {2.5}

    async def test_max_credits(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """What fits is submitted and lands, the rest is held back; the next run goes on."""
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(3)), tmp_path / "images"
        with pytest.raises(errors.InvalidInput, match="max_credits is 3, and row 1"):
            await run(manifest, images, max_credits=3)
        assert sandbox.stats().submits == 0
        told = r"2 landed, 1 held back\. max_credits \(11\) is used up\. Running again"
        with pytest.raises(errors.IncompleteLanding, match=told) as caught:
            await run(manifest, images, max_credits=11)
        flow_run = await last_run()
        assert caught.value.report.outcomes[2].error.class_name == "CreditLimitReached"
        held_back = (await task_runs_of(flow_run))["row 3: b3"].state
        # Prefect logs what is not of type COMPLETED as an error.
        assert (held_back.type.value, held_back.name) == ("COMPLETED", "Held back")
        summary = str((await artifact_of(flow_run, artifacts.SUMMARY_KEY)).data)
        assert "**Held back:** 1 row was held back by max_credits (11)" in summary
        assert "The balance went from 10,000 to 9,992, by 8" in summary
        report = await run(manifest, images, max_credits=11)
        assert (report.complete, sandbox.stats().submits) == (True, 3)

    async def test_a_dry_run(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """It gives the plan, shows it as artifacts, and spends and writes nothing."""
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(3)), tmp_path / "images"
        plan = await run(manifest, images, dry_run=True, shards=2)
        assert isinstance(plan, BatchPlan)
        assert (plan.counts["submit"], plan.credits_estimated) == (3, 12)
        assert not images.exists()
        assert set(sandbox.stats().requests) == {"credit"}
        flow_run = await last_run()
        assert flow_run.state_name == "Completed"
        shown = str((await artifact_of(flow_run, plan_artifacts.PLAN_KEY)).data)
        assert "nothing was spent or written" in shown
        assert "3 rows: 3 to submit, for about 12 credits." in shown
        table = await artifact_of(flow_run, plan_artifacts.PLANNED_ROWS_KEY)
        rows: list[dict[str, Any]] = json.loads(str(table.data))
        assert (rows[0]["action"], rows[0]["row"]) == ("submit", "1 b1")
        bad = write(tmp_path / "bad.jsonl", {"prompt": ""}, {"prompt": "a", "numImages": 9})
        with pytest.raises(InvalidManifest, match="2 problems"):
            await run(bad, images, dry_run=True)

    async def test_a_credit_endpoint_that_fails(
        self, sandbox: Sandbox, tmp_path: Path, log: Lines
    ) -> None:
        """That the credits cannot be asked for is a warning, and the batch goes on."""
        sandbox.add_fault(Fault(kind="body-code", code=500, on="credit"))
        report = await run(write(tmp_path / "rows.jsonl", *prompts(1)), tmp_path / "images")
        assert report.complete
        assert report.credits_before is None
        assert "Could not ask for the account's credits; continuing" in log.text


class TestRetries:
    """What failed is submitted again only by its kind, and then once."""

    async def test_by_kind(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A refused prompt is paid for again where its own kind is asked for, and not before."""
        sandbox.configure(submitted_task=REFUSED)
        manifest = write(tmp_path / "rows.jsonl", *prompts(1))
        await run(manifest, tmp_path / "images", allow_partial=True)
        sandbox.configure(submitted_task=TaskPlan(seconds=0))
        for retry in ((), (Failure.GENERATION_FAILED, Failure.UNCONFIRMED)):
            left = await run(manifest, tmp_path / "images", retry=retry, allow_partial=True)
            assert statuses(left) == ["failed"]
            assert sandbox.stats().submits == 1
        report = await run(manifest, tmp_path / "images", retry=(Failure.CONTENT_POLICY,))
        assert statuses(report) == ["landed"]
        assert sandbox.stats().submits == 2

    async def test_of_what_failed_in_a_later_run(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A failure that came to light after the run that had submitted is a failure as well."""
        sandbox.configure(submitted_task=REFUSED.model_copy(update={"seconds": 1000.0}))
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(1)), tmp_path / "images"
        assert statuses(await run(manifest, images, timeout=0.2, allow_partial=True)) == [
            "timed_out"
        ]
        sandbox.advance(1000)
        assert statuses(await run(manifest, images, allow_partial=True)) == ["failed"]
        sandbox.configure(submitted_task=TaskPlan(seconds=0))
        report = await run(manifest, images, retry=(Failure.CONTENT_POLICY,))
        assert statuses(report) == ["landed"]

    async def test_an_unknown_kind_is_named(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A kind of failure that does not exist is refused by Prefect's check of parameters."""
        with pytest.raises(ParameterTypeError, match="content-policy"):
            await run("rows.jsonl", tmp_path, retry=("everything",))

    async def test_a_submit_survives_what_passes_at_the_image_host(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """A row whose image came only after a while was submitted by this run all the same."""
        sandbox.add_fault(Fault(kind="http-status", on="files", status=404, count=3))
        report = await run(write(tmp_path / "rows.jsonl", *prompts(1)), tmp_path / "images")
        assert statuses(report) == ["landed"]
        assert (report.submitted, report.credits_estimated) == (1, 4)
        assert sandbox.stats().submits == 1


async def test_allow_partial(sandbox: Sandbox, tmp_path: Path) -> None:
    """What did not land fails the run at its end, unless that is allowed."""
    manifest = write(tmp_path / "rows.jsonl", *prompts(1), {"task_id": "unknown", "name": "u"})
    with pytest.raises(errors.IncompleteLanding, match=r"row 2 \(u\)"):
        await run(manifest, tmp_path / "images", timeout=0.2)
    report = await run(manifest, tmp_path / "images", timeout=0.2, allow_partial=True)
    assert statuses(report) == ["already_landed", "timed_out"]


async def test_a_refused_key_is_one_clear_error(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails once, no row is left in doubt, and not every row asks for itself."""
    monkeypatch.setenv("NANOBANANA_API_KEY", "not-the-key")
    manifest = write(tmp_path / "rows.jsonl", *prompts(30))
    with pytest.raises(errors.Unauthorized, match="IP allow list"):
        await run(manifest, tmp_path / "images", check_credits=False)
    assert sandbox.stats().requests["generate"] < 10
    assert await entries(tmp_path / "images") == {}


async def test_a_cancelled_run_tells_what_it_has_submitted(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The report of a run that was ended knows of the tasks that it has paid for."""
    sandbox.configure(submitted_task=TaskPlan(seconds=None))
    manifest, images = write(tmp_path / "rows.jsonl", *prompts(3)), tmp_path / "images"
    running = asyncio.create_task(run(manifest, images, in_flight=2))
    await until(lambda: len(sandbox.stats().looks) == 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    kept = BatchReport.model_validate_json((images / "rows.report.json").read_bytes())
    assert kept.finished_at
    assert (kept.submitted, kept.credits_estimated) == (2, 8)
    assert {outcome.task_id for outcome in kept.outcomes} == {*sandbox.stats().looks, ""}


RUNS_BATCH = """
import asyncio, sys
from flows.run_batch import run_batch
asyncio.run(run_batch(sys.argv[1], sys.argv[2]))
"""


def test_sigterm_leaves_no_submit_in_doubt(
    prefect_api: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A worker's SIGTERM, for which Prefect has its own handler, waits for the answers to submits.

    The report then tells which tasks were paid for and have not landed.
    """
    sandbox.configure(submitted_task=TaskPlan(seconds=None))
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=2, takes_effect=True))
    manifest, images = write(tmp_path / "rows.jsonl", *prompts(30)), tmp_path / "images"
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS_BATCH, manifest, str(images)],
        cwd=PROJECT,
        env={**os.environ, "PREFECT_API_URL": prefect_api},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        block_until(lambda: sum(sandbox.stats().faults_fired.values()) >= 4)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "TerminationSignal" not in said, "Prefect's handler has raised in the midst of the run"
    known = asyncio.run(entries(images)).values()
    assert {entry.state for entry in known} == {AttemptState.SUBMITTED}
    assert len(known) == sandbox.stats().submits > 0
    kept = BatchReport.model_validate_json((images / "rows.report.json").read_bytes())
    told = {outcome.task_id for outcome in kept.outcomes if outcome.task_id}
    assert told == {entry.task_id for entry in known}
    assert kept.submitted == len(known)


async def test_a_summary_that_cannot_be_written_is_no_failure(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A convenience for the next run does not fail this one, in which everything has landed."""

    async def full(_: Ledger) -> None:
        raise errors.StorageError("no space left")

    monkeypatch.setattr(Ledger, "summarise", full)
    report = await run(write(tmp_path / "rows.jsonl", *prompts(2)), tmp_path / "images")
    assert statuses(report) == ["landed"] * 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(kind="html", on="api"), errors.ProtocolError),
        (Fault(kind="drop", on="api"), errors.NetworkError),
    ],
)
async def test_nothing_is_sent_where_the_api_does_not_answer(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    error: type[errors.APIError],
) -> None:
    """Prompts are not sent on to what answers neither question as the API does."""
    sandbox.add_fault(fault)
    with pytest.raises(error):
        await run(write(tmp_path / "rows.jsonl", *prompts(2)), tmp_path / "images")
    assert set(sandbox.stats().requests) == {"credit", "record-info"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="html", on="credit"),
        Fault(kind="drop", on="credit"),
        Fault(kind="http-status", status=404, on="credit"),
        Fault(kind="http-status", status=403, on="credit"),
        Fault(kind="body-code", code=402, on="credit"),
    ],
)
async def test_a_balance_that_cannot_be_learned_stops_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Rule: only a balance that says too little, or a refused key, keeps rows from being sent."""
    sandbox.add_fault(fault)
    report = await run(write(tmp_path / "rows.jsonl", *prompts(2)), tmp_path / "images")
    assert statuses(report) == ["landed"] * 2
    assert report.credits_before is None


@pytest.mark.parametrize("credits_as", ["decimal", "decimal-text"])
async def test_a_balance_with_decimals(
    sandbox: Sandbox, tmp_path: Path, credits_as: Literal["decimal", "decimal-text"]
) -> None:
    """Rule: a balance is a number, whichever way a sister product writes it."""
    sandbox.configure(credits_as=credits_as)
    report = await run(write(tmp_path / "rows.jsonl", *prompts(2)), tmp_path / "images")
    assert statuses(report) == ["landed"] * 2
    assert report.credits_before == 10_000.5


async def test_other_words_in_braces_are_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """A misspelt {date} is no folder for every night."""
    manifest = write(tmp_path / "rows.jsonl", *prompts(1))
    with pytest.raises(errors.InvalidInput, match=r"\{dat\} is no known placeholder"):
        await run(manifest, f"{tmp_path}/{{dat}}")
    assert sandbox.stats().requests == {}


async def test_nearly_a_blocks_name_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """A destination that is misspelt is no new folder, where a block's name is like it."""
    await ImageStore(url=str(tmp_path / "images")).asave("my-bucket", overwrite=True)
    manifest = write(tmp_path / "rows.jsonl", *prompts(1))
    with pytest.raises(errors.InvalidInput, match="did you mean 'my-bucket'"):
        await run(manifest, "my-buckte")
    assert sandbox.stats().requests == {}


class TestWhatIsShown:
    """The run's name, its artifacts and its report tell a person what happened."""

    async def test_artifacts_and_report(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Progress, grouped failures, rows with the failures first, thumbnails; and the file."""
        sandbox.add_fault(Fault(kind="body-code", code=422, message="Odd", on="submit", count=2))
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(4)), tmp_path / "images"
        report = await run(manifest, images, in_flight=1, allow_partial=True)
        flow_run = await last_run()
        assert flow_run.name == f"rows.jsonl to {images}"

        assert (await artifact_of(flow_run, progress.PROGRESS_KEY)).data == 100.0
        summary = str((await artifact_of(flow_run, artifacts.SUMMARY_KEY)).data)
        assert "2 submitted by this run, for about 8 credits" in summary
        assert re.search(r"\*\*BadRequest\*\*, 2 rows\. For example row 1 \(b1\): .*Odd", summary)
        table = await artifact_of(flow_run, artifacts.OUTCOMES_KEY)
        rows: list[dict[str, Any]] = json.loads(str(table.data))
        assert [(row["row"], row["status"]) for row in rows] == [
            ("1 b1", "failed"),
            ("2 b2", "failed"),
            ("3 b3", "landed"),
            ("4 b4", "landed"),
        ]
        sheet = str((await artifact_of(flow_run, artifacts.CONTACT_SHEET_KEY)).data)
        assert "data:image/jpeg;base64," in sheet

        kept = BatchReport.model_validate_json((images / "rows.report.json").read_bytes())
        assert list(kept.outcomes) == list(report.outcomes)
        assert kept.counts == report.counts
        assert kept.finished_at

    async def test_many_rows_have_few_task_runs(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Above 50 rows, groups have the task runs, named after their rows."""
        manifest = write(tmp_path / "rows.jsonl", *prompts(52))
        report = await run(manifest, tmp_path / "images")
        assert report.counts["landed"] == sandbox.stats().submits == 52
        assert await names_of_task_runs(2) == {"rows 1 to 50", "rows 51 to 52"}

    async def test_few_rows_have_one_each(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Up to 50 rows, each has a task run of its own, named after what a person knows."""
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        rows = [{"prompt": "x", "name": "a"}, {"task_id": task_id}, {"prompt": "y"}]
        await run(write(tmp_path / "rows.jsonl", *rows), tmp_path / "images")
        assert await names_of_task_runs(3) == {"row 1: a", f"row 2: {task_id}", "row 3"}

    @pytest.mark.parametrize("keep", [False, True])
    async def test_the_prompt_is_where_it_was_asked_for(
        self, sandbox: Sandbox, tmp_path: Path, log: Lines, keep: bool
    ) -> None:
        """A prompt is in the receipt where the store keeps prompts, and nowhere else."""
        prompt = f"A secret banana {uuid4().hex}"
        await ImageStore(url=str(tmp_path / "images"), keep_prompts=keep).asave(
            "batch-prompts", overwrite=True
        )
        rows = [{"prompt": prompt, "name": "a"}, {"prompt": f"{prompt}!", "name": "b"}]
        sandbox.add_fault(Fault(kind="http-status", status=500, on="submit", count=1))
        report = await run(
            write(tmp_path / "rows.jsonl", *rows), "batch-prompts", allow_partial=True
        )
        holding = {
            path.suffix
            for path in (tmp_path / "images").rglob("*")
            if path.is_file() and prompt.encode() in path.read_bytes()
        }
        assert holding == ({".json", ".jsonl", ".html"} if keep else set())
        assert len(pictures(tmp_path / "images")) == 1
        for path in (tmp_path / "images/.nanobanana").rglob("*.json"):
            assert prompt not in path.read_text()
        told = await all_that_is_shown(await last_run())
        assert prompt not in told + report.model_dump_json() + log.text


async def names_of_task_runs(count: int) -> set[str]:
    """The names of the last run's task runs, of which Prefect is told in events."""
    flow_run = await last_run()

    async def all_of_them() -> set[str]:
        found = set(await task_runs_of(flow_run))
        return found if len(found) >= count else set()

    return await until(all_of_them)


async def all_that_is_shown(flow_run: FlowRun) -> str:
    """What Prefect keeps of a run where people can read it."""
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_="nanobanana")),
            flow_run_filter=FlowRunFilter(id={"any_": [flow_run.id]}),
        )
        logs = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id])))
    assert found
    kept = [item.model_dump_json() for item in (*found, *logs, flow_run)]
    return "\n".join([*kept, *map(repr, (await task_runs_of(flow_run)).values())])


class TestCallbacks:
    """Callback addresses are bound to their submits, so that a lost answer is found again."""

    @pytest.fixture
    def secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NANOBANANA_CALLBACK_SECRET", SECRET)

    def job_key_of(self, address: str) -> str:
        token = verify_callback_token(SECRET, address.rpartition("/")[2])
        assert token
        assert token.job_key
        return token.job_key

    async def test_no_secret(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A receiver without a secret is told of before anything is spent."""
        manifest = write(tmp_path / "rows.jsonl", *prompts(1))
        with pytest.raises(errors.MissingCredentials, match="NANOBANANA_CALLBACK_SECRET"):
            await run(manifest, tmp_path / "images", receiver_url=RECEIVER)
        assert sandbox.stats().requests == {}

    async def test_a_bad_receiver_url(self, sandbox: Sandbox, secret: None, tmp_path: Path) -> None:
        """A receiver's URL that cannot be meant is told of before anything is spent."""
        manifest = write(tmp_path / "rows.jsonl", *prompts(1))
        with pytest.raises(errors.InvalidInput, match="the public URL must be like"):
            await run(manifest, tmp_path / "images", receiver_url="receiver")
        assert sandbox.stats().requests == {}

    async def test_each_submit_has_its_own(
        self, sandbox: Sandbox, secret: None, tmp_path: Path, log: Lines
    ) -> None:
        """Genuine, bound to the ledger's job keys, and shown to nobody but the service."""
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(3)), tmp_path / "images"
        report = await run(manifest, images, receiver_url=RECEIVER)
        addresses = [submit.body["callBackUrl"] for submit in sandbox.submits()]
        keys = {self.job_key_of(address) for address in addresses}
        assert keys == {entry.job_key for entry in (await entries(images)).values()}
        assert len(keys) == 3
        assert all(key.startswith("batch-") for key in keys)

        told = await all_that_is_shown(await last_run()) + report.model_dump_json() + log.text
        files = b"\n".join(path.read_bytes() for path in images.rglob("*") if path.is_file())
        tokens = {address.rpartition(".")[2] for address in addresses}
        for hidden in (sandbox.api_key, SECRET, *tokens):
            assert hidden not in told
            assert hidden.encode() not in files

    async def test_a_lost_answer_is_found_while_the_run_waits(
        self, sandbox: Sandbox, secret: None, tmp_path: Path
    ) -> None:
        """The callback tells which task was created, and the row lands without a second payment."""
        sandbox.add_fault(ANSWER_LOST)
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(1)), tmp_path / "images"
        running = asyncio.create_task(run(manifest, images, receiver_url=RECEIVER, timeout=30))
        [submit] = await until(sandbox.submits)
        assert submit.task_id
        await forward_callback(submit.task_id, self.job_key_of(submit.body["callBackUrl"]))
        report = await running
        assert statuses(report) == ["landed"]
        assert report.outcomes[0].task_id == submit.task_id
        assert sandbox.stats().submits == 1

    async def test_a_lost_answer_is_found_by_the_next_run(
        self, sandbox: Sandbox, secret: None, tmp_path: Path
    ) -> None:
        """A callback that came when no run lived is found among the events that Prefect keeps."""
        sandbox.add_fault(ANSWER_LOST)
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(1)), tmp_path / "images"
        options: dict[str, Any] = {"receiver_url": RECEIVER, "allow_partial": True}
        first = await run(manifest, images, timeout=0.2, **options)
        assert [o.error and o.error.class_name for o in first.outcomes] == ["UnconfirmedSubmit"]
        [submit] = sandbox.submits()
        assert submit.task_id
        job_key = self.job_key_of(submit.body["callBackUrl"])
        await forward_callback(submit.task_id, job_key)
        await until_kept(job_key)
        assert statuses(await run(manifest, images)) == ["landed"]
        assert sandbox.stats().submits == 1


class TestSweep:
    """The sweep lands what a killed batch had submitted."""

    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        return tmp_path / "images"

    async def leave(self, images: Path, *task_ids: str | None) -> list[SubmissionAttempt]:
        """Leave the ledger as a run that was killed: its rows submitted, or about to be."""
        rows: Sequence[Row] = parse_manifest(
            "\n".join(json.dumps(row) for row in prompts(len(task_ids))).encode(),
            source="rows.jsonl",
        ).rows
        left = []
        async with ledger_of(images) as ledger:
            for row, task_id in zip(rows, task_ids, strict=True):
                assert row.request
                entry, _ = await ledger.reserve(row, row.request)
                left.append(await ledger.submitted(entry, task_id) if task_id else entry)
        return left

    async def test_lands_under_the_names_of_the_rows(self, sandbox: Sandbox, images: Path) -> None:
        """Done lands as its row asked, failed is noted, and what runs is left for later."""
        done = sandbox.add_task(TaskPlan(seconds=0))
        failed = sandbox.add_task(REFUSED)
        running = sandbox.add_task(TaskPlan(seconds=None))
        await self.leave(images, done, failed, running)
        report = await sweep(str(images), older_than=0)
        assert {outcome.task_id: outcome.status.value for outcome in report.outcomes} == {
            done: "landed",
            failed: "failed",
            running: "timed_out",
        }
        assert pictures(images) == {"b1"}
        known = await entries(images)
        assert [known[key].state for key in ("b1", "b2", "b3")] == [
            AttemptState.SUBMITTED,
            AttemptState.FAILED,
            AttemptState.SUBMITTED,
        ]
        assert known["b2"].failure is Failure.CONTENT_POLICY
        looks = sandbox.stats().looks
        await sweep(str(images), older_than=0)
        assert sandbox.stats().looks == looks | {running: 2}

    async def test_then_the_batch_finds_it_landed(
        self, sandbox: Sandbox, images: Path, tmp_path: Path
    ) -> None:
        """Running the batch again after a sweep submits nothing and lands nothing twice."""
        await self.leave(images, sandbox.add_task(TaskPlan(seconds=0)))
        await sweep(str(images), older_than=0)
        report = await run(write(tmp_path / "rows.jsonl", *prompts(1)), images)
        assert statuses(report) == ["already_landed"]
        assert sandbox.stats().submits == 0

    async def test_lost_answers_are_found(self, sandbox: Sandbox, images: Path) -> None:
        """A submit whose run died before the answer lands by the callback that Prefect has kept."""
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        lost, _ = await self.leave(images, None, None)
        await forward_callback(task_id, lost.job_key)
        await until_kept(lost.job_key)
        report = await sweep(str(images), older_than=0)
        assert [outcome.task_id for outcome in report.outcomes] == [task_id]
        assert pictures(images) == {"b1"}
        known = await entries(images)
        assert (known["b1"].state, known["b1"].task_id) == (AttemptState.SUBMITTED, task_id)
        assert known["b2"].state is AttemptState.RESERVED

    async def test_the_young_are_left_to_their_runs(self, sandbox: Sandbox, images: Path) -> None:
        """Nothing younger than `older_than` is asked about, landed or noted."""
        left = await self.leave(images, sandbox.add_task(TaskPlan(seconds=0)), None)
        await forward_callback("some-task", left[1].job_key)
        await until_kept(left[1].job_key)
        assert (await sweep(str(images), older_than=60)).outcomes == []
        assert sandbox.stats().requests == {}
        assert list((await entries(images)).values()) == left

    async def test_the_places_of_the_last_days_are_swept(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """A destination with {date} stands for the places of the last days, and makes no others."""
        today = datetime.datetime.now(datetime.UTC).date()
        yesterday, earlier = (today - datetime.timedelta(days=ago) for ago in (1, 2))
        task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * 2)
        for day, task_id in zip((yesterday, earlier), task_ids, strict=True):
            await self.leave(tmp_path / day.isoformat(), task_id)
        report = await sweep(f"{tmp_path}/{{date}}", older_than=0)
        assert [outcome.task_id for outcome in report.outcomes] == task_ids[:1]
        assert pictures(tmp_path / yesterday.isoformat()) == {"b1"}
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [yesterday.isoformat(), earlier.isoformat()]
        )

    async def test_what_replaces_an_image_is_landed(self, sandbox: Sandbox, images: Path) -> None:
        """A row submitted anew lands although its name has the receipt of its earlier task."""
        old, new = sandbox.add_tasks([TaskPlan(seconds=0)] * 2)
        await self.leave(images, old)
        await sweep(str(images), older_than=0)
        [row] = parse_manifest(json.dumps(prompts(1)[0]).encode(), source="rows.jsonl").rows
        async with ledger_of(images) as ledger:
            assert row.request
            await ledger.load()
            entry, _ = await ledger.reserve(row, row.request)
            await ledger.submitted(entry, new)
        report = await sweep(str(images), older_than=0)
        assert {o.task_id: o.status.value for o in report.outcomes} == {new: "landed"}
        assert Receipt.model_validate_json((images / "b1.json").read_bytes()).task_id == new


class TestShards:
    """Child runs of a deployment do the parts of a batch."""

    @pytest.fixture
    async def no_limit_left(self, prefect_api: str) -> AsyncIterator[None]:
        """Delete the account's limit, which sharded batches make: other tests share the server."""
        yield
        async with get_client() as client:
            try:
                await client.delete_global_concurrency_limit_by_name(budget_name("default"))
            except ObjectNotFound:
                return

    @pytest.fixture
    def worker(self, prefect_api: str, sandbox: Sandbox) -> Iterator[None]:
        """Deploy the child runs and have a process worker at work until the test ends."""
        environment = {
            "PREFECT_API_URL": prefect_api,
            "NANOBANANA_API_KEY": sandbox.api_key,
            "NANOBANANA_BASE_URL": sandbox.base_url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        pool = ("work-pool", "create", "nanobanana", "--type", "process", "--overwrite")
        prefect(*pool, **environment)
        prefect("deploy", "--name", "pool", **environment)
        started = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "nanobanana"],
            cwd=PROJECT,
            env=os.environ | {"PWD": str(PROJECT)} | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(started.pid, signal.SIGTERM)
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()

    @pytest.mark.usefixtures("no_limit_left", "worker")
    @pytest.mark.slow
    async def test_a_worker_runs_them(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All rows land, the parent tells of all of them, and its page shows its child runs."""
        monkeypatch.setattr(sharding, "POLL_SECONDS", 0.3)
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(6)), tmp_path / "images"
        with anyio.fail_after(120):
            report = await run(manifest, images, shards=2)
        assert [outcome.row for outcome in report.outcomes] == [1, 2, 3, 4, 5, 6]
        assert report.counts["landed"] == report.submitted == sandbox.stats().submits == 6
        assert pictures(images) == {f"b{number}" for number in range(1, 7)}
        kept = BatchReport.model_validate_json((images / "rows.report.json").read_bytes())
        assert list(kept.outcomes) == list(report.outcomes)
        assert list((images / ".nanobanana/shards").iterdir()) == []
        assert (images / "index.html").read_text().count("<figure>") == 6

        parent = await last_run_of("run-batch")
        children = await children_of(parent)
        assert {child.name for child in children} == {"shard 1 of 2", "shard 2 of 2"}
        assert all(child.state and child.state.is_completed() for child in children)

    @pytest.mark.usefixtures("no_limit_left", "worker")
    @pytest.mark.slow
    async def test_max_credits_holds_for_all_of_them_together(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The parent chooses the rows; of the parts, none spends more than its chosen rows cost."""
        monkeypatch.setattr(sharding, "POLL_SECONDS", 0.3)
        rows = prompts(7)
        rows[0]["numImages"] = 2
        manifest, images = write(tmp_path / "rows.jsonl", *rows), tmp_path / "images"
        with anyio.fail_after(240):
            for spent, landed in ((20, 4), (12, 7)):
                report = await run(manifest, images, shards=3, max_credits=21, allow_partial=True)
                assert [o.in_storage for o in report.outcomes] == [n < landed for n in range(7)]
                assert report.credits_estimated == spent
                assert len(report.held_back) == 7 - landed
                assert report.credits_measured is not None
        assert sandbox.stats().submits == 7

    @pytest.fixture
    async def without_worker(
        self, no_limit_left: None, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[str]:
        """A deployment whose runs nobody takes, and no patience with them."""
        monkeypatch.setattr(sharding, "POLL_SECONDS", 0.05)
        async with get_client() as client:
            made = await client.create_deployment(
                await client.create_flow(run_shard), name="nobody", enforce_parameter_schema=False
            )
            yield "run-shard/nobody"
            await client.delete_deployment(made)

    async def test_nobody_takes_them(
        self,
        sandbox: Sandbox,
        tmp_path: Path,
        without_worker: str,
        monkeypatch: pytest.MonkeyPatch,
        log: Lines,
    ) -> None:
        """Child runs without a worker are not waited for without end, and are cancelled."""
        monkeypatch.setattr(sharding, "WARN_SECONDS", 0.1)
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(3)), tmp_path / "images"
        running = asyncio.create_task(
            run(manifest, images, shards=2, shard_deployment=without_worker)
        )
        await until(lambda: "No worker has taken any of 2 child runs yet" in log.text)
        monkeypatch.setattr(sharding, "UNCLAIMED_SECONDS", 0.1)
        with pytest.raises(errors.NanoBananaError, match="no worker has taken any of 2 child runs"):
            await running
        children = await children_of(await last_run_of("run-batch"))
        assert {child.state.name for child in children if child.state} == {"Cancelled"}
        assert sandbox.stats().submits == 0

    async def test_one_dies_and_one_is_not_taken(
        self,
        sandbox: Sandbox,
        tmp_path: Path,
        without_worker: str,
        monkeypatch: pytest.MonkeyPatch,
        log: Lines,
    ) -> None:
        """A child run that has gone silent is given up, and then the one that nobody takes."""
        monkeypatch.setattr(child_runs, "CANCELLED_SECONDS", 0.2)  # the silent one never ends
        monkeypatch.setattr(sharding, "UNSEEN_SECONDS", 0.3)
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(3)), tmp_path / "images"
        running = asyncio.create_task(
            run(manifest, images, shards=2, shard_deployment=without_worker)
        )
        await until(lambda: "child runs of run-shard/nobody" in log.text)
        [first, _] = await children_of(await last_run_of("run-batch"))
        async with get_client() as client:
            await client.set_flow_run_state(first.id, Running(), force=True)
        await until(lambda: "does not renew its lease any more" in log.text)
        monkeypatch.setattr(sharding, "UNCLAIMED_SECONDS", 0.1)
        with pytest.raises(errors.NanoBananaError, match="no worker has taken any of 1 child"):
            await running
        kept = BatchReport.model_validate_json((images / "rows.report.json").read_bytes())
        assert (len(kept.outcomes), kept.counts["failed"]) == (3, 3)

    async def test_a_part_that_fails_is_not_a_partial_success(
        self, sandbox: Sandbox, tmp_path: Path, without_worker: str, log: Lines
    ) -> None:
        """Child runs that break down fail the batch, also where rows may be missing."""
        manifest, images = write(tmp_path / "rows.jsonl", *prompts(2)), tmp_path / "images"
        options: dict[str, Any] = {"shards": 2, "shard_deployment": without_worker}
        running = asyncio.create_task(run(manifest, images, allow_partial=True, **options))
        await until(lambda: "child runs of run-shard/nobody" in log.text)
        async with get_client() as client:
            for child in await children_of(await last_run_of("run-batch")):
                state = Failed(message="the key is refused")
                await client.set_flow_run_state(child.id, state, force=True)
        with pytest.raises(errors.NanoBananaError, match=r"2 of 2 child .* the key is refused"):
            await running

    @pytest.mark.usefixtures("no_limit_left")
    async def test_a_missing_deployment(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Where nothing is deployed, one error says how to deploy it, and nothing is spent."""
        manifest = write(tmp_path / "rows.jsonl", *prompts(2))
        with pytest.raises(errors.InvalidInput, match=r"no deployment 'run-shard/nowhere'.*deploy"):
            await run(manifest, tmp_path / "images", shards=2, shard_deployment="run-shard/nowhere")
        assert sandbox.stats().submits == 0

    def test_the_parts_make_up_the_whole(self) -> None:
        """Each row belongs to exactly one part."""
        text = "\n".join(json.dumps(row) for row in prompts(7)).encode()
        manifest = parse_manifest(text, source="rows.jsonl")
        parts = [
            Shard(number=number, of=3, manifest_digest=manifest.digest, batch="b")
            for number in (1, 2, 3)
        ]
        rows = [row.number for part in parts for row in part.rows_of(manifest)]
        assert sorted(rows) == [1, 2, 3, 4, 5, 6, 7]

    def test_a_manifest_that_has_changed_is_refused(self) -> None:
        """A part is never cut from another manifest than the whole was."""
        manifest = parse_manifest(b'{"prompt": "x"}', source="rows.jsonl")
        part = Shard(number=1, of=1, manifest_digest="0" * 64, batch="b")
        with pytest.raises(errors.InvalidInput, match="manifest has changed"):
            part.rows_of(manifest)


async def children_of(parent: FlowRun) -> list[FlowRun]:
    """The runs that the page of a run shows as its children."""
    of_parent = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent.id]))
    async with get_client() as client:
        return await client.read_flow_runs(flow_run_filter=of_parent)


async def last_run_of(flow_name: str) -> FlowRun:
    async with get_client() as client:
        answer = await client.request(
            "POST",
            "/flow_runs/filter",
            json={
                "flows": {"name": {"any_": [flow_name]}},
                "sort": "START_TIME_DESC",
                "limit": 1,
            },
        )
    [found] = answer.json()
    return FlowRun.model_validate(found)
