"""The options that give the fields of an endpoint that this version does not know."""

from __future__ import annotations

from typing import Any

from nanobanana_blocks.batches.manifest.formats import parse_json
from nanobanana_blocks.errors import InvalidInput


def read_json(text: str) -> Any:
    """The value of JSON text; any other text as it is."""
    try:
        return parse_json(text)[0]
    except ValueError:
        return text


def own_fields(texts: list[str], whole: str | None) -> dict[str, Any] | None:
    """The fields that ``name=value`` texts and an object as JSON give together; None without any.

    Raises:
        InvalidInput: One is not of this form, or is given twice.
    """
    made: dict[str, Any] = {}
    if whole is not None:
        given = read_json(whole)
        if not isinstance(given, dict):
            raise InvalidInput("--fields is no JSON object: write --fields '{\"seed\": 7}'")
        made |= given
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InvalidInput(f"--field {text[:40]!r}: write NAME=VALUE")
        if name in made:
            raise InvalidInput(f"--field {name[:40]!r} is given twice: write it once")
        made[name] = read_json(value)
    return made or None
