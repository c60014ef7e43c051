"""The names and fields of endpoints that this version does not know, as far as they can be checked.

What such an endpoint understands only the service knows; this sees that a name is safe in a
URL path, and that fields are JSON that can be sent and compared. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic_core import PydanticCustomError

MAX_ENDPOINT_LENGTH = 60
MAX_NESTING = 20
"""How deep lists and objects of fields are nested at most."""

_NAME = re.compile(r"[A-Za-z0-9]+(?:[._/-][A-Za-z0-9]+)*")
_NO_SUBMITS = frozenset({"record-info"})


def name_problem(name: object, known: list[str]) -> str | None:
    """What is wrong with the name of an endpoint, in words that follow it; None where nothing is.

    Args:
        name: What was given.
        known: The endpoints that this version knows, which have one spelling each.
    """
    if name in known:
        return None
    if not isinstance(name, str) or len(name) > MAX_ENDPOINT_LENGTH or not _NAME.fullmatch(name):
        return (
            f"must be one of {', '.join(known)}, or the last part of a newer endpoint's path, or a "
            f"model's name: letters and digits with single . _ - / between them, "
            f"{MAX_ENDPOINT_LENGTH} characters at most"
        )
    if name.lower() in known:
        return f"must be written {name.lower()}"
    if name.lower() in _NO_SUBMITS:
        return "is none that a request can be submitted to"
    return None


def needs_credits(name: str, known: list[str]) -> str:
    """What to say of an endpoint that is not known and whose price was not given."""
    close = get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else "."
    return (
        f"must be one of {', '.join(known)}, not {name}{meant} For an endpoint newer than this "
        "release give credits, what you expect one submit to cost"
    )


def check_own_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with each number in its one spelling, so that equal requests are told as equal.

    Raises:
        PydanticCustomError: They cannot be sent, or hold what a request has elsewhere.
    """
    letters = {re.sub(r"[\W_]", "", name).lower(): name for name in fields}
    if "callbackurl" in letters:
        raise _error(f"must not have {letters['callbackurl']}, which is made when it is sent")
    for name in ("prompt", "imageUrls"):
        if name in fields:
            raise _error(f"has {name}, which is given beside it too")
    for name, value in fields.items():
        if _takes_urls(name) and not _all_urls(value):
            raise _error(
                f"has no URL in {_shown(name)}. Only images in imageUrls may be files or rows: "
                "give a URL here"
            )
    made = {name: _canonical(value, MAX_NESTING) for name, value in fields.items()}
    try:
        for text in _texts(made):
            text.encode()
    except UnicodeEncodeError:
        raise _error("holds half of a surrogate pair, which is no character") from None
    return made


def urls_in(fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The URLs in checked fields, each with the name of its field as it may be shown."""
    for name, value in fields.items():
        if _takes_urls(name):
            yield from ((_shown(name), url) for url in _items(value) if url is not None)


def _takes_urls(name: str) -> bool:
    return re.search(r"ur[li]s?$", name, re.IGNORECASE) is not None


def _all_urls(value: object) -> bool:
    return all(
        item is None or (isinstance(item, str) and re.match(r"(?i)https?://[^\s/?#]", item))
        for item in _items(value)
    )


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _canonical(value: Any, nesting: int) -> Any:
    if nesting == 0:
        raise _error(f"is nested more than {MAX_NESTING} deep")
    if isinstance(value, dict):
        return {name: _canonical(each, nesting - 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_canonical(each, nesting - 1) for each in value]
    if isinstance(value, float):
        if value - value != 0:
            raise _error("holds a number that JSON has not")
        return int(value) if value.is_integer() else value
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []


def _shown(name: str) -> str:
    return ascii(name[:MAX_ENDPOINT_LENGTH])


def _error(message: str) -> PydanticCustomError:
    return PydanticCustomError("own_fields", "{said}", {"said": message})
