"""Galleries of folders that runs have filled."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.batches.reporting import write_report
from nanobanana_blocks.gallery import making
from nanobanana_blocks.gallery.contents import read_contents
from nanobanana_blocks.gallery.making import make_gallery, make_gallery_of_batch
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination
from tests.support.batches import opened, rows_of
from tests.support.html import Page

LOG = logging.getLogger("tests.gallery")


@pytest.fixture(autouse=True)
def soon(sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=TaskPlan(seconds=0), image_edge=64)


async def batch(sandbox: Sandbox, folder: Path) -> BatchReport:
    """A batch of two named rows, one without a name and one that is refused; its report is kept."""
    refused = sandbox.add_task(
        TaskPlan(seconds=0, outcome="generate-failed", error_code=400, error_message="Too odd")
    )
    rows = rows_of(
        {"prompt": "One", "name": "zebra"},
        {"prompt": "Two"},
        {"task_id": refused, "name": "refused"},
        {"prompt": "Three", "name": "ape"},
    )
    async with opened(sandbox, folder, rows) as made:
        await made.process_each(rows)
        report = made.report(finished=True)
        await write_report(made.landing.destination, report)
        await make_gallery_of_batch(report, made.landing, LOG)
    return report


def shown(folder: Path) -> tuple[Page, list[str | None]]:
    page = Page((folder / "index.html").read_text())
    return page, page.values("img", "alt")


async def test_a_batch_is_shown_in_its_order(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: rows are in the order of the manifest, with thumbnails, failures with their reasons."""
    report = await batch(sandbox, tmp_path)
    page, titles = shown(tmp_path)
    assert titles == ["zebra", report.outcomes[1].task_id, "ape"]
    assert all(str(source).startswith("data:") for source in page.values("img", "src"))
    assert "row 3 (refused) failed the service ended it" in page.text
    assert "Too odd" in page.text
    assert all((tmp_path / str(name)).exists() for name in page.values("a", "href"))


async def test_the_same_is_made_from_storage(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: receipts and reports in the folder say all that the batch has said."""
    await batch(sandbox, tmp_path)
    at_the_end = (tmp_path / "index.html").read_text()
    (tmp_path / "index.html").unlink()
    async with await Destination.open(str(tmp_path)) as destination:
        made = await make_gallery(destination)
    assert (tmp_path / "index.html").read_text() == at_the_end
    assert (made.tasks, made.failures, made.pages, made.unshown) == (3, 1, 1, 0)


async def test_what_landed_otherwise_follows_the_batch(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: receipts that no report knows are shown too; a row landed since is no failure."""
    report = await batch(sandbox, tmp_path)
    for row in rows_of({"prompt": "Alone", "name": "alone"}, {"prompt": "Mended", "name": "x"}):
        async with opened(sandbox, tmp_path, [row]) as made:
            await made.process(row)
    receipt = (tmp_path / "x.json").read_text()
    (tmp_path / "refused.json").write_text(receipt)
    async with await Destination.open(str(tmp_path)) as destination:
        made_again = await make_gallery(destination)
    _, titles = shown(tmp_path)
    assert titles[:4] == ["zebra", report.outcomes[1].task_id, "refused", "ape"]
    assert set(titles[4:]) == {"x", "alone"}
    assert made_again.failures == 0


async def test_an_image_that_is_gone_is_said_to_be(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: no broken picture: what a receipt names and nobody finds is told as such."""
    await batch(sandbox, tmp_path)
    [ape] = [path for path in tmp_path.glob("ape.*") if path.suffix != ".json"]
    ape.unlink()
    async with await Destination.open(str(tmp_path)) as destination:
        made = await make_gallery(destination)
    page, titles = shown(tmp_path)
    assert "ape" not in titles
    assert made.failures == 2
    assert "its files are not there any more" in page.text


async def test_more_than_a_gallery_holds_is_counted(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: of what is beyond the bound nothing is read, and its number is told."""
    await batch(sandbox, tmp_path)
    async with await Destination.open(str(tmp_path)) as destination:
        sizes = await destination.list()
        found = await read_contents(destination, sizes, max_entries=1)
    assert len(found.entries) <= 1
    assert found.unshown == len([name for name in sizes if name.endswith(".json")]) - 1


async def test_a_thumbnail_in_the_page_is_not_read_again(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: a gallery made anew reads only the images that it has not seen."""
    await batch(sandbox, tmp_path)
    read: list[str] = []
    async with await Destination.open(str(tmp_path)) as destination:
        really = destination.read

        async def counted(name: str) -> bytes | None:
            read.append(name)
            return await really(name)

        monkeypatch.setattr(destination, "read", counted)
        await make_gallery(destination)
    assert "index.html" in read
    assert not [name for name in read if not name.endswith((".json", ".html"))]


async def test_somebody_elses_page_fails_no_batch(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule: a gallery that cannot be written is a warning."""
    (tmp_path / "index.html").write_text("mine")
    report = await batch(sandbox, tmp_path)
    assert report.describe() == "3 landed, 1 failed"
    assert (tmp_path / "index.html").read_text() == "mine"
    assert "Could not write the gallery; continuing" in caplog.text
    assert "is not a page of a gallery" in caplog.text


async def test_a_gallery_that_hangs_or_crashes_fails_no_batch(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: whatever happens while it is made, the batch ends, within a bound."""
    rows = rows_of({"prompt": "One", "name": "one"})
    async with opened(sandbox, tmp_path, rows) as made:
        await made.process_each(rows)
        report = made.report(finished=True)

        async def crash(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(making, "read_contents", crash)
        assert await make_gallery_of_batch(report, made.landing, LOG) is None

        async def hang(*_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(making, "read_contents", hang)
        assert await make_gallery_of_batch(report, made.landing, LOG, seconds=0.05) is None
    assert not (tmp_path / "index.html").exists()
