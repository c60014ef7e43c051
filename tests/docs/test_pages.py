"""README and docs do what they say: every command and program in them is run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanobanana_blocks.cli.demo import own_prefect
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.documents import blocks_of, reading
from tests.support.storage_servers import S3Server, s3_server

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
TASK_ID = "933259930a1fc855a4e3835b7c60a028"
"""The generation task of which the pages speak."""


@pytest.fixture
def s3() -> Iterator[S3Server]:
    """A bucket of the page's own."""
    with s3_server() as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[str]:
    """A Prefect server of the page's own, on which nothing is deployed yet."""
    (tmp_path / "server").mkdir()
    with own_prefect(tmp_path / "server") as environment:
        yield environment["PREFECT_API_URL"]


@pytest.fixture
def environment(
    nanobanana_sandbox: Sandbox, own_server: str, s3: S3Server, tmp_path: Path
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
        "PREFECT_API_URL": own_server,
        "PREFECT_CLI_COLORS": "false",
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
            known = block.how in ("background", "fails") or block.file_name
            assert known or block.how.startswith("not here, "), (
                f"{page.name}:{block.line}: {block.how}"
            )
    fences = [line for line in page.read_text().splitlines() if line.strip() == "```"]
    opened = [line for line in page.read_text().splitlines() if line.strip().startswith("```")]
    assert len(opened) == 2 * len(fences)


@pytest.mark.slow
@pytest.mark.parametrize(
    "checker",
    [["mypy", "--strict"], ["pyright", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_the_programs_of_all_pages_are_sound(checker: list[str], tmp_path: Path) -> None:
    """Rule: each Python block is a whole program, which passes strict checks as it stands."""
    programs = []
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "python":
                program = tmp_path / f"{page.stem.lower().replace('-', '_')}_{block.line}.py"
                program.write_text(block.text)
                programs.append(str(program))
    assert programs
    done = subprocess.run(
        [sys.executable, "-m", *checker, *programs],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
