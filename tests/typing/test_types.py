"""What the types promise to those who check their own programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "a_users_program.py"


@pytest.mark.parametrize(
    "checker",
    [["mypy", "--strict"], ["pyright", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_a_users_program_is_sound(checker: list[str]) -> None:
    """Rule: a program that uses the public names passes strict checks without casts."""
    done = subprocess.run(
        [sys.executable, "-m", *checker, str(PROGRAM)],
        cwd=PROGRAM.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
