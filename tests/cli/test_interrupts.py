"""Ctrl-C while the command has not begun: no traceback of an import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WHILE_IMPORTING = """
import os, signal, sys

MODULE = sys.argv[1]

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException as interrupt:
                raise RuntimeError("an import that turns interrupts into errors") from interrupt

{disposition}
sys.meta_path.insert(0, Interrupts())
from nanobanana_blocks.cli import main
sys.argv[:] = ["nanobanana", *sys.argv[2:]]
main()
"""


def interrupted(
    module: str, *arguments: str, disposition: str = "", temporary: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`nanobanana` with these arguments, interrupted as soon as it imports a module."""
    code = WHILE_IMPORTING.format(disposition=disposition)
    return subprocess.run(
        [sys.executable, "-c", code, module, *arguments], capture_output=True, text=True,
        check=False, env=os.environ | ({"TMPDIR": str(temporary)} if temporary else {}),
    )  # fmt: skip


@pytest.mark.parametrize(
    "module",
    ["nanobanana_blocks.cli.app", "typer", "httpx", "pydantic", "nanobanana_blocks.cli.tasks"],
)
def test_ctrl_c_while_importing_is_one_line(module: str) -> None:
    """Rule: whatever is being imported, it is exit code 130 and the line of every interrupt."""
    result = interrupted(module, "--version")
    assert (result.returncode, result.stdout) == (130, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("Interrupted.")


@pytest.mark.parametrize("module", ["prefect.settings", "nanobanana_blocks.cli.demo"])
def test_ctrl_c_while_a_demonstration_imports(module: str, tmp_path: Path) -> None:
    """Rule: that is one line, too, and the demonstration's own Prefect leaves no folder behind."""
    result = interrupted(module, "demo", temporary=tmp_path)
    assert (result.returncode, result.stdout) == (130, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("Interrupted.")
    assert not list(tmp_path.iterdir())


def test_a_background_job_goes_on_ignoring_ctrl_c() -> None:
    """Rule: where the shell has it ignored, it stays ignored."""
    result = interrupted(
        "typer", "--version", disposition="signal.signal(signal.SIGINT, signal.SIG_IGN)"
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_package_imports_next_to_nothing_by_itself() -> None:
    """Rule: what takes long to import is imported when Ctrl-C is taken care of."""
    code = "import sys; import nanobanana_blocks.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"httpx", "pydantic", "typer", "asyncio", "prefect"} & set(done.stdout.split())
