"""Every fault that would cost money, put into the code, is noticed by a test; see `mutants`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.batches.mutants import MUTANTS, Mutant
from tests.support.prefect_runs import PROJECT

SECONDS = 60
"""After so long a test that waits for what a fault keeps from coming has noticed it."""

FAILED = 1
"""What pytest exits with where tests failed, and for no other reason."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code and its tests."""
    folder = tmp_path_factory.mktemp("mutants")
    for name in ("nanobanana_blocks", "tests"):
        shutil.copytree(
            PROJECT / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", "node_modules"),
        )
    shutil.copy(PROJECT / "pyproject.toml", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_fault_that_costs_money_is_noticed(copy: Path, mutant: Mutant) -> None:
    """Rule: what guards money is guarded by a test."""
    file = copy / "nanobanana_blocks" / mutant.module
    code = file.read_text()
    assert code.count(mutant.old) == 1
    file.write_text(code.replace(mutant.old, mutant.new))
    try:
        found = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", f"tests/batches/{mutant.test}"],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return
    finally:
        file.write_text(code)
    assert found.returncode == FAILED, found.stdout[-2000:]
