"""What people see of a run neither fails nor delays it, and comes after what must last."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from PIL import Image
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.run_batch import run_batch
from nanobanana_blocks import PollPolicy
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.landing.lander import Lander, open_lander
from nanobanana_blocks.landing.report import LandingStatus
from nanobanana_blocks.orchestration.blocks.credentials import NanoBananaCredentials
from nanobanana_blocks.orchestration.observability import artifacts, progress
from nanobanana_blocks.orchestration.observability.contact_sheet import first_thumbnails
from nanobanana_blocks.orchestration.observability.events import posting_outcomes
from nanobanana_blocks.orchestration.observability.optional import optional
from nanobanana_blocks.orchestration.observability.outcome_table import outcome_rows
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation


@pytest.fixture
def silent_prefect() -> Iterator[str]:
    """A Prefect API that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}), disable_run_logger():
            yield url


@asynccontextmanager
async def landing_of(sandbox: Sandbox, folder: Path, *task_ids: str) -> AsyncIterator[Lander]:
    """A landing that has landed these tasks."""
    credentials = NanoBananaCredentials.from_environment()
    assert credentials
    async with (
        credentials.get_client() as client,
        await StorageLocation(str(folder)).open() as destination,
        open_lander(task_ids, client, destination) as landing,
    ):
        await landing.land_each(landing.unique_task_ids)
        yield landing


def batch_report(landing: Lander) -> BatchReport:
    now = datetime.now(UTC)
    return BatchReport(
        manifest="rows.jsonl",
        destination=landing.destination.path,
        rows=len(landing.outcomes),
        started_at=now,
        updated_at=now,
        outcomes=[
            {"row": number, "key": str(number), "name": f"n{number}", **outcome.model_dump()}
            for number, outcome in enumerate(landing.outcomes.values(), start=1)
        ],
    )


async def test_what_is_optional_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Rule: what hangs is given up, with a line that says that the run continues."""
    with disable_run_logger(), optional("the drawing", seconds=0.01) as attempt:
        await anyio.sleep_forever()
    assert attempt.prefect_is_down


async def test_what_is_optional_raises_what_is_not_prefects() -> None:
    """Rule: a fault of ours is not hidden behind Prefect's."""
    with pytest.raises(LookupError), disable_run_logger(), optional("the drawing"):
        raise LookupError


@pytest.mark.slow
async def test_a_run_leaves_though_prefect_is_silent(
    silent_prefect: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: with Prefect down, each artifact is tried for seconds, and the next ones not at all."""
    tried: list[str] = []
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    real = artifacts.acreate_markdown_artifact

    async def recorded(*arguments: Any, **options: Any) -> Any:
        tried.append(options["key"])
        return await real(*arguments, **options)

    monkeypatch.setattr(artifacts, "acreate_markdown_artifact", recorded)
    async with landing_of(sandbox, tmp_path, task_id) as landing:
        with anyio.fail_after(60):
            async with progress.showing_progress(1, lambda: 0), posting_outcomes() as events:
                events.add(landing.outcomes[task_id])
            await artifacts.publish_batch_report(batch_report(landing), landing)
    assert tried == [artifacts.SUMMARY_KEY]


async def test_what_must_last_is_written_before_prefect_is_asked(
    prefect_api: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: the report and the ledger's summary are there before the last artifacts are tried.

    A worker kills a run that lingers at its end, as with Prefect down.
    """
    images = tmp_path / "images"
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({"prompt": "a red fox", "name": "fox"}))
    seen: dict[str, tuple[bool, bool]] = {}

    def what_lasts() -> tuple[bool, bool]:
        report = images / "rows.report.json"
        finished = report.exists() and bool(json.loads(report.read_bytes()).get("finished_at"))
        return finished, any((images / ".nanobanana").rglob("*summary*"))

    async def hang(self: Any, percent: float, waits: str) -> None:
        seen["progress"] = what_lasts()
        raise OSError("Prefect is down")

    async def fail(*_: Any, **options: Any) -> Any:
        seen[options["key"]] = what_lasts()
        raise OSError("Prefect is down")

    monkeypatch.setattr(progress._Progress, "_write", hang)
    monkeypatch.setattr(artifacts, "acreate_markdown_artifact", fail)
    monkeypatch.setattr(artifacts, "acreate_table_artifact", fail)
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    report = await run_batch(str(manifest), str(images), poll=PollPolicy.fixed(0.05))
    assert report.complete
    assert seen == dict.fromkeys(
        ["progress", artifacts.SUMMARY_KEY, artifacts.OUTCOMES_KEY, artifacts.CONTACT_SHEET_KEY],
        (True, True),
    )


async def test_a_progress_that_fails_is_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: hours without Prefect are one line in the log, and a warning is not lost among many."""

    async def fail(self: Any, percent: float, waits: str) -> None:
        raise OSError("Prefect is down")

    monkeypatch.setattr(progress._Progress, "_write", fail)
    log = logging.getLogger("a-run")
    monkeypatch.setattr(
        "nanobanana_blocks.orchestration.observability.optional.get_run_logger", lambda: log
    )
    shown = progress._Progress(10, iter(range(10)).__next__, "Rows")
    for _ in range(5):
        await shown.show(1.0)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == ["Could not write the progress artifact (OSError); continuing"]


async def test_a_contact_sheet_of_what_had_landed_before(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a run that had nothing left to do shows its images too, in order."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * 3)
    async with landing_of(sandbox, tmp_path, *task_ids):
        pass
    async with landing_of(sandbox, tmp_path, *task_ids) as again:
        assert again.thumbnails == {}
        outcomes = [again.outcomes[task_id] for task_id in task_ids]
        assert {outcome.status for outcome in outcomes} == {LandingStatus.ALREADY_LANDED}
        (tmp_path / outcomes[1].images[0].path.rpartition("/")[2]).unlink()
        found = await first_thumbnails(outcomes, again.thumbnails, again.destination)
    assert list(found) == [task_ids[0], task_ids[2]]
    with Image.open(io.BytesIO(found[task_ids[0]])) as picture:
        assert picture.format == "JPEG"


async def test_reading_images_again_is_bounded(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: however many had landed, few are read again, and storage that hangs delays no end."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * 5)
    async with landing_of(sandbox, tmp_path, *task_ids) as landing:
        reads: list[str] = []

        async def hang(name: str) -> bytes | None:
            reads.append(name)
            return await asyncio.Event().wait() and None

        monkeypatch.setattr(landing.destination, "read", hang)
        outcomes = list(landing.outcomes.values())
        found = await first_thumbnails(
            outcomes * 100, {}, landing.destination, most=3, read_seconds=0.05
        )
    assert found == {}
    assert 0 < len(reads) <= 3


async def test_the_first_columns_say_what_matters(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: status, row or task, and what happened are the columns that a common screen shows."""
    good = sandbox.add_task(TaskPlan(seconds=0))
    bad = sandbox.add_task(TaskPlan(seconds=0, outcome="generate-failed", error_message="Too odd"))
    async with landing_of(sandbox, tmp_path, good, bad) as landing:
        failed, landed = outcome_rows(landing.report())
        assert list(failed)[:3] == ["status", "task", "what happened"]
        assert "Too odd" in str(failed["what happened"])
        assert f"{good}." in str(landed["what happened"])
        failed, landed = outcome_rows(batch_report(landing))
        assert list(failed)[:3] == ["status", "row", "what happened"]
        assert str(landed["row"]) in ("1 n1", "2 n2")
        assert (landed["task"], failed["error"]) == (good, "GenerationFailed")


async def test_a_short_run_has_one_progress_artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a run that ends while the artifact is being made does not make a second one."""
    made: list[float] = []
    updated: list[float] = []
    going = asyncio.Event()

    async def create(percent: float, **_: Any) -> Any:
        going.set()
        made.append(percent)
        await asyncio.sleep(0.05)
        return uuid4()

    async def update(_artifact: Any, percent: float, **_: Any) -> None:
        updated.append(percent)

    monkeypatch.setattr(progress, "acreate_progress_artifact", create)
    monkeypatch.setattr(progress, "aupdate_progress_artifact", update)
    settled = 0
    with disable_run_logger():
        async with progress.showing_progress(1, lambda: settled):
            await going.wait()
            settled = 1
    assert (made, updated) == ([0.0], [100.0])
