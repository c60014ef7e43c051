"""`nanobanana demo`, as somebody runs it who has nothing yet."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from nanobanana_blocks.orchestration.observability.artifacts import CONTACT_SHEET_KEY
from tests.support.until import block_until

pytestmark = pytest.mark.slow

NANOBANANA = Path(sys.executable).with_name("nanobanana")
SECONDS = 240


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of somebody with an empty home."""
    (tmp_path / "home").mkdir()
    return os.environ | {
        "HOME": str(tmp_path / "home"),
        "PATH": "/usr/bin:/bin",
        "COLUMNS": "120",
    }


def demo(*options: str, environment: dict[str, str], folder: Path) -> str:
    """Run a demonstration to its end, and return what it said."""
    done = subprocess.run(
        [NANOBANANA, "demo", *options], cwd=folder, env=environment, timeout=SECONDS,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@contextmanager
def kept(environment: dict[str, str], folder: Path) -> Iterator[str]:
    """The address of a run's page while `demo --keep` shows it."""
    log = folder / "kept.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [NANOBANANA, "demo", "--keep"], cwd=folder, env=environment,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            block_until(lambda: "stays up" in log.read_text())
            found = re.search(r"http://\S+/runs/flow-run/\S+", log.read_text())
            assert found
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS)
    assert log.read_text().endswith("Stopped.\n")


def test_it_says_what_is_staged_and_keeps_pictures(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Rule: a failure on purpose is called so, and the commands that are named can be typed as they
    are; `--keep`, when all had landed, shows the images."""
    said = demo(environment=environment, folder=tmp_path)
    assert "11 landed, 1 failed" in said
    assert said.count("(staged)") == 1
    assert "Staged, to show what a failure looks like:" in said
    command = os.path.relpath(NANOBANANA, tmp_path)  # the environment is not activated
    assert f"{command} gallery {tmp_path}/nanobanana-demo" in said
    with kept(environment, tmp_path) as page:
        query = {"artifacts": {"key": {"any_": [CONTACT_SHEET_KEY]}}}
        api, _, run = page.partition("/runs/flow-run/")
        [sheet] = httpx.post(f"{api}/api/artifacts/filter", json=query).json()
        assert sheet["flow_run_id"] == run
        assert "data:image/jpeg;base64," in sheet["data"]


def test_a_batch_with_a_lost_answer(environment: dict[str, str], tmp_path: Path) -> None:
    """Rule: both failures of the batch are said to be staged, and its gallery is named."""
    said = demo("--batch", "--to", "shown", environment=environment, folder=tmp_path)
    assert "7 landed, 2 failed" in said
    assert "sunrise: the sandbox takes the first submit and loses its answer" in said
    assert "refused: the sandbox plays a prompt that the service refuses" in said
    assert f"A gallery of them: {tmp_path}/shown/index.html" in said
    assert (tmp_path / "shown" / "index.html").exists()
