"""Ctrl-C while the command has not begun: no traceback of an import."""

from __future__ import annotations

import subprocess
import sys

import pytest

WHILE_IMPORTING = """
import os, signal, sys

MODULE = sys.argv[1]

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

{disposition}
sys.meta_path.insert(0, Interrupts())
from nanobanana_blocks.cli import main
sys.argv = ["nanobanana", "--version"]
main()
"""


def interrupted(module: str, disposition: str = "") -> subprocess.CompletedProcess[str]:
    """`nanobanana --version`, interrupted as soon as it imports a module."""
    code = WHILE_IMPORTING.format(disposition=disposition)
    return subprocess.run(
        [sys.executable, "-c", code, module], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "module",
    ["nanobanana_blocks.cli.app", "typer", "httpx", "pydantic", "nanobanana_blocks.cli.tasks"],
)
def test_ctrl_c_while_importing_is_one_line(module: str) -> None:
    """Rule: whatever is being imported, it is exit code 130 and the line of every interrupt."""
    result = interrupted(module)
    assert (result.returncode, result.stdout) == (130, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("Interrupted.")


def test_a_background_job_goes_on_ignoring_ctrl_c() -> None:
    """Rule: where the shell has it ignored, it stays ignored."""
    result = interrupted("typer", "signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_package_imports_next_to_nothing_by_itself() -> None:
    """Rule: what takes long to import is imported when Ctrl-C is taken care of."""
    code = "import sys; import nanobanana_blocks.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"httpx", "pydantic", "typer", "asyncio", "prefect"} & set(done.stdout.split())
