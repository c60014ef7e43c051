"""Numbers in sentences."""

from __future__ import annotations

from nanobanana_blocks.words import counted


def test_counted() -> None:
    """Rule: one thing is one, and others are several, in thousands."""
    said = [counted(n, "row") for n in (0, 1, 2, 2000)]
    assert said == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert [counted(n, "copy", "copies") for n in (1, 2)] == ["1 copy", "2 copies"]
