"""A listing tells what has landed, where nothing contradicts what was kept of the receipts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanobanana_blocks.landing import folder as landing_folder
from nanobanana_blocks.landing.receipt_index import (
    INDEX_NAMES,
    ReceiptIndex,
    from_bytes,
    to_bytes,
)
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination
from tests.support.batches import prompts, rows_of, run, statuses

ROWS = 24


@pytest.fixture(autouse=True)
def soon_generated(sandbox: Sandbox) -> None:
    """Have submitted tasks end at once."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0.02))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of the images' folder that are read."""
    names: list[str] = []
    read = Destination.read

    async def noting(destination: Destination, name: str) -> bytes | None:
        if ".nanobanana" not in destination.path:
            names.append(name)
        return await read(destination, name)

    monkeypatch.setattr(Destination, "read", noting)
    return names


def receipts_of(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(".")]


async def test_running_again_reads_no_receipt(
    sandbox: Sandbox, tmp_path: Path, reads: list[str]
) -> None:
    """Named rows and others: what has landed is known from a listing and the index."""
    rows = rows_of(
        *({"prompt": "Banana", "name": f"n-{number}"} for number in range(ROWS)),
        *({"prompt": f"Banana {number}"} for number in range(ROWS)),
    )
    await run(sandbox, tmp_path, rows)
    reads.clear()
    outcomes = await run(sandbox, tmp_path, rows)
    assert statuses(outcomes) == ["already_landed"] * len(rows)
    assert all(len(outcome.images) == 1 for outcome in outcomes)
    assert receipts_of(reads) == []
    assert sandbox.stats().submits == len(rows)


def delete_image(receipt: Path) -> None:
    image_of(receipt).unlink()


def change_image(receipt: Path) -> None:
    image_of(receipt).write_bytes(b"shorter")


def delete_receipt(receipt: Path) -> None:
    receipt.unlink()


def change_receipt(receipt: Path) -> None:
    receipt.write_text("{}")


def image_of(receipt: Path) -> Path:
    return receipt.parent / json.loads(receipt.read_text())["images"][0]["name"]


@pytest.mark.parametrize("change", [delete_image, change_image, delete_receipt])
async def test_what_was_changed_by_hand_is_landed_again(
    sandbox: Sandbox, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """The listing is believed, and not what was kept."""
    rows = prompts(ROWS)
    first = await run(sandbox, tmp_path, rows)
    receipt = tmp_path / f"{first[3].task_id}.json"
    content = image_of(receipt).read_bytes()
    change(receipt)
    outcomes = await run(sandbox, tmp_path, rows)
    assert [o.row for o in outcomes if o.status == "landed"] == [4]
    assert image_of(receipt).read_bytes() == content
    assert statuses(await run(sandbox, tmp_path, rows)) == ["already_landed"] * ROWS


async def test_a_receipt_that_was_changed_by_hand_is_read(sandbox: Sandbox, tmp_path: Path) -> None:
    """It is somebody's file then, and not replaced."""
    rows = prompts(ROWS)
    first = await run(sandbox, tmp_path, rows)
    change_receipt(tmp_path / f"{first[3].task_id}.json")
    outcomes = await run(sandbox, tmp_path, rows)
    assert [o.row for o in outcomes if not o.in_storage] == [4]
    assert (tmp_path / f"{first[3].task_id}.json").read_text() == "{}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"format": "other"}\n',
        b'{"format": "nanobanana-landed", "version": 1}\nnonsense\n',
    ],
)
async def test_a_damaged_index_costs_reading(
    sandbox: Sandbox, tmp_path: Path, reads: list[str], content: bytes
) -> None:
    """It is ignored, and written anew."""
    rows = prompts(ROWS)
    await run(sandbox, tmp_path, rows)
    for path in tmp_path.glob(".nanobanana-landed-*"):
        path.write_bytes(content)
    for count in (ROWS, 0):
        reads.clear()
        assert statuses(await run(sandbox, tmp_path, rows)) == ["already_landed"] * ROWS
        assert len(receipts_of(reads)) == count


async def test_runs_at_once_keep_what_each_knows(
    sandbox: Sandbox, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the shards of a batch: each writes a file of its own."""
    rows = prompts(2 * ROWS)
    for name, part in zip(INDEX_NAMES, (rows[::2], rows[1::2]), strict=False):
        monkeypatch.setattr(landing_folder.random, "choice", lambda _, name=name: name)
        await run(sandbox, tmp_path, part)
    assert len(list(tmp_path.glob(".nanobanana-landed-*"))) == 2
    reads.clear()
    assert statuses(await run(sandbox, tmp_path, rows)) == ["already_landed"] * 2 * ROWS
    assert receipts_of(reads) == []


async def test_few_rows_write_no_index(sandbox: Sandbox, tmp_path: Path) -> None:
    """Tasks that are few are asked for one by one, as long as the folder is not listed."""
    task_ids = [sandbox.add_task(TaskPlan(seconds=0)) for _ in range(3)]
    await run(sandbox, tmp_path, rows_of(*({"task_id": task_id} for task_id in task_ids)))
    assert not list(tmp_path.glob(".nanobanana-landed-*"))


RECEIPT = (
    b'{"version":1,"task_id":"%s","images":[{"name":"a.png","media_type":"image/png","size":5,'
    b'"width":1,"height":1,"sha256":"0"}],"landed_at":"2026-01-01T00:00:00Z","polls":1,'
    b'"waited_seconds":1.0}'
)


def test_two_receipts_that_both_may_be_there_tell_nothing() -> None:
    """Of the same name and size, as of two tasks that took one another's place."""
    one, other = RECEIPT % b"one", RECEIPT % b"two"
    sizes = {"a.json": len(one), "a.png": 5}
    index = ReceiptIndex()
    index.add({"a.json": one})
    assert index.find("a.json", sizes)
    index.add({"a.json": other})
    assert index.find("a.json", sizes) is None
    index.note("a.json", other)
    found = index.find("a.json", sizes)
    assert found
    assert found[1].task_id == "two"


def test_what_is_not_there_any_more_is_left_out() -> None:
    """So that the index grows no larger than the folder."""
    index = ReceiptIndex()
    index.note("a.json", b"a")
    index.note("b.json", b"b")
    assert index.merged_into({"a.json": b"old", "c.json": b"c"}, {"a.json", "c.json"}) == {
        "a.json": b"a",
        "c.json": b"c",
    }


def test_a_file_is_read_as_it_was_written() -> None:
    """Whatever a prompt in a receipt holds."""
    receipts = {"a.json": RECEIPT % b"one", "ü.json": '{"prompt": "\\ud800 ü\\n"}'.encode()}
    assert from_bytes(to_bytes(receipts), where="here") == receipts
