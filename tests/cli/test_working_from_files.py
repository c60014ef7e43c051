"""`--image` with files, and the clearing of their copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.command_line import Command
from tests.support.pictures import PublicFolder, picture, public_folder


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PublicFolder]:
    with public_folder(tmp_path / "world") as served:
        yield served


@pytest.fixture(autouse=True)
def _really_fetching(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.configure(
        submitted_task=TaskPlan(seconds=0, media_type="image/png"), fetch_references=True
    )
    (tmp_path / "mug.jpg").write_bytes(picture(6))


def test_a_file_is_worked_from(
    nanobanana: Command, sandbox: Sandbox, tmp_path: Path, world: PublicFolder
) -> None:
    """Rule: a file is copied where the world reads it; a changed one is another generation."""
    public = ("--references", "./world", "--references-url", world.url)
    edit = ("generate", "At night", "--to", "./images", "--image", "mug.jpg", *public)
    first = nanobanana(*edit)
    assert first.code == 0, first.stderr
    assert nanobanana(*edit).stdout == first.stdout
    assert sandbox.stats().submits == 1
    (tmp_path / "mug.jpg").write_bytes(picture(7))
    assert nanobanana(*edit).stdout != first.stdout
    assert sandbox.stats().references_fetched == 2
    cleared = nanobanana("clear-references", "./world", "--older-than", "0", "--json")
    assert cleared.json == {"deleted": 2, "left": 0}


def test_what_cannot_be_worked_from(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: one line that names the option, the file and the next step; nothing is submitted."""
    missing = nanobanana("generate", "a", "--to", "./images", "--image", "cup.jpg")
    assert missing.code == 1
    assert missing.stderr.startswith("Error: --image: image 1 ")
    assert "cup.jpg does not exist" in missing.stderr
    local = nanobanana("generate", "a", "--to", "./images", "--image", "mug.jpg")
    assert "Give `references`" in local.stderr
    no_url = nanobanana("generate", "a", "--to", "./images", "--references", "./world")
    assert "Give --references-url" in no_url.stderr
    assert not sandbox.submits()
