"""Images to work from that are uploaded to the provider, where the credentials say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.batches.manifest import InvalidManifest
from nanobanana_blocks.batches.planning import plan_batch
from nanobanana_blocks.errors import UnusableReference
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.batches import QUICK
from tests.support.pictures import picture
from tests.support.referencing import opened, run, write_manifest


@pytest.fixture(autouse=True)
def _fetching(sandbox: Sandbox) -> None:
    done = TaskPlan(seconds=0, media_type="image/png")
    sandbox.configure(submitted_task=done, fetch_references=True)


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """Rows that share a file, and one that builds on another."""
    (tmp_path / "logo.png").write_bytes(picture(1, "PNG"))
    rows = [
        {"endpoint": "generate-2", "prompt": f"A fig {n}", "name": f"fig-{n}"} for n in range(4)
    ]
    return write_manifest(
        tmp_path,
        *(row | {"imageUrls": ["logo.png"]} for row in rows[:3]),
        rows[3] | {"imageUrls": ["row:fig-0"]},
    )


async def test_one_upload_for_each_content(sandbox: Sandbox, tmp_path: Path, manifest: str) -> None:
    """Rule: the service fetches what was uploaded once; landed images go the same way."""
    images = StorageLocation(str(tmp_path / "images"))
    for _ in range(2):
        batch = await run(sandbox, manifest, images, upload_url=sandbox.base_url)
        assert all(outcome.in_storage for outcome in batch.outcomes.values())
    stats = sandbox.stats()
    assert (stats.files_uploaded, stats.references_fetched, stats.submits) == (2, 4, 4)
    kept = "".join(path.read_text() for path in (tmp_path / "images").rglob("*.json"))
    assert "/uploads/" not in kept


async def test_a_plan_uploads_nothing(sandbox: Sandbox, tmp_path: Path, manifest: str) -> None:
    """Rule: it says how the images would be reached."""
    images = StorageLocation(str(tmp_path / "images"))
    url = sandbox.base_url
    async with opened(sandbox, manifest, images, upload_url=url, read_only=True) as batch:
        plan = await plan_batch(batch, LearnedSummary(), in_flight=10, poll=QUICK)
    assert {(use.way, use.images, use.where) for use in plan.references} == {
        ("upload", 1, url),
        ("row", 1, url),
    }
    assert sandbox.stats().files_uploaded == 0


async def test_an_upload_that_fails_for_a_while(
    sandbox: Sandbox, tmp_path: Path, manifest: str
) -> None:
    """Rule: it is tried again, and no row is lost or paid for twice."""
    images = StorageLocation(str(tmp_path / "images"))
    sandbox.add_fault(Fault(kind="http-status", status=503, on="api", count=1))
    batch = await run(sandbox, manifest, images, upload_url=sandbox.base_url)
    assert all(outcome.in_storage for outcome in batch.outcomes.values())
    assert sandbox.stats().submits == 4


async def test_a_server_that_takes_no_uploads(
    sandbox: Sandbox, tmp_path: Path, manifest: str
) -> None:
    """Rule: it is told with the rows, before anything is spent."""
    images = StorageLocation(str(tmp_path / "images"))
    with pytest.raises(InvalidManifest, match="could not be uploaded to the provider"):
        await run(sandbox, manifest, images, upload_url=f"{sandbox.base_url}/nowhere")
    assert sandbox.stats().submits == 0


async def test_a_wait_that_outlasts_uploads(
    sandbox: Sandbox, tmp_path: Path, manifest: str
) -> None:
    """Rule: nothing is submitted whose images may be gone before it is worked on."""
    images = StorageLocation(str(tmp_path / "images"))
    with pytest.raises(UnusableReference, match="Lower timeout"):
        await run(sandbox, manifest, images, upload_url=sandbox.base_url, timeout=86_400.0)
    assert sandbox.stats().submits == 0
