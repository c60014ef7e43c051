"""What has landed in a folder, from its receipts, in the order of time."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nanobanana_blocks.landing import Receipt, ReceiptImage
from nanobanana_blocks.landing.history import MAX_RECEIPT_BYTES, History, read_history
from nanobanana_blocks.storage.destination import Destination

SAMPLES = Path(__file__).parent / "samples-0.1"
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def receipt(number: int, minutes: float = 0, images: int = 1) -> Receipt:
    return Receipt(
        task_id=f"task-{number}",
        images=[
            ReceiptImage(
                name=f"task-{number}-{n}.png",
                media_type="image/png",
                size=1,
                width=8,
                height=6,
                sha256="ab" * 32,
            )
            for n in range(1, images + 1)
        ],
        landed_at=BEGIN + timedelta(minutes=minutes),
        polls=1,
        waited_seconds=1.0,
    )


async def read(folder: Path) -> History:
    async with await Destination.open(str(folder)) as destination:
        return await read_history(destination, io.BytesIO())


async def test_the_oldest_is_first(tmp_path: Path) -> None:
    """Rule: in the order of landing, whatever the names; every image counts; twice is the same."""
    for number, minutes in ((1, 30), (2, 10), (3, 20)):
        text = receipt(number, minutes, images=number).model_dump_json()
        (tmp_path / f"task-{number}.json").write_text(text)
    found = await read(tmp_path)
    assert [name for name, _ in found] == ["task-2.json", "task-3.json", "task-1.json"]
    assert [each for _, each in found] == [receipt(2, 10, 2), receipt(3, 20, 3), receipt(1, 30)]
    assert (len(found), found.images, found.unreadable) == (3, 6, 0)


async def test_what_is_no_receipt(tmp_path: Path) -> None:
    """Rule: other files are passed over; receipts that cannot be read are counted, not hidden."""
    (tmp_path / "good.json").write_text(receipt(1).model_dump_json())
    later = receipt(2).model_dump(mode="json") | {"version": 2}
    (tmp_path / "later.json").write_text(json.dumps(later))
    (tmp_path / "torn.json").write_text(receipt(3).model_dump_json()[:40])
    (tmp_path / "rows.report.json").write_text('{"manifest":"rows.jsonl","outcomes":[]}')
    (tmp_path / "foreign.json").write_text("[1, 2]")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "huge.json").write_bytes(b" " * (MAX_RECEIPT_BYTES + 1))
    (tmp_path / "good.png").write_bytes(b"")
    found = await read(tmp_path)
    assert [name for name, _ in found] == ["good.json"]
    assert found.unreadable == 2


async def test_receipts_of_the_first_version(tmp_path: Path) -> None:
    """Rule: what lies there from 0.1 is listed as it is."""
    shutil.copytree(SAMPLES, tmp_path / "images")
    found = await read(tmp_path / "images")
    assert len(found) == 4
    assert {each.provenance for _, each in found} == {None}


async def test_an_empty_place(tmp_path: Path) -> None:
    """Rule: where nothing has landed there is nothing, and no error."""
    assert list(await read(tmp_path / "none")) == []
