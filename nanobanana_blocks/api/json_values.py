"""Values of JSON that nobody has checked: each in any spelling that was seen, or nothing.

It does no I/O and raises nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_URL_LENGTH = 8192
MAX_TEXT_LENGTH = 300

_URL_QUERY = re.compile(r"(https?://[^\s?#\"'<>]+)[?#][^\s\"'<>]*", re.IGNORECASE)


def as_url(value: Any) -> str | None:
    """A URL of a length that can be fetched, or None."""
    url = value.strip() if isinstance(value, str) else ""
    return url if 0 < len(url) <= MAX_URL_LENGTH else None


def as_json(body: bytes) -> Any:
    """What a body says in JSON; None where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def as_object(raw: Any) -> dict[str, Any]:
    """An object, which may be written as JSON text; an empty one for anything else."""
    value = as_json(raw.encode("utf-8", "replace")) if isinstance(raw, str) else raw
    return value if isinstance(value, dict) else {}


def as_integer(raw: Any) -> int | None:
    """A whole number in any spelling, or None."""
    if isinstance(raw, bool):
        return None
    if isinstance(raw, int):
        return raw if abs(raw) < 2**63 else None
    if isinstance(raw, float):
        return int(raw) if raw.is_integer() and abs(raw) < 2**63 else None
    if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,18}", raw.strip()):
        return int(raw)
    return None


def as_text(raw: Any) -> str | None:
    """A short printable text, the signed part of any URL in it cut off; None for nothing."""
    if raw is None or raw == "":
        return None
    text = raw if isinstance(raw, str) else json.dumps(raw, default=str)
    text = _URL_QUERY.sub(r"\1?…", text[: MAX_TEXT_LENGTH * 4])
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_TEXT_LENGTH] or None


def excerpt(raw: Any) -> str:
    """The beginning of what came, as an error may show it."""
    text = raw[:2000].decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return (as_text(text) or "nothing")[:120]
