"""The rules of the house that import-linter cannot see: what is public, and what needs Prefect."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PUBLIC = (
    "nanobanana_blocks",
    "nanobanana_blocks.blocks",
    "nanobanana_blocks.callbacks",
    "nanobanana_blocks.errors",
    "nanobanana_blocks.sandbox",
    "nanobanana_blocks.tasks",
)

WITHOUT_PREFECT = """
    import importlib, importlib.abc, sys

    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "prefect":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Missing())
    for name in sys.argv[1:]:
        importlib.import_module(name)
    assert "prefect" not in sys.modules
"""


def run(program: str, *arguments: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def modules_below(package: str) -> list[str]:
    folder = PROJECT / package.replace(".", "/")
    files = [path.relative_to(PROJECT).with_suffix("") for path in folder.rglob("*.py")]
    return [".".join(path.parts).removesuffix(".__init__") for path in files]


@pytest.mark.parametrize(
    "room",
    [
        "api",
        "images",
        "storage",
        "landing",
        "references",
        "batches",
        "recovery",
        "callbacks",
        "gallery",
        "sandbox",
    ],
)
def test_a_room_that_does_not_need_prefect(room: str) -> None:
    """Rule: all but orchestration, the command line and the flows work where Prefect is missing."""
    run(WITHOUT_PREFECT, "nanobanana_blocks", *modules_below(f"nanobanana_blocks.{room}"))


def documented_names(module: str) -> set[str]:
    """The names below a module's heading in the reference."""
    text = (PROJECT / "docs" / "reference.md").read_text()
    _, _, section = text.partition(f"### `{module}`\n")
    assert section, f"{module} is missing in docs/reference.md"
    return set(re.findall(r"^\| `([\w]+)", section.partition("\n#")[0], flags=re.MULTILINE))


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_public_is_documented(module: str) -> None:
    """Rule: `__all__` and the reference name the same; what neither names is private."""
    exported = set(importlib.import_module(module).__all__)
    assert exported == documented_names(module)


def test_every_public_name_is_there() -> None:
    """Rule: nothing is exported that cannot be imported, the names that need Prefect included."""
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_no_module_is_long_without_a_reason() -> None:
    """Rule: a module above 400 lines says in its heading why it is one."""
    for path in (PROJECT / "nanobanana_blocks").rglob("*.py"):
        lines = path.read_text().splitlines()
        if len(lines) > 400:
            heading = "\n".join(lines[:30])
            assert "One module, because" in heading, f"{path.relative_to(PROJECT)}: {len(lines)}"
