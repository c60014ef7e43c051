"""Days on which the destination misbehaves, or what lies there is damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.fault_day import Account, Day, small_disk

MakeDay = Callable[..., Day]
Settle = Callable[..., Account]


def test_the_images_are_deleted_in_mid_run(make_day: MakeDay, settle: Settle) -> None:
    """Rule: a run again makes no image twice as long as the service has it."""
    day = make_day()
    run = day.start("--in-flight", "10")
    day.wait_for(lambda: day.landed() > 10, run)
    for path in day.images.iterdir():
        if path.is_file():
            path.unlink(missing_ok=True)
    day.end(run)
    assert day.run() == 0
    settle(day, "images and receipts deleted in mid-run, the folder `.nanobanana` kept")


def test_the_whole_destination_is_deleted_in_mid_run(make_day: MakeDay, settle: Settle) -> None:
    """Rule: the run ends and says so; what it deleted with the ledger is paid for again."""
    day = make_day()
    run = day.start("--in-flight", "5")
    day.wait_for(lambda: day.landed() > 10, run)
    shutil.rmtree(day.images.rename(day.folder / "deleted"))
    before = day.submitted()
    day.end(run)
    assert day.run() == 0
    again = day.submitted() - day.rows
    assert 0 < again <= before + 10
    settle(
        day,
        "the whole destination deleted in mid-run",
        paid_twice=again,
        exception="the record of what was paid for was deleted with it",
    )


@pytest.mark.root
def test_the_destination_becomes_read_only(
    make_day: MakeDay, settle: Settle, tmp_path: Path
) -> None:
    """Rule: no row is submitted that cannot be noted; what is missing is done after a mend."""
    with small_disk(tmp_path / "disk", 64) as disk:
        day = make_day(images=disk / "images")
        run = day.start("--in-flight", "10")
        day.wait_for(lambda: day.landed() > 10, run)
        # What has a file open for writing makes that impossible for a moment.
        for _ in range(200):
            command = ["mount", "-o", "remount,ro", str(disk)]
            if not subprocess.run(command, check=False, capture_output=True).returncode:
                break
        assert day.end(run) not in (0, -9)
        assert "read-only" in day.said()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        day.run()
        account = day.settle()
        assert account.told <= 10
        settle(
            day,
            "the destination read-only in mid-run, and writable again",
            told=account.told,
            exception="submits whose answer could not be noted, at most those in flight",
        )


@pytest.mark.root
def test_the_destination_fills_up(make_day: MakeDay, settle: Settle, tmp_path: Path) -> None:
    """Rule: a full disk is told; when there is space again, only what is missing is done."""
    with small_disk(tmp_path / "disk", 8) as disk:
        day = make_day(images=disk / "images")
        run = day.start("--in-flight", "10")
        day.wait_for(lambda: day.landed() > 10, run)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        assert day.end(run) not in (0, -9)
        assert "no space left" in day.said()
        filler.unlink()
        day.run()
        account = day.settle()
        assert account.told <= 10
        settle(
            day,
            "the disk full in mid-run, and free again",
            told=account.told,
            exception="submits under way whose answers could not be noted, at most `in_flight`",
        )


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": content[: len(content) // 2], "noise": b"\x00\xff{"}[how]
    )


@pytest.mark.parametrize("how", ["empty", "cut", "noise"])
def test_damaged_receipts(make_day: MakeDay, settle: Settle, how: str) -> None:
    """Rule: a receipt that cannot be read is written again; nothing is paid for again.

    What is no text at all may be somebody else's file: it is named, for a person to delete.
    """
    day = make_day(20)
    assert day.run() == 0
    damaged = sorted(day.images.glob("b*.json"))[:5]
    for path in damaged:
        damage(path, how)
    if how == "noise":
        assert day.run() == 1
        assert "would replace a file that is no receipt" in day.said()
        for path in damaged:
            path.unlink()
    assert day.run() == 0
    settle(day, f"5 receipts damaged ({how}), and run again")


@pytest.mark.parametrize("how", ["empty", "cut", "noise"])
def test_damaged_ledger_entries(
    make_day: MakeDay, settle: Settle, sandbox: Sandbox, how: str
) -> None:
    """Rule: a damaged entry concerns its row only, and is told rather than paid for again."""
    day = make_day(20)
    sandbox.configure(submitted_task=TaskPlan(seconds=600))
    run = day.start()
    day.wait_for(lambda: day.submitted() == day.rows, run)
    noted = day.images / ".nanobanana" / "ledger"
    day.wait_for(lambda: sum('"task_id"' in p.read_text() for p in noted.glob("*.1.json")) == 20)
    day.kill(run)
    for path in sorted(noted.glob("*.1.json"))[:2]:
        damage(path, how)
    sandbox.advance(600)
    day.run()
    settle(
        day,
        f"killed, then 2 ledger entries damaged ({how}), and run again",
        told=2,
        killed=1,
        exception="where the damaged entries are is told with them",
    )


def test_files_deleted_and_changed_by_hand(make_day: MakeDay, settle: Settle) -> None:
    """Rule: a run again heals what is gone or has another size; `verify` mends the rest."""
    day = make_day(20)
    assert day.run() == 0
    pictures = sorted(path for path in day.images.glob("b*.*") if path.suffix != ".json")
    pictures[0].unlink()
    pictures[1].write_bytes(b"another size")
    pictures[2].write_bytes(bytes(pictures[2].stat().st_size))
    assert day.run() == 0
    verify = [sys.executable, "-m", "nanobanana_blocks", "verify", str(day.images), "--deep"]
    found = day.start(command=[*verify, "--json"])
    assert day.end(found) == 3
    [fault] = json.loads(found.output.read_text())["faults"]
    assert fault["name"] == pictures[2].name
    assert day.end(day.start(command=[*verify, "--repair"])) == 0
    settle(day, "images deleted, replaced and zeroed by hand; run again, then `verify --repair`")


@pytest.mark.parametrize("how", ["empty", "cut", "noise"])
def test_a_damaged_spool(make_day: MakeDay, settle: Settle, how: str) -> None:
    """Rule: a receiver with a damaged spool starts or says why not; batches do without it."""
    day = make_day(20)
    spool = day.folder / "spool.db"
    command = [sys.executable, "-m", "nanobanana_blocks", "callbacks", "--port", "0"]
    command += ["--spool", str(spool), "--to", str(day.images)]
    environment = {"NANOBANANA_CALLBACK_SECRET": "a-secret-of-this-test-alone-0123456789"}
    receiver = day.start(command=command, **environment)
    day.wait_for(lambda: "/callbacks/" in day.said(), receiver)
    day.kill(receiver)
    damage(spool, how)
    for path in (spool.with_name("spool.db-wal"), spool.with_name("spool.db-shm")):
        path.unlink(missing_ok=True)
    receiver = day.start(command=command, **environment)
    day.wait_for(
        lambda: (
            receiver.process.poll() is not None
            or "/callbacks/" in receiver.output.read_text()
            or "/callbacks/" in receiver.output.with_suffix(".err").read_text()
        )
    )
    assert "Traceback" not in day.said()
    receiver.process.kill()
    receiver.process.wait()
    assert day.run() == 0
    settle(day, f"the callback receiver's spool damaged ({how})")
