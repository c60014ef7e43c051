"""`nanobanana history`: what has landed in a folder, as a table, JSON, CSV, and as sidecars."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from nanobanana_blocks import ImageStore
from nanobanana_blocks.cli.history import fitted
from nanobanana_blocks.landing import Receipt, ReceiptImage
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.command_line import Command
from tests.support.prefect_runs import PROJECT


@pytest.fixture(autouse=True)
def _quick(sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=TaskPlan(seconds=0, media_type="image/png"))


def land_two(nanobanana: Command, folder: Path) -> None:
    """Land a row with two images, then a row of another endpoint."""
    rows = [
        {"prompt": "=SUM(1)", "name": "two", "numImages": 2, "image_size": "16:9"},
        {"prompt": "a pear", "key": "the pear", "endpoint": "generate-2", "resolution": "2K"},
    ]
    for number, row in enumerate(rows):
        (folder / f"rows{number}.jsonl").write_text(json.dumps(row))
        done = nanobanana("batch", f"rows{number}.jsonl", "--to", "./images", "--no-gallery")
        assert done.code == 0


def test_a_table(nanobanana: Command, tmp_path: Path) -> None:
    """Rule: a line for each task under headings, the oldest first, without a key."""
    land_two(nanobanana, tmp_path)
    listed = nanobanana("history", "./images", NANOBANANA_API_KEY="")
    assert listed.code == 0, listed.stderr
    heading, two, pear = listed.stdout.splitlines()
    assert " ".join(heading.split()) == ("LANDED (UTC) FILE PIXELS MADE BY CREDITS FROM ROW PROMPT")
    assert [heading.index(word) for word in ("FILE", "PIXELS")] == [
        two.index("two-1.png +1"),
        two.index("768×432"),
    ]
    assert "generate 16:9" in two
    assert "generate-2 2K" in pear
    assert pear.rstrip().endswith("the pear")
    assert "2 tasks, 3 images, in " in listed.stderr
    assert f"{tmp_path}/images" in listed.stderr


async def test_json_and_csv(nanobanana: Command, tmp_path: Path, prefect_api: str) -> None:
    """Rule: JSON is the receipts; CSV is a line an image, credits once a task; blocks too."""
    land_two(nanobanana, tmp_path)
    await ImageStore(url=f"{tmp_path}/images").asave("history-of", overwrite=True)
    listed = nanobanana("history", "history-of", "--json").json
    assert (listed["destination"], listed["unreadable"]) == (f"{tmp_path}/images", 0)
    first, second = listed["landed"]
    kept = json.loads((tmp_path / "images/two.json").read_text())
    assert first == {"receipt": "two.json"} | kept
    assert second["provenance"]["manifest"] == f"{tmp_path}/rows1.jsonl"
    lines = nanobanana("history", "history-of", "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(lines)))
    assert [row["file"] for row in rows[:2]] == ["two-1.png", "two-2.png"]
    assert [bool(row["credits_estimated"]) for row in rows] == [True, False, True]
    assert rows[2]["row_key"] == "the pear"
    assert json.loads(rows[0]["options"])["image_size"] == "16:9"
    both = nanobanana("history", "history-of", "--csv", "--json")
    assert both.code == 2


def test_an_empty_folder(nanobanana: Command, tmp_path: Path) -> None:
    """Rule: where nothing has landed, that is said, and is no failure."""
    empty = nanobanana("history", "./none")
    assert (empty.code, empty.stdout) == (0, "")
    assert "0 tasks, 0 images, in" in empty.stderr
    assert nanobanana("history", "./none", "--json").json["landed"] == []


def test_sidecars(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: --xmp writes a sidecar for each image, and again none; images stay as landed."""
    land_two(nanobanana, tmp_path)
    images = {path: path.read_bytes() for path in (tmp_path / "images").glob("*.png")}
    made = nanobanana("history", "./images", "--xmp")
    assert "3 sidecars written, 0 unchanged" in made.stderr
    (tmp_path / "images/two-1.xmp").write_text("mine")
    again = nanobanana("history", "./images", "--xmp", "--json").json
    assert again["sidecars"] == {
        "written": 0,
        "unchanged": 2,
        "not_ours": 1,
        "no_image": 0,
        "kept": ["two-1.xmp"],
    }
    appended = nanobanana("history", "./images", "--xmp", "--xmp-naming", "append", "--json")
    assert appended.json["sidecars"]["written"] == 3
    assert (tmp_path / "images/two-1.png.xmp").exists()
    assert {path: path.read_bytes() for path in images} == images
    assert nanobanana("verify", "./images", "--deep").code == 0
    done = nanobanana("batch", "rows0.jsonl", "--to", "./images")
    assert done.stdout.startswith("1 already landed")
    assert len(sandbox.submits()) == 2


@pytest.mark.parametrize("text", ["0123456789abcdef-1.png +1", "香蕉" * 12, "a" * 300])
def test_a_long_name_keeps_its_end(text: str) -> None:
    """Rule: a cell has its width, in letters of whatever width; what tells files apart stays."""
    cell = fitted(text, 20)
    assert cell_len(cell) == 20
    assert cell[0] == text[0]
    assert cell.endswith(text[-3:])
    assert fitted("short", 20) == "short" + " " * 15


def test_on_a_terminal_lines_are_cut(tmp_path: Path) -> None:
    """Rule: a line of the table is a line of the terminal; escape sequences do not reach it."""
    prompt = "\x1b[31mred\x1b[0m " * 40
    receipt = Receipt(
        task_id="t",
        images=[ReceiptImage(name="t.png", media_type="image/png", size=1, width=1, height=1,
                             sha256="ab" * 32)],
        landed_at=datetime(2026, 11, 1, tzinfo=UTC),
        polls=1,
        waited_seconds=1,
        prompt=prompt,
    )  # fmt: skip
    (tmp_path / "t.json").write_text(receipt.model_dump_json())
    command = f"stty cols 100 && {sys.executable} -m nanobanana_blocks history ."
    terminal, ours = pty.openpty()
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        stdin=ours,
        stdout=ours,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT)},
    ) as running:
        os.close(ours)
        output = b""
        with suppress(OSError):  # Linux's way of telling that the terminal is closed
            while part := os.read(terminal, 4096):
                output += part
    os.close(terminal)
    assert running.returncode == 0
    heading, line = output.decode().splitlines()
    assert "PROMPT" in heading
    assert cell_len(line) == 100
    assert line.endswith("…")
    assert "\x1b" not in line
