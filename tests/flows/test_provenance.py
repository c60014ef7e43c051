"""What receipts tell of the flow, the manifest and the request that made their images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.runtime import flow_run

from flows.land_images import land_images
from flows.run_batch import run_batch
from flows.sweep import sweep
from nanobanana_blocks import ImageStore, PollPolicy, errors, tasks
from nanobanana_blocks.batches.policies import OnContentPolicy
from nanobanana_blocks.sandbox import Sandbox, TaskPlan

pytestmark = pytest.mark.usefixtures("prefect_api")

SOON = PollPolicy.fixed(0.05)


@pytest.fixture(autouse=True)
def _done_at_once(sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=TaskPlan(seconds=0), flagged_words=("nude",))


def receipt(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


async def test_a_batch_names_its_manifest_and_its_run(tmp_path: Path) -> None:
    """Rule: the manifest by place and digest, the row by number, the run by id; prompts if kept."""
    manifest = tmp_path / "rows.jsonl"
    row = {"prompt": "A nude fig", "promptOnContentPolicy": "A fig in a coat", "name": "fig"}
    manifest.write_text(json.dumps({"prompt": "A pear", "name": "pear"}) + "\n" + json.dumps(row))
    images = tmp_path / "images"
    await ImageStore(url=str(images), keep_prompts=True).asave("of-prompts", overwrite=True)

    @flow
    async def mine() -> str:
        report = await run_batch(
            str(manifest),
            "of-prompts",
            poll=SOON,
            on_content_policy=OnContentPolicy.ALTERNATIVE_PROMPT,
        )
        assert [outcome.alternative_prompt for outcome in report.outcomes] == [False, True]
        assert (report.submitted, report.credits_estimated) == (2, 12)
        return str(flow_run.id)

    parent = await mine()
    pear, fig = receipt(images / "pear.json"), receipt(images / "fig.json")
    made = pear["provenance"]
    run = made.pop("flow_run")
    assert run
    assert run != parent  # that of run-batch itself
    assert made == {
        "endpoint": "generate",
        "options": {"type": "TEXTTOIAMGE", "numImages": 1},
        "credits_estimated": 4,
        "row": 1,
        "manifest": str(manifest),
        "manifest_digest": hashlib.sha256(manifest.read_bytes()).hexdigest(),
    }
    assert (pear["prompt"], fig["prompt"]) == ("A pear", "A fig in a coat")
    assert (fig["provenance"]["alternative_prompt"], fig["provenance"]["row"]) == (True, 2)
    assert fig["provenance"]["flow_run"] == run


async def test_a_request_of_ones_own(tmp_path: Path) -> None:
    """Rule: land_task that is given the request tells of it; without it, what record-info has."""
    request = {"endpoint": "generate-2", "prompt": "A fig", "resolution": "4K"}

    @flow
    async def mine() -> tuple[str, str, str]:
        told, bare = [await tasks.submit_generation(request) for _ in range(2)]
        await tasks.land_task(told, str(tmp_path), poll=SOON, just_submitted=True, request=request)
        await tasks.land_task(bare, str(tmp_path), poll=SOON)
        return told, bare, str(flow_run.id)

    told, bare, run = await mine()
    assert receipt(tmp_path / f"{told}.json")["provenance"] == {
        "endpoint": "generate-2",
        "options": {"resolution": "4K"},
        "credits_estimated": 18,
        "flow_run": run,
    }
    assert receipt(tmp_path / f"{bare}.json")["provenance"] == {
        "options": {"resolution": "4K"},
        "flow_run": run,
    }


async def test_a_request_that_is_invalid_is_told_before_anything(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: nothing is waited for where the receipt could not tell."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    with pytest.raises(errors.InvalidInput, match="resolution"):
        await tasks.land_task(
            task_id, str(tmp_path), request={"prompt": "A fig", "resolution": "9K"}
        )
    assert sandbox.stats().requests == {}


async def test_land_images_names_its_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: what is landed by its id names the run that landed it, and no manifest."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    await land_images([task_id], str(tmp_path), poll=SOON)
    made = receipt(tmp_path / f"{task_id}.json")["provenance"]
    assert made["flow_run"]
    assert set(made) == {"flow_run", "options"}


async def test_a_sweep_tells_what_the_ledger_knows(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: endpoint and credits are the ledger's, options what record-info repeats."""
    sandbox.configure(submitted_task=TaskPlan(seconds=1000))
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text('{"prompt": "A fig", "name": "fig", "endpoint": "generate-2"}')
    images = tmp_path / "images"
    await run_batch(str(manifest), str(images), poll=SOON, timeout=0.2, allow_partial=True)
    sandbox.advance(1000)
    await sweep(str(images), older_than=0)
    found = receipt(images / "fig.json")
    assert found["row_key"] == "fig"
    made = found["provenance"]
    assert made.pop("flow_run")
    assert made == {"endpoint": "generate-2", "credits_estimated": 8}
