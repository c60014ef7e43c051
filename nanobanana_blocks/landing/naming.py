"""What the files of a generation task are called; pure, and the only place that decides it.

They are called after the task's id, or after the name that a batch gives instead: their *stem*.
Task ids come from outside, so a name is never more than one path component and different ids never
share a receipt's. Of two ids like ``a`` and ``a-1``, both may claim the image name ``a-1.png``:
`rival_stem` gives the other one. The way back from a name to its id is the receipt, which states
the id as it came.
"""

from __future__ import annotations

import re

from nanobanana_blocks.storage.names import safe_name


def image_name(stem: str, index: int, count: int, extension: str) -> str:
    """Return the file name of image `index` (from 0) of `count`; `extension` has no dot.

    `stem` is the task id, or the name that a batch gives instead.

    ``<name>.<extension>`` for a single image; ``<name>-1.<extension>``, ``-2`` … for several.
    """
    number = f"-{index + 1}" if count > 1 else ""
    return f"{safe_name(stem)}{number}.{extension}"


def receipt_name(stem: str) -> str:
    """Return the file name of the receipt beside the images of `stem`."""
    return f"{safe_name(stem)}.json"


def partial_name(stem: str) -> str:
    """Return the hidden file name of the note about images of `stem` that lack others of theirs."""
    return f".nanobanana-partial-{safe_name(stem)}.json"


def rival_stem(stem: str, index: int, count: int) -> str | None:
    """Return the other stem, if any, whose images may be named like image `index` of `count`."""
    if count > 1:
        return f"{stem}-{index + 1}"
    numbered = re.fullmatch(r"(.+)-[1-9][0-9]?", stem)
    return numbered[1] if numbered else None
