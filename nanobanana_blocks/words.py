"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number of things: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
