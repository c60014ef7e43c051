"""Names for files that stand for untrusted text: one path component, reversible, never clashing."""

from __future__ import annotations

import hashlib
import re

MAX_NAME_BYTES = 100
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
    return f"{cleaned[: MAX_NAME_BYTES - 18]}--{digest}"
