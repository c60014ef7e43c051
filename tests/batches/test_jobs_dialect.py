"""Batches in the dialect of jobs: the same manifest, ledger, references and landing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanobanana_blocks.batches.manifest import InvalidManifest
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.pictures import picture, public_folder
from tests.support.referencing import run, write_manifest

PRO = {"endpoint": "nano-banana-pro", "prompt": "A fig", "credits": 18}


@pytest.fixture(autouse=True)
def _models(sandbox: Sandbox) -> None:
    sandbox.configure(
        submitted_task=TaskPlan(seconds=0, media_type="image/png"),
        other_endpoints={"nano-banana-pro": 18, "google/nano-banana": 4},
        fetch_references=True,
    )


async def test_rows_land_and_are_paid_for_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a file, a chain and a plain row, each submitted once over two runs."""
    (tmp_path / "logo.png").write_bytes(picture(1, "PNG"))
    with public_folder(tmp_path / "world") as world:
        manifest = write_manifest(
            tmp_path,
            PRO | {"name": "plate", "fields": {"resolution": "2K"}},
            PRO | {"name": "edit", "imageUrls": ["row:plate", "logo.png"]},
            {"endpoint": "google/nano-banana", "prompt": "A pear", "credits": 4, "name": "pear"},
        )
        images = StorageLocation(str(tmp_path / "images"))
        public = PublicPlace(StorageLocation(str(world.folder)), world.url)
        for _ in range(2):
            batch = await run(sandbox, manifest, images, public=public, dialect="jobs")
            assert all(outcome.in_storage for outcome in batch.outcomes.values())
    sent = [submit.body for submit in sandbox.submits()]
    assert sorted(submit.endpoint for submit in sandbox.submits()) == [
        "google/nano-banana",
        "nano-banana-pro",
        "nano-banana-pro",
    ]
    (edit,) = (body for body in sent if "image_input" in body)
    assert [url.startswith(world.url) for url in edit["image_input"]] == [True, True]
    made = json.loads((tmp_path / "images/plate.json").read_text())["provenance"]
    assert (made["endpoint"], made["options"]) == ("nano-banana-pro", {"resolution": "2K"})


@pytest.mark.parametrize(
    ("dialect", "rows", "wrong"),
    [
        ("jobs", [PRO, {"prompt": "A pear"}], 2),
        ("nanobanana", [{"endpoint": "google/nano-banana", "prompt": "A pear", "credits": 4}], 1),
    ],
)
async def test_rows_of_the_other_dialect_are_refused_first(
    sandbox: Sandbox, tmp_path: Path, dialect: str, rows: list[dict[str, object]], wrong: int
) -> None:
    """Rule: the row is named, and nothing of the manifest is submitted."""
    images = StorageLocation(str(tmp_path / "images"))
    with pytest.raises(InvalidManifest) as caught:
        await run(sandbox, write_manifest(tmp_path, *rows), images, dialect=dialect)
    (problem,) = caught.value.problems
    assert (problem.row, problem.field) == (wrong, "endpoint")
    assert not sandbox.submits()
