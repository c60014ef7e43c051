"""README and docs do what they say: every command and program in them is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.documents import blocks_of, reading
from tests.support.storage_servers import S3Server, s3_server

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
TASK_ID = "933259930a1fc855a4e3835b7c60a028"
"""The generation task of which the pages speak."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def environment(
    nanobanana_sandbox: Sandbox, prefect_server: str, s3: S3Server, tmp_path: Path
) -> dict[str, str]:
    """What a reader's shell has: the command, a key, a Prefect server, and a bucket."""
    nanobanana_sandbox.add_task(TaskPlan(task_id=TASK_ID, seconds=0))
    nanobanana_sandbox.configure(submitted_task=TaskPlan(seconds=0))
    (tmp_path / "home").mkdir()
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "HOME": str(tmp_path / "home"),
        "PREFECT_HOME": str(tmp_path / "home" / ".prefect"),
        "PREFECT_API_URL": prefect_server,
        "NANOBANANA_API_KEY": nanobanana_sandbox.api_key,
        "NANOBANANA_BASE_URL": nanobanana_sandbox.base_url,
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t-access-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page_does_what_it_says(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Rule: who follows a page word for word meets nothing that the page does not show."""
    folder = tmp_path / "reader"
    folder.mkdir()
    with reading(folder, environment) as reader:
        problems = reader.follow(page)
    assert not problems, "\n\n".join(problems)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_what_is_not_run_says_why(page: Path) -> None:
    """Rule: a block is left out for a stated reason only, and every fence names its language."""
    for block in blocks_of(page):
        if block.how:
            known = block.how in ("background", "fails") or block.how.startswith("not here, ")
            assert known, f"{page.name}:{block.line}: {block.how}"
    fences = [line for line in page.read_text().splitlines() if line.strip() == "```"]
    opened = [line for line in page.read_text().splitlines() if line.strip().startswith("```")]
    assert len(opened) == 2 * len(fences)
