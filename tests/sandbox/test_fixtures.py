"""The pytest fixture that others use: at once, unless a speed is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
from nanobanana_blocks.sandbox import Sandbox, TaskPlan

pytest_plugins = ["nanobanana_blocks.sandbox.fixtures"]

def is_done(sandbox: Sandbox) -> bool:
    task_id = sandbox.add_task(TaskPlan())
    return task_id in sandbox.stats().done_at and sandbox.stats().done_at[task_id] <= {now}

def test_at_once(nanobanana_sandbox):
    assert is_done(nanobanana_sandbox)

class TestSlow:
    @pytest.fixture
    def nanobanana_sandbox_speed(self):
        return 1.0

    def test_as_the_service(self, nanobanana_sandbox):
        assert not is_done(nanobanana_sandbox)

def test_at_once_again(nanobanana_sandbox):
    assert is_done(nanobanana_sandbox)
"""


def test_speed_is_the_tests_choice(tmp_path: Path) -> None:
    """Rule: tasks are done at once; a fixture of that name changes it for whom it is in reach."""
    (tmp_path / "test_user.py").write_text(TESTS.replace("{now}", "__import__('time').time()"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "3 passed" in done.stdout, done.stdout
