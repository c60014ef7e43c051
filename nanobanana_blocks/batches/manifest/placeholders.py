"""Text that stands for a value which is not there: a spreadsheet's error, an unfilled template.

It knows what programs and people leave behind in cells. JSONL is not checked: there, text is meant.
"""

from __future__ import annotations

import re
import string

_JSONL = "JSONL takes it as it stands"

_SHEET_ERROR = re.compile(
    r"#(?:REF|VALUE|DIV/0|NULL|NUM|SPILL|CALC|FIELD|BLOCKED|CONNECT|UNKNOWN|BUSY|ERROR|PYTHON"
    r"|EXTERNAL)!|#NAME\?|#N/A\b|#GETTING_DATA\b|\bErr:5\d\d\b"
)
"""The errors of Excel, Google Sheets and LibreOffice, also within a longer text."""

_TOO_NARROW = re.compile(r"#{3,}")
_FORMULA = re.compile(r"=(?:[A-Z][A-Z0-9.]*\(.*|(?:\S+!)?\$?[A-Z]{1,3}\$?\d+\b.*)", re.DOTALL)

_NO_VALUE = frozenset(
    {"nan", "-nan", "nat", "<na>", "n/a", "na", "#na", "none", "null", "nil", "undefined", "(null)"}
    | {"(blank)", "(empty)", "[object object]", "\\n"}
)
"""What programs write for a value that is not there, in lower case."""

_TO_DO = frozenset({"todo", "tbd", "tba", "fixme", "xxx", "placeholder", "lorem ipsum"})

_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}|\{%.*?%\}|<%.*?%>|\$\{[^{}]*\}|%\(\w+\)s", re.DOTALL)
"""Unfilled places of template languages, also within a longer text."""

_BRACKETED = re.compile(r"\{[\w .-]*\}|<[\w .-]+>|\[[\w-]+\]|%\w+%|__\w+__|\$[A-Za-z_]\w*")
"""The same where nothing else is in the cell."""


def placeholder(text: str, *, is_prompt: bool) -> str | None:
    """What is wrong with a cell that holds no value of its own; None where it may be meant.

    More is refused of a prompt than of a name, which may well be ``todo``.
    """
    cell = text.strip()
    word = cell.lower()
    if found := _SHEET_ERROR.search(cell):
        return f"holds {found.group()}, a spreadsheet's error. Mend the sheet and save it again"
    if _TOO_NARROW.fullmatch(cell):
        return "holds only #, as of a column too narrow to show its values. Widen it; save again"
    if _FORMULA.fullmatch(cell):
        return f"holds a formula, not its result. Save the sheet's values ({_JSONL})"
    if word in _NO_VALUE:
        return f"holds {cell}, which programs write for no value. Leave the cell empty ({_JSONL})"
    if _TEMPLATE.search(cell) or (is_prompt and _BRACKETED.fullmatch(cell)):
        return f"holds a template's place that was not filled in ({_JSONL})"
    if is_prompt and word.rstrip(".!:?") in _TO_DO:
        return f"holds {cell}, which is still to be filled in ({_JSONL})"
    if is_prompt and cell and all(character in string.punctuation for character in cell):
        return f"holds only punctuation ({_JSONL})"
    return None
