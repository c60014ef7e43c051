"""Receipts of a batch's images tell what made them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nanobanana_blocks.batches.attempts import Failure
from nanobanana_blocks.landing import Provenance
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.pictures import picture, public_folder
from tests.support.referencing import run, write_manifest

DONE = TaskPlan(seconds=0, media_type="image/png")


def receipt(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / "images" / f"{name}.json").read_text()))


async def test_a_row_made_from_a_file_a_url_and_a_row(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: endpoint, options, references by source and content, row, key, manifest, credits."""
    sandbox.configure(submitted_task=DONE, fetch_references=True)
    (tmp_path / "logo.png").write_bytes(picture(1, "PNG"))
    with public_folder(tmp_path / "world") as world:
        (world.folder / "open.png").write_bytes(picture(2, "PNG"))
        url = f"{world.url}/open.png?token=5ecret"
        manifest = write_manifest(
            tmp_path,
            {"prompt": "Begin", "name": "plate", "endpoint": "generate-2", "resolution": "4K"},
            {"prompt": "Go on", "name": "night", "imageUrls": ["logo.png", "row:plate", url]},
        )
        images = StorageLocation(str(tmp_path / "images"))
        public = PublicPlace(StorageLocation(str(world.folder)), world.url)
        facts = Provenance(manifest="rows.jsonl", manifest_digest="d1", flow_run="run")
        batch = await run(sandbox, manifest, images, public=public, facts=facts)
    assert [batch.outcomes[n].describe()[:7] for n in (1, 2)] == ["landed:"] * 2
    common = {"manifest": "rows.jsonl", "manifest_digest": "d1", "flow_run": "run"}
    plate = receipt(tmp_path, "plate")
    assert plate["row_key"] == "plate"
    assert plate["provenance"] == common | {
        "endpoint": "generate-2",
        "options": {"resolution": "4K"},
        "credits_estimated": batch.outcomes[1].credits,
        "row": 1,
    }
    night = receipt(tmp_path, "night")["provenance"]
    digest = hashlib.sha256((tmp_path / "logo.png").read_bytes()).hexdigest()
    assert night["references"] == [
        {"source": "logo.png", "sha256": digest},
        {"source": "row:plate", "sha256": plate["images"][0]["sha256"]},
        {"source": url.partition("?")[0]},
    ]
    assert night["options"] == {"type": "IMAGETOIAMGE", "numImages": 1}
    for file in (tmp_path / "images").rglob("*.json"):
        assert "5ecret" not in file.read_text()


async def test_a_row_that_was_changed_since_it_was_submitted(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: the row's new options made nothing; what the ledger and record-info know is told."""
    sandbox.configure(submitted_task=DONE)
    images = StorageLocation(str(tmp_path / "images"))
    asked = {"prompt": "A fig", "name": "fig", "numImages": 1, "image_size": "1:1"}
    sandbox.add_fault(Fault(kind="http-status", status=410, on="files"))
    await run(sandbox, write_manifest(tmp_path, asked), images)
    sandbox.clear_faults()
    changed = asked | {"endpoint": "generate-2", "resolution": "4K"}
    del changed["numImages"], changed["image_size"]
    batch = await run(sandbox, write_manifest(tmp_path, changed), images)
    assert batch.outcomes[1].in_storage
    assert batch.outcomes[1].changed
    assert len(sandbox.submits()) == 1
    made = receipt(tmp_path, "fig")["provenance"]
    assert made["endpoint"] == "generate"
    assert made["options"] == {"image_size": "1:1", "numImages": 1, "type": "TEXTTOIAMGE"}
    assert Failure.CHANGED not in made
