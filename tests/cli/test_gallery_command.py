"""`nanobanana gallery`, and the gallery at the end of `nanobanana batch`."""

from __future__ import annotations

from pathlib import Path

from nanobanana_blocks import ImageStore
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.command_line import Command


async def test_of_a_folder_or_a_block(
    nanobanana: Command, sandbox: Sandbox, tmp_path: Path, prefect_api: str
) -> None:
    """Rule: the first page's path is the result; DEST is what it is everywhere; no key is asked."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    assert nanobanana("land", task_id, "--to", "./images").code == 0
    made = nanobanana("gallery", "./images", NANOBANANA_API_KEY="")
    assert (made.code, made.stdout) == (0, f"{tmp_path}/images/index.html\n")
    assert "1 task, 0 failures, 1 page" in made.stderr
    assert task_id in (tmp_path / "images" / "index.html").read_text()
    (tmp_path / "images" / "index.html").unlink()
    await ImageStore(url=f"{tmp_path}/images").asave("gallery-of", overwrite=True)
    saved = nanobanana("gallery", "gallery-of", "--json")
    assert saved.json == {
        "path": f"{tmp_path}/images/index.html",
        "pages": 1,
        "tasks": 1,
        "failures": 0,
        "unshown": 0,
    }


def test_of_a_folder_with_a_page_of_its_own(nanobanana: Command, tmp_path: Path) -> None:
    """Rule: somebody's own index.html is kept, and the error says what to do."""
    (tmp_path / "index.html").write_text("mine")
    made = nanobanana("gallery", ".")
    assert made.code == 1
    assert "index.html is not a page of a gallery, and is not replaced. Move it" in made.stderr


def test_at_the_end_of_a_batch(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a batch makes it, and says where it is, unless told not to."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    (tmp_path / "rows.csv").write_text("prompt,name\na cat,cat\n")
    without = nanobanana("batch", "rows.csv", "--to", "./images", "--no-gallery")
    assert without.code == 0
    assert not (tmp_path / "images" / "index.html").exists()
    with_it = nanobanana("batch", "rows.csv", "--to", "./images")
    assert f"Gallery: {tmp_path}/images/index.html" in with_it.stderr
    assert "cat" in (tmp_path / "images" / "index.html").read_text()
