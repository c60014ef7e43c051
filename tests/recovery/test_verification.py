"""Receipts against files: what is gone, changed or damaged is found, and landed again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.cli.app import app
from nanobanana_blocks.landing import Provenance
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.recovery.verification import Fault, repair, verify
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination


async def land(sandbox: Sandbox, folder: Path, count: int = 5) -> list[Path]:
    """Land tasks, and return their images in order of name."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * count)
    async with (
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
        await Destination.open(str(folder)) as destination,
        open_lander(task_ids, client, destination) as lander,
    ):
        await lander.land_each(task_ids)
        assert lander.report().complete
    return sorted(path for path in folder.iterdir() if path.suffix != ".json")


@pytest.fixture
async def images(sandbox: Sandbox, tmp_path: Path) -> list[Path]:
    return await land(sandbox, tmp_path)


async def test_what_is_gone_or_of_another_size_is_found_without_reading(
    images: list[Path], tmp_path: Path
) -> None:
    """Rule: existence and size are compared with every receipt; the content only in depth."""
    async with await Destination.open(str(tmp_path)) as destination:
        sound = await verify(destination, deep=True)
        assert (sound.is_sound, sound.receipts, sound.images) == (True, 5, 5)
        images[0].unlink()
        images[1].write_bytes(images[1].read_bytes()[:-9])
        images[2].write_bytes(bytes(images[2].stat().st_size))
        found = {fault.name: fault.fault for fault in (await verify(destination)).faults}
        assert found == {images[0].name: Fault.MISSING, images[1].name: Fault.SIZE}
        found = {fault.name: fault.fault for fault in (await verify(destination, deep=True)).faults}
        assert found[images[2].name] is Fault.DAMAGED
        assert len(found) == 3


async def test_another_image_of_equal_size_is_found_in_depth(
    images: list[Path], tmp_path: Path
) -> None:
    """Rule: what decodes and is not what was landed is told by its SHA-256."""
    receipt = tmp_path / f"{images[0].stem}.json"
    content = json.loads(receipt.read_text())
    content["images"][0]["sha256"] = "0" * 64
    receipt.write_text(json.dumps(content))
    async with await Destination.open(str(tmp_path)) as destination:
        assert (await verify(destination)).is_sound
        [fault] = (await verify(destination, deep=True)).faults
    assert (fault.name, fault.fault) == (images[0].name, Fault.CONTENT)


DAMAGE = {
    "torn": lambda whole: whole[:70],
    "torn within the task id": lambda whole: whole[:30],
    "empty": lambda _: b"",
    "zeroed": lambda whole: bytes(len(whole)),
    "without its images": lambda whole: json.dumps(json.loads(whole) | {"images": None}).encode(),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_receipt_is_a_fault_and_is_landed_again(
    sandbox: Sandbox, images: list[Path], tmp_path: Path, damage: str
) -> None:
    """Rule: a receipt that cannot be read is not passed over; its task is known by what is left."""
    receipt = tmp_path / f"{images[0].stem}.json"
    receipt.write_bytes(DAMAGE[damage](receipt.read_bytes()))
    async with (
        await Destination.open(str(tmp_path)) as destination,
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
    ):
        found = await verify(destination)
        [fault] = found.faults
        assert (fault.name, fault.task_id) == (receipt.name, images[0].stem)
        assert (fault.fault, found.receipts) == (Fault.RECEIPT, 4)
        assert (await repair(found, client, destination)).complete
        mended = await verify(destination, deep=True)
    assert (mended.is_sound, mended.receipts) == (True, 5)


async def test_a_newer_releases_receipt_is_told_and_left_alone(
    images: list[Path], tmp_path: Path
) -> None:
    """Rule: what this release cannot check is a fault, and is never written over."""
    receipt = tmp_path / f"{images[0].stem}.json"
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"version": 2}))
    async with await Destination.open(str(tmp_path)) as destination:
        found = await verify(destination)
    [fault] = found.faults
    assert fault.describe().startswith(f"{receipt.name}: no whole receipt (version 2")
    assert found.stems == {}


async def test_files_that_are_no_receipts_are_no_faults(images: list[Path], tmp_path: Path) -> None:
    """Rule: other people's JSON in the folder is passed over."""
    for number, text in enumerate(["{}", "[1]", "text", '{"version": 1}', '{"task_id": "a"}']):
        (tmp_path / f"other-{number}.json").write_text(text)
    async with await Destination.open(str(tmp_path)) as destination:
        found = await verify(destination)
    assert (found.is_sound, found.receipts) == (True, len(images))


async def test_the_command_says_why_nothing_could_be_landed_again(
    sandbox: Sandbox, images: list[Path], tmp_path: Path
) -> None:
    """Rule: where URLs no longer live, each task's reason is told on stderr."""
    images[0].unlink()
    sandbox.advance(40 * 86_400)
    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["verify", str(tmp_path), "--repair", "--timeout", "5"]
    )
    assert result.exit_code == 3
    assert f"{images[0].stem}: failed: " in result.stderr
    assert "Landed again: 1 failed" in result.stdout


async def test_what_is_landed_again_keeps_what_made_it(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the new receipt tells of row and making what the old one told."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    made = Provenance(endpoint="generate-2", manifest="rows.jsonl", row=3, credits_estimated=8)
    async with (
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
        await Destination.open(str(tmp_path)) as destination,
    ):
        async with open_lander([task_id], client, destination) as lander:
            await lander.land(task_id, row_key="k", row_digest="d", provenance=made)
        receipt = tmp_path / f"{task_id}.json"
        before = json.loads(receipt.read_text())
        [image] = [path for path in tmp_path.iterdir() if path.suffix != ".json"]
        image.unlink()
        assert (await repair(await verify(destination), client, destination)).complete
        after = json.loads(receipt.read_text())
    assert before["provenance"]["row"] == 3
    kept = ("provenance", "row_key", "row_digest")
    assert [after[name] for name in kept] == [before[name] for name in kept]


async def test_what_is_wrong_is_landed_again_and_else_nothing(
    sandbox: Sandbox, images: list[Path], tmp_path: Path
) -> None:
    """Rule: repair lands the tasks with faults under their names; sound files are left alone."""
    images[0].unlink()
    images[1].write_bytes(bytes(images[1].stat().st_size))
    before = {path.name: path.stat().st_mtime_ns for path in images[2:]}
    async with (
        await Destination.open(str(tmp_path)) as destination,
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
    ):
        found = await verify(destination, deep=True)
        assert len(found.faults) == 2
        landed = await repair(found, client, destination)
        assert landed.complete
        assert (await verify(destination, deep=True)).is_sound
    assert {path.name: path.stat().st_mtime_ns for path in images[2:]} == before


async def test_the_command_reports_repairs_and_exits_accordingly(
    images: list[Path], tmp_path: Path
) -> None:
    """Rule: 0 where all is sound, 3 where not; a line or an entry of the JSON for each fault."""

    def run(*options: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["verify", str(tmp_path), *options])
        return result.exit_code, result.stdout

    assert (await asyncio.to_thread(run))[0] == 0
    images[0].unlink()
    code, printed = await asyncio.to_thread(run)
    assert (code, f"{images[0].name}: missing" in printed) == (3, True)
    code, printed = await asyncio.to_thread(run, "--json")
    assert (code, json.loads(printed)["faults"][0]["fault"]) == (3, "missing")
    code, printed = await asyncio.to_thread(run, "--repair", "--deep")
    assert (code, "0 faults" in printed) == (0, True)
    assert images[0].exists()
