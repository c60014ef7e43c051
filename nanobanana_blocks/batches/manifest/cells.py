"""What the text of a CSV cell means for its column; no row is checked here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nanobanana_blocks.batches.manifest.formats import parse_json

_TEXTS = frozenset({"prompt", "prompt_on_content_policy", "watermark"})
_CELLS: Mapping[str, TypeAdapter[Any]] = {
    "num_images": TypeAdapter(int),
    "google_search": TypeAdapter(bool),
    "credits": TypeAdapter(float),
}
"""What cells of a column mean, where that is not text."""

_BETWEEN_URLS = re.compile(r"[\s,;|]+(?=[a-z][a-z0-9+.-]*://|row:)", re.IGNORECASE)
_AFTER_A_URL = re.compile(r"[\s,;|]+(?=\s|$)")
_JOINED = re.compile(r"[,;|](?:https?|s3|gs|az)://", re.IGNORECASE)
_BETWEEN_FILES = re.compile(r"[,;|]+")


def from_cell(name: str, text: str) -> object:
    """The value that a cell means; what cannot be understood stays text, and is found wrong.

    Args:
        name: Python's name of the column's field.
        text: The cell, which is not blank.
    """
    if name in _TEXTS:
        return text
    text = text.strip()
    if name in _CELLS:
        try:
            return _CELLS[name].validate_python(text)
        except ValidationError:
            return text
    if name not in ("image_urls", "fields"):
        return text
    if name == "image_urls" and not text.startswith("["):
        return _urls(text)
    try:
        return parse_json(text)[0]
    except ValueError:
        return text


def _urls(text: str) -> list[str]:
    """The images in a cell: between white space, or commas and the like before the next URL.

    A comma anywhere else belongs to its URL. Between files without a scheme, commas part them.
    """
    found: list[str] = []
    for part in _AFTER_A_URL.sub(" ", _BETWEEN_URLS.sub(" ", text)).split():
        found += [part] if "://" in part else filter(None, _BETWEEN_FILES.split(part))
    return found


def is_joined(url: object) -> bool:
    """Whether one item of a list of URLs holds several, as ``https://a,https://b`` does."""
    return isinstance(url, str) and _JOINED.search(url) is not None
