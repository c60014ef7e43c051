"""What version 0.1 has left on storage is read by the code of now.

`samples-0.1` was written by that version: receipts of one and of two images, by id and by a row's
name, a ledger with entries in every state and its summary, the note of a pending task, and the
report of a batch.
"""

import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from nanobanana_blocks import LandingStatus, NanoBananaClient, PollPolicy
from nanobanana_blocks.batches.ledger import AttemptState, open_ledger
from nanobanana_blocks.batches.manifest import Row, parse_manifest
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.batches.submitter import Submitter
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.landing.receipt import Receipt
from nanobanana_blocks.recovery.outstanding import open_outstanding
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination, StorageLocation

SAMPLES = Path(__file__).parent / "samples-0.1"
ALONE, SEVERAL, PENDING = (digit * 32 for digit in "123")
PROMPTS = {
    "fig": "a fig",
    "two": "two figs",
    "late": "a late fig",
    "flagged": "a flagged fig",
    "refused": "a refused fig",
    "lost": "a lost fig",
    "intended": "an intended fig",
}
QUICK = PollPolicy(mode="fixed", interval_seconds=0.05, requests_per_second=1000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(SAMPLES, tmp_path / "images"))


def task_id_of(key: str) -> str:
    entry = json.loads((SAMPLES / f".nanobanana/ledger/{key}.1.json").read_text())
    return str(entry["task_id"])


async def test_what_has_landed_is_not_landed_again(sandbox: Sandbox, folder: Path) -> None:
    """Receipts of then mean now that their tasks are done; nothing is asked or fetched."""
    before = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
    async with (
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
        await Destination.open(str(folder)) as place,
        open_lander([ALONE, SEVERAL], client, place, poll=QUICK, expecting=2) as lander,
    ):
        outcomes = [await lander.land(task_id) for task_id in (ALONE, SEVERAL)]
        outcomes += [await lander.land(task_id_of(key), name=key) for key in ("fig", "two")]
    assert {outcome.status for outcome in outcomes} == {LandingStatus.ALREADY_LANDED}
    assert [len(outcome.images) for outcome in outcomes] == [1, 2, 1, 2]
    assert sandbox.stats().requests == {}
    assert {path.name: path.read_bytes() for path in folder.glob("[!.]*")} == before


def test_a_receipt_of_then_is_read_whole() -> None:
    """Times that were written in the service's zone are the same moments in UTC."""
    data = (SAMPLES / f"{ALONE}.json").read_bytes()
    receipt = Receipt.model_validate_json(data)
    assert receipt.prompt == "alone"
    assert receipt.completed_at == datetime.fromisoformat(json.loads(data)["completed_at"])
    assert receipt.completed_at
    assert receipt.completed_at.isoformat().endswith("+00:00")


async def test_nothing_is_submitted_again(sandbox: Sandbox, folder: Path) -> None:
    """The ledger of then is understood, and no row of it is due, whatever became of it."""
    rows = rows_of(PROMPTS)
    async with (
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
        open_ledger(StorageLocation(str(folder))) as ledger,
    ):
        await ledger.load(row.key for row in rows)
        states = {entry.key: entry.state for entry in ledger.entries()}
        submitter = Submitter(client, ledger, timeout=1)
        assert [row.key for row in rows if submitter.is_due(row)] == []
    assert states == {
        "fig": AttemptState.SUBMITTED,
        "two": AttemptState.SUBMITTED,
        "late": AttemptState.SUBMITTED,
        "flagged": AttemptState.FAILED,
        "refused": AttemptState.FAILED,
        "lost": AttemptState.UNCONFIRMED,
        "intended": AttemptState.RESERVED,
    }


async def test_what_was_outstanding_is_swept(sandbox: Sandbox, folder: Path) -> None:
    """Pending notes and submitted rows of then are found, and landed under their names."""
    late = task_id_of("late")
    for task_id in (PENDING, late):
        sandbox.add_task(TaskPlan(task_id=task_id, seconds=0))

    async def no_callbacks(job_keys: Sequence[str], since: datetime) -> dict[str, str]:
        assert len(job_keys) == 2
        return {}

    async with (
        open_outstanding(StorageLocation(str(folder)), 0, no_callbacks) as outstanding,
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
        await Destination.open(str(folder)) as place,
        open_lander(list(outstanding.tasks), client, place, poll=QUICK) as lander,
    ):
        assert set(outstanding.tasks) == {PENDING, late}
        await lander.land_each(lander.unique_task_ids, placed=outstanding.tasks, wait=False)
        for outcome in lander.report().outcomes:
            await outstanding.settle(outcome, lander)
    assert (folder / "late.json").exists()
    assert (folder / f"{PENDING}.json").exists()
    assert list((folder / ".nanobanana/pending").iterdir()) == []


def test_the_report_of_a_batch_is_read() -> None:
    """The report that a batch of then has kept beside its images is one of now."""
    report = BatchReport.model_validate_json((SAMPLES / "rows.report.json").read_bytes())
    assert report.rows == len(report.outcomes) == len(PROMPTS)
    assert report.counts["landed"] == 2
    assert [outcome.name for outcome in report.outcomes] == list(PROMPTS)


def rows_of(prompts: dict[str, str]) -> Sequence[Row]:
    rows = (
        {"key": key, "name": key, "prompt": prompt} | ({"num_images": 2} if key == "two" else {})
        for key, prompt in prompts.items()
    )
    text = "\n".join(json.dumps(row) for row in rows)
    return parse_manifest(text.encode(), source="rows.jsonl").rows
