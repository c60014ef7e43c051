"""Writes a folder to deploy from: `prefect.yaml` and an example manifest; it deploys nothing."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from nanobanana_blocks.errors import InvalidInput

TEMPLATES = ("prefect.yaml", "manifest.jsonl")
NEXT_STEPS = """\
Next:
  prefect block register -m nanobanana_blocks.blocks
  nanobanana save-key
  prefect work-pool create nanobanana --type process
  prefect --no-prompt deploy --all
  prefect worker start --pool nanobanana
Then run run-batch/on-demand in Prefect's UI, or:
  prefect deployment run run-batch/on-demand"""

_FOLDER = "@FOLDER@"


def write_project(folder: Path) -> list[Path]:
    """Write a project's files into a folder, which is made if need be, and return their paths.

    The paths in `prefect.yaml` are absolute: the flows run in a folder of the worker's own.

    Raises:
        InvalidInput: One of them is there already, or cannot be written; none was replaced.
    """
    folder = folder.expanduser().absolute()
    paths = [folder / name for name in TEMPLATES]
    if existing := [path for path in paths if path.exists() or path.is_symlink()]:
        raise InvalidInput(
            f"{existing[0]} is there already, and nothing was written. Name an empty folder, or "
            "move that file away."
        )
    templates = files("nanobanana_blocks.cli") / "templates"
    in_quotes = json.dumps(folder.as_posix(), ensure_ascii=False)[1:-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            text = (templates / path.name).read_text(encoding="utf-8")
            with path.open("x", encoding="utf-8") as file:
                file.write(text.replace(_FOLDER, in_quotes))
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written to: {error.strerror or error}") from None
    return paths
