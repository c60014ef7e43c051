"""A dry run: what a batch would do and cost; nothing is submitted, and nothing is written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nanobanana_blocks.api.forecast import Forecast
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.batches.manifest import InvalidManifest
from nanobanana_blocks.batches.plan import BatchPlan, RowAction
from nanobanana_blocks.batches.planning import plan_batch
from nanobanana_blocks.batches.policies import OnContentPolicy
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.referencing import opened, run, write_manifest

POLL = PollPolicy()


@pytest.fixture(autouse=True)
def soon(sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=TaskPlan(seconds=0), image_bytes=3000)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def planned(sandbox: Sandbox, folder: Path, manifest: str, **options: Any) -> BatchPlan:
    """The plan, with a proof that making it has changed nothing."""
    before, stats = files_of(folder), sandbox.stats()
    images = StorageLocation(str(folder / "images"))
    existed = (folder / "images").exists()
    async with opened(sandbox, manifest, images, read_only=True, **options) as batch:
        plan = await plan_batch(batch, LearnedSummary(), in_flight=50, poll=POLL)
    assert files_of(folder) == before
    assert (folder / "images").exists() == existed
    after = sandbox.stats()
    assert (after.submits, after.credits_spent) == (stats.submits, stats.credits_spent)
    assert set(after.requests) <= {"credit", *stats.requests}
    return plan


def actions(plan: BatchPlan) -> list[str]:
    return [row.action.value for row in plan.planned]


async def test_a_new_batch(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: it tells rows, credits and the balance, and makes no folder."""
    rows = ({"prompt": "a", "name": "a"}, {"prompt": "b", "numImages": 2})
    plan = await planned(sandbox, tmp_path, write_manifest(tmp_path, *rows))
    assert actions(plan) == ["submit", "submit"]
    assert (plan.credits_estimated, plan.credits_available) == (12, 10_000)
    assert plan.describe() == "2 rows: 2 to submit, for about 12 credits"
    assert "The account has 10,000" in "\n".join(plan.in_lines())
    assert plan.rows_in_lines()[0] == "row 1 (a): submit, for about 4 credits"
    assert plan.seconds_estimated > 0
    assert "nothing was learned here yet" in "\n".join(plan.in_lines())
    assert BatchPlan.model_validate(plan.model_dump(mode="json")) == plan


async def test_what_earlier_runs_have_left(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: landed rows are skipped, tasks that exist waited for, failures left, children of them
    blocked; the run that follows does just that."""
    refused = {"prompt": "refused", "name": "refused"}
    slow = {"prompt": "slow", "name": "slow"}
    landed = {"prompt": "landed", "name": "landed"}
    images = StorageLocation(str(tmp_path / "images"))
    sandbox.add_fault(Fault(kind="body-code", code=422, on="submit", count=1))
    await run(sandbox, write_manifest(tmp_path, refused), images)
    sandbox.add_fault(Fault(kind="drop", on="submit", takes_effect=True, count=1))
    await run(sandbox, write_manifest(tmp_path, {"prompt": "lost", "name": "lost"}), images)
    await run(sandbox, write_manifest(tmp_path, landed), images)
    sandbox.configure(submitted_task=TaskPlan(seconds=600))
    await run(sandbox, write_manifest(tmp_path, slow), images, timeout=0.2)
    given = sandbox.add_task(TaskPlan(seconds=0))
    manifest = write_manifest(
        tmp_path,
        landed,
        refused,
        {"prompt": "lost", "name": "lost"},
        slow,
        {"task_id": given, "name": "given"},
        {"prompt": "child", "name": "child", "imageUrls": ["row:refused"]},
        {"prompt": "grandchild", "imageUrls": ["row:child"]},
        {"prompt": "new", "name": "new"},
    )
    place = PublicPlace(StorageLocation(str(tmp_path / "public")), "http://127.0.0.1:9")
    plan = await planned(sandbox, tmp_path, manifest, public=place)
    assert actions(plan) == [
        *("skip", "report", "report", "resume", "resume"),
        *("blocked", "blocked", "submit"),
    ]
    assert [row.blocked_by for row in plan.planned][5:7] == [2, 2]
    assert "the API rejects the request" in plan.planned[1].why
    assert "retry=['unconfirmed']" in plan.planned[2].why
    assert plan.credits_estimated == 4
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    sandbox.advance(600)
    submits = sandbox.stats().submits
    batch = await run(sandbox, manifest, images, public=place)
    assert sandbox.stats().submits == submits + plan.counts["submit"]
    found = {number: outcome.status.value for number, outcome in batch.outcomes.items()}
    assert found == {
        1: "already_landed",
        2: "failed",
        3: "failed",
        4: "landed",
        5: "landed",
        6: "blocked",
        7: "blocked",
        8: "landed",
    }


async def test_an_image_that_is_gone_is_waited_for_again(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a row counts as landed only with its receipt and its images."""
    manifest = write_manifest(tmp_path, {"prompt": "a", "name": "a"})
    await run(sandbox, manifest, StorageLocation(str(tmp_path / "images")))
    assert actions(await planned(sandbox, tmp_path, manifest)) == ["skip"]
    next(path for path in (tmp_path / "images").glob("a.*") if path.suffix != ".json").unlink()
    assert actions(await planned(sandbox, tmp_path, manifest)) == ["resume"]


async def test_a_receipt_that_names_its_row_is_known(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: where the ledger is lost the receipt tells, and even then nothing is written."""
    manifest = write_manifest(tmp_path, {"prompt": "a", "name": "a"})
    await run(sandbox, manifest, StorageLocation(str(tmp_path / "images")))
    for path in (tmp_path / "images/.nanobanana/ledger").iterdir():
        path.unlink()
    assert actions(await planned(sandbox, tmp_path, manifest)) == ["skip"]


async def test_max_credits(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the rows of the plan are those that the run chooses; one that is too low is the error
    of the run."""
    manifest = write_manifest(tmp_path, *({"prompt": f"{n}"} for n in range(4)))
    plan = await planned(sandbox, tmp_path, manifest, max_credits=11)
    assert actions(plan) == ["submit", "submit", "held_back", "held_back"]
    assert (plan.credits_estimated, plan.credits_held_back, plan.max_credits) == (8, 8, 11)
    assert "max_credits is 11, which holds back rows for about 8" in "\n".join(plan.in_lines())
    with pytest.raises(InvalidInput, match="max_credits is 3"):
        await planned(sandbox, tmp_path, manifest, max_credits=3)


async def test_too_few_credits_are_told(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: that the run would not begin is part of the plan, and no error."""
    sandbox.configure(credits=5)
    plan = await planned(sandbox, tmp_path, write_manifest(tmp_path, *[{"prompt": "a"}] * 2))
    assert any("has 5 credits, and about 8 are needed" in line for line in plan.warnings)
    sandbox.add_fault(Fault(kind="drop", on="credit"))
    unknown = await planned(sandbox, tmp_path, write_manifest(tmp_path, {"prompt": "a"}))
    assert (unknown.credits_available, unknown.warnings) == (None, [])


async def test_references(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: it tells how each image would be reached, checks the files, and copies none."""
    data = io.BytesIO()
    Image.new("RGB", (32, 32), "tan").save(data, "PNG")
    (tmp_path / "logo.png").write_bytes(data.getvalue())
    place = PublicPlace(StorageLocation(str(tmp_path / "public")), "http://127.0.0.1:9")
    manifest = write_manifest(
        tmp_path,
        {"prompt": "a", "name": "a", "imageUrls": ["logo.png"]},
        {"prompt": "b", "name": "b", "imageUrls": ["logo.png", "row:a"]},
    )
    plan = await planned(sandbox, tmp_path, manifest, public=place)
    assert {use.way: use.images for use in plan.references} == {"public_copy": 1, "row": 1}
    assert not (tmp_path / "public").exists()
    copies = f"by public copies in {tmp_path}/public"
    assert plan.in_lines()[3] == (
        f"Images to work from: 1 {copies}; 1 that other rows make, {copies}."
    )
    assert plan.planned[1].after == (1,)
    (tmp_path / "logo.png").write_text("no picture")
    with pytest.raises(InvalidManifest, match="row 1, imageUrls: image 1"):
        await planned(sandbox, tmp_path, manifest, public=place)


async def test_the_worst_case_counts_alternative_prompts(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: what would be paid for where content is refused is told beside the estimate."""
    row = {"prompt": "a", "name": "a", "promptOnContentPolicy": "b"}
    manifest = write_manifest(tmp_path, row, {"prompt": "c"})
    policy = OnContentPolicy.ALTERNATIVE_PROMPT
    plan = await planned(sandbox, tmp_path, manifest, on_content_policy=policy)
    assert (plan.credits_estimated, plan.credits_worst_case) == (8, 12)
    assert "With every alternative prompt it would be 12" in "\n".join(plan.in_lines())
    limited = await planned(sandbox, tmp_path, manifest, on_content_policy=policy, max_credits=10)
    assert limited.credits_worst_case == 10
    assert (await planned(sandbox, tmp_path, manifest)).credits_worst_case == 8


async def test_rows_are_few_on_a_terminal(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: of many rows the first are listed, and how many follow."""
    plan = await planned(sandbox, tmp_path, write_manifest(tmp_path, *[{"prompt": "a"}] * 60))
    lines = plan.rows_in_lines()
    assert (len(lines), lines[-1]) == (51, "and 10 more rows")
    assert len(plan.of(RowAction.SUBMIT)) == 60


def test_nothing_is_assumed_of_an_empty_forecast() -> None:
    """Rule: without any learning, the time rests on no polls."""
    assert Forecast(LearnedSummary()).polls == 0
