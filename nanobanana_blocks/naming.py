"""What the files of a generation task are called; pure, and the only place that decides it.

They are called after the task's id, or after the name that a batch gives instead: their *stem*.
Task ids come from outside, so a name is never more than one path component and different ids never
share a receipt's. Of two ids like ``a`` and ``a-1``, both may claim the image name ``a-1.png``:
`rival_stem` tells the other one. The way back from a name to its id is the receipt, which states
the id as it came.
"""

from __future__ import annotations

import hashlib
import re

LONGEST_NAME = 100
"""Bytes that a name has at most, before its number and extension."""

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_HASHED = re.compile(r".*--[0-9a-f]{16}")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def safe_name(task_id: str) -> str:
    """Return the name that stands for `task_id` in file names.

    A plain id (at most 100 of ``A-Z a-z 0-9 . _ -``, no leading dot, no Windows device name) is its
    own name. Any other is cleaned, shortened and given ``--`` and 16 digits of its SHA-256; so is
    an id that looks like such a name already, which keeps the two kinds apart.
    """
    if _PLAIN.fullmatch(task_id) and not _DEVICE.fullmatch(task_id) and not _HASHED.match(task_id):
        return task_id
    digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    cleaned = _NOT_PLAIN.sub("_", task_id).lstrip(".")
    if _DEVICE.fullmatch(cleaned):
        cleaned = f"_{cleaned}"
    return f"{cleaned[: LONGEST_NAME - 18]}--{digest}"


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


def report_name(manifest: str) -> str:
    """Return the file name of a batch's report, after the last part of its manifest's URL."""
    file_name = manifest.rstrip("/").replace("\\", "/").rpartition("/")[2]
    stem = file_name.rpartition(".")[0] if "." in file_name else file_name
    return f"{safe_name(stem or 'batch')}.report.json"


def rival_stem(stem: str, index: int, count: int) -> str | None:
    """Return the other stem, if any, whose images may be named like image `index` of `count`."""
    if count > 1:
        return f"{stem}-{index + 1}"
    numbered = re.fullmatch(r"(.+)-[1-9][0-9]?", stem)
    return numbered[1] if numbered else None
