"""Which rows a run may submit under `max_credits`: chosen before anything is spent; no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nanobanana_blocks.api.prices import Credits, total
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.errors import CreditLimitReached, InvalidInput


class CreditLimit:
    """The rows that one run may submit, and what is left beside them.

    Args:
        limit: What the user has set; of a sharded batch, for all of it.
        share: What this run may spend: the limit, or a part of it.
        due: The rows that are to be submitted, in the order of the manifest.

    Attributes:
        limit: As given.
        chosen: The rows that it may submit: the first ones whose credits together stay within the
            share, each after those that it builds on.
        left: What of the share they leave, for alternative prompts.
    """

    def __init__(self, limit: Credits, share: Credits, due: Sequence[Row]) -> None:
        self.limit = total([limit])
        self.chosen = rows_within(due, share)
        self.left = total([share, *(-row.credits for row in self.chosen)])
        self._keys = {row.key for row in self.chosen}

    def allows(self, row: Row) -> bool:
        """Whether a row may be submitted."""
        return row.key in self._keys

    def require(self, row: Row) -> None:
        """Make sure that a row may be submitted.

        Raises:
            CreditLimitReached: It may not.
        """
        if not self.allows(row):
            raise CreditLimitReached(
                f"max_credits ({self.limit:,}) is used up by other rows. Nothing was submitted. "
                "Run again, which may spend as much again, or raise it."
            )

    def take_more(self, row: Row) -> bool:
        """Whether a row may be submitted once more than was reckoned with; it is counted then."""
        if row.credits > self.left:
            return False
        self.left = total([self.left, -row.credits])
        self._keys.add(row.key)
        return True


def rows_within(due: Sequence[Row], limit: Credits) -> list[Row]:
    """The first rows whose credits together stay within a limit.

    A row comes after those that it builds on, wherever they stand; at the first that would pass
    the limit it ends.

    Args:
        due: The rows that are to be submitted, in the order of the manifest.
        limit: In credits.
    """
    by_number = {row.number: row for row in due}
    chosen: dict[int, Row] = {}
    spent: Credits = 0
    for row in due:
        for needed in _with_parents(row, by_number, chosen):
            spent = total([spent, needed.credits])
            if spent > limit:
                return list(chosen.values())
            chosen[needed.number] = needed
    return list(chosen.values())


def _with_parents(row: Row, due: Mapping[int, Row], chosen: Collection[int]) -> list[Row]:
    """A row after those that it builds on, as far as they are due and not chosen yet."""
    found: list[Row] = []
    seen: set[int] = set()
    stack = [(row, False)]
    while stack:
        at, is_ready = stack.pop()
        if is_ready:
            found.append(at)
        elif at.number not in chosen and at.number not in seen:
            seen.add(at.number)
            stack.append((at, True))
            stack += [(due[n], False) for n in reversed(at.builds_on) if n in due]
    return found


def require_first(limit: Credits, due: Sequence[Row]) -> None:
    """Make sure that a limit lets at least one row be submitted, where some are due.

    Raises:
        InvalidInput: It does not.
    """
    if not due or rows_within(due, limit):
        return
    limit = total([limit])
    first = _with_parents(due[0], {row.number: row for row in due}, ())[0]
    raise InvalidInput(
        f"max_credits is {limit:,}, and row {first.number}, the first to be submitted, costs about "
        f"{first.credits:,}. Raise it to {first.credits:,} at least. Nothing was submitted."
    )
