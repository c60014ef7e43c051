"""Ctrl-C and SIGTERM where an exception would be lost or shown: in imports and finalizers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WHILE_IMPORTING = """
import os, signal, sys

MODULE, STOP = sys.argv[1:3]

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), int(STOP))
            except BaseException as interrupt:
                raise RuntimeError("an import that turns interrupts into errors") from interrupt

{disposition}
sys.meta_path.insert(0, Interrupts())
from nanobanana_blocks.cli import main
sys.argv[:] = ["nanobanana", *sys.argv[3:]]
main()
"""

IN_A_FINALIZER = """
import os, signal, sys, time

from nanobanana_blocks.cli import main
from nanobanana_blocks.cli.app import app
from nanobanana_blocks.cli.output import ending_well

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv.pop()))

@app.command()
def waiting(stop: int):
    with ending_well():
        Finalized()
        time.sleep(60)

{disposition}
sys.argv.insert(1, "waiting")
main()
"""

IGNORED = "signal.signal(signal.SIGINT, signal.SIG_IGN)"


def interrupted(
    module: str,
    *arguments: str,
    stop: signal.Signals = signal.SIGINT,
    disposition: str = "",
    temporary: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """`nanobanana` with these arguments, interrupted as soon as it imports a module."""
    code = WHILE_IMPORTING.format(disposition=disposition)
    return subprocess.run(
        [sys.executable, "-c", code, module, str(int(stop)), *arguments],
        capture_output=True, text=True, check=False,
        env=os.environ | ({"TMPDIR": str(temporary)} if temporary else {}),
    )  # fmt: skip


@pytest.mark.parametrize(
    "module",
    ["nanobanana_blocks.cli.app", "typer", "httpx", "pydantic", "nanobanana_blocks.cli.tasks"],
)
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_importing_is_one_line(module: str, stop: signal.Signals) -> None:
    """Rule: whatever is being imported, it is exit code 130 and the line of every interrupt."""
    result = interrupted(module, "--version", stop=stop)
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
    result = interrupted("typer", "--version", disposition=IGNORED)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("stop", "disposition"),
    [(signal.SIGINT, ""), (signal.SIGTERM, ""), (signal.SIGTERM, IGNORED)],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM in the background"],
)
def test_an_interrupt_is_not_lost_in_a_finalizer(stop: signal.Signals, disposition: str) -> None:
    """Rule: the command ends as at any other moment, although Python only prints the exception."""
    result = subprocess.run(
        [sys.executable, "-c", IN_A_FINALIZER.format(disposition=disposition), str(int(stop))],
        capture_output=True, text=True, check=False, timeout=55,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (130, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("Interrupted.")


def test_the_package_imports_next_to_nothing_by_itself() -> None:
    """Rule: what takes long to import is imported when Ctrl-C is taken care of."""
    code = "import sys; import nanobanana_blocks.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"httpx", "pydantic", "typer", "asyncio", "prefect"} & set(done.stdout.split())
