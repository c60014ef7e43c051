"""What can be wrong with a manifest, and how it is told; nothing is read or checked here.

A message may be logged and mailed around, so it shows no prompt, no URL and no long value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.words import counted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_SHOWN = 20
"""Problems that one message shows."""

MAX_SHOWN_LENGTH = 60
"""Characters of a value or a name that a message shows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to change in a manifest or its defaults.

    Attributes:
        row: The number of the row, as `Row` counts; None where it is not about one row.
        field: The field, as the file spells it; None where it is not about one field.
        message: What is wrong, in words that follow the field's name.
    """

    row: int | None
    field: str | None
    message: str

    def __str__(self) -> str:
        row = None if self.row is None else f"row {self.row}"
        place = ", ".join(part for part in (row, self.field and shown(self.field)) if part)
        return f"{place}: {self.message}" if place else self.message


class InvalidManifest(InvalidInput):
    """Raised for a manifest with anything wrong in it, before anything is asked or spent.

    Attributes:
        problems: Everything found, in the order of the file; the message shows the first 20.
    """

    def __init__(
        self, message: str, *, task_id: str | None = None, problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.problems = list(problems)

    @classmethod
    def of(cls, source: str, problems: Sequence[Problem]) -> InvalidManifest:
        count = counted(len(problems), "problem")
        lines = [f"{source} has {count}:", *map(str, problems[:MAX_SHOWN])]
        if len(problems) > MAX_SHOWN:
            lines.append(f"and {len(problems) - MAX_SHOWN:,} more")
        return cls("\n".join(lines), problems=problems)


def shown(text: str) -> str:
    """The text as a message can have it: printable, and 60 characters at most."""
    cut = text if len(text) <= MAX_SHOWN_LENGTH else f"{text[: MAX_SHOWN_LENGTH - 1]}…"
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut
    )


def value_shown(value: object) -> str:
    """A JSON value as a message can have it; of a URL, not even the host."""
    if isinstance(value, str):
        if "://" in value:
            return "a URL"
        return shown(value) if value.strip() else "blank"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return shown(json.dumps(value))


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "finite_number": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "dict_type": "an object of the service's own fields",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list of URLs or files",
}


def reworded(error: ErrorDetails, *, quote: bool) -> str:
    """What pydantic found wrong with a field, in a few words; `quote` lets it show the value."""
    said = _said(error, f", not {value_shown(error['input'])}" if quote else "")
    items = [place for place in error["loc"] if isinstance(place, int)]
    return f"item {items[0] + 1} {said}" if items else said


def _said(error: ErrorDetails, instead: str) -> str:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}{instead}"
    if kind in ("literal_error", "enum"):
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"must be one of {', '.join(choices)}{instead}"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}{instead}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}{instead}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']:,} characters, not {len(value):,}"
    if kind == "too_long":
        return f"must have at most {context['max_length']} items, not {len(value):,}"
    if kind == "string_pattern_mismatch":
        return "must not be blank"
    if kind == "string_unicode":
        return "holds half of a surrogate pair, which is no character"
    if kind == "missing":
        return "is missing"
    return str(error["msg"])
