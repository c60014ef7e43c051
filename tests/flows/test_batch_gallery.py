"""The gallery at the end of a batch run: made once, told of, and in the way of nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanobanana_blocks import ImageStore, PollPolicy
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.flows.run_batch import run_batch
from nanobanana_blocks.orchestration.observability.artifacts import SUMMARY_KEY
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.html import Page
from tests.support.prefect_runs import artifact_of, last_run

pytestmark = pytest.mark.usefixtures("prefect_api")


REFUSED = TaskPlan(seconds=0, outcome="generate-failed", error_code=400, error_message="Too odd")


async def run(
    sandbox: Sandbox, folder: Path, destination: str, *, gallery: bool = True
) -> BatchReport:
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    refused = sandbox.add_task(REFUSED)
    rows = [{"prompt": "A banana", "name": "plate"}, {"task_id": refused, "name": "refused"}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report: BatchReport = await run_batch(
        str(folder / "rows.jsonl"),
        destination,
        poll=PollPolicy.fixed(0.05),
        allow_partial=True,
        gallery=gallery,
    )
    return report


async def test_its_pages_and_the_summary(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the run's summary says where the gallery is; without prompts being kept it has none."""
    await run(sandbox, tmp_path, f"{tmp_path}/images")
    page = Page((tmp_path / "images" / "index.html").read_text())
    assert page.values("img", "alt") == ["plate"]
    assert "row 2 (refused) failed" in page.text
    assert "Too odd" in page.text
    assert "A banana" not in page.text
    summary = await artifact_of(await last_run(), SUMMARY_KEY)
    assert f"Gallery: `{tmp_path}/images/index.html`" in str(summary.data)


async def test_prompts_where_they_are_kept(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a store that keeps prompts has them in its gallery."""
    store = ImageStore(url=f"{tmp_path}/images", keep_prompts=True)
    await store.asave("keeps-prompts", overwrite=True)
    await run(sandbox, tmp_path, "keeps-prompts")
    assert "A banana" in Page((tmp_path / "images" / "index.html").read_text()).text


async def test_turned_off(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: `gallery=False` writes no page."""
    await run(sandbox, tmp_path, f"{tmp_path}/images", gallery=False)
    assert (tmp_path / "images" / "plate.json").exists()
    assert not (tmp_path / "images" / "index.html").exists()
    summary = await artifact_of(await last_run(), SUMMARY_KEY)
    assert "Gallery" not in str(summary.data)
