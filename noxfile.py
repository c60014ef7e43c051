"""The tests on every Python that is here, and on the oldest versions that are promised."""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests", "lowest"]

os.environ["PATH"] = os.pathsep.join(
    [os.environ["PATH"], *map(str, sorted(Path("~/.pyenv/versions").expanduser().glob("*/bin")))]
)
NOT_SLOW = ("pytest", "-m", "not slow", "-n", "auto", "--dist", "loadfile")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Run all but the slow tests with the locked versions."""
    session.install("--require-hashes", "--requirement", "requirements-dev.txt")
    session.install("--no-deps", "--editable", ".")
    session.run(*(session.posargs or NOT_SLOW))


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run them with the oldest version of each dependency that pyproject.toml admits."""
    session.install("uv")
    oldest, locked = (Path(session.create_tmp()) / name for name in ("oldest.txt", "locked.txt"))
    compiling = ("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--all-extras")
    session.run(
        *compiling, "--resolution=lowest-direct", f"--output-file={oldest}", "pyproject.toml"
    )
    session.run(
        *compiling, "--group=dev", f"--constraint={oldest}", f"--output-file={locked}",
        "pyproject.toml",
    )  # fmt: skip
    session.install("--requirement", str(locked))
    session.install("--no-deps", "--editable", ".")
    session.run(*(session.posargs or NOT_SLOW))
