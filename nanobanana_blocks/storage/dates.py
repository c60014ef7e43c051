"""``{date}`` in a path or URL: the place of a day. Which day that is, is decided elsewhere."""

from __future__ import annotations

import re
from datetime import date

from nanobanana_blocks.errors import InvalidInput

DATE = "{date}"

_PLACEHOLDER = re.compile(r"\{\w*\}")


def for_date(text: str, day: date) -> str:
    """Return `text` with the day, written YYYY-MM-DD, in the place of ``{date}``.

    Raises:
        InvalidInput: It holds another word in braces.
    """
    dated = text.replace(DATE, day.isoformat())
    if unknown := _PLACEHOLDER.search(dated):
        raise InvalidInput(f"{unknown.group()} is no known placeholder: write {DATE}, or no braces")
    return dated
