"""Rows of a batch that wait for the rows they build on; nothing is submitted or landed here."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Collection, Sequence

from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.batches.manifest.chains import parents_first
from nanobanana_blocks.batches.referencing import add_landed
from nanobanana_blocks.batches.report import RowOutcome
from nanobanana_blocks.errors import CreditLimitReached, NanoBananaError, RowBlocked
from nanobanana_blocks.landing.report import LandingStatus
from nanobanana_blocks.references import References


def blocked_from_start(rows: Sequence[Row], hopeless: Collection[int]) -> dict[int, int]:
    """The rows that build on ones that will not land: each with the row where that begins.

    Args:
        rows: All rows of the run.
        hopeless: The numbers of those that will not land.
    """
    if not hopeless:
        return {}
    begins = {number: number for number in hopeless}
    for row in parents_first(rows)[0]:
        for parent in row.builds_on:
            if parent in begins:
                begins.setdefault(row.number, begins[parent])
    return {number: by for number, by in begins.items() if number != by}


class Chains:
    """Which rows have come to an end, and who waits for them.

    Args:
        rows: All rows of the run; what a row builds on is among them.
        references: Makes landed images reachable; None where no row works from images.
    """

    def __init__(self, rows: Sequence[Row], references: References | None) -> None:
        self._rows = {row.number: row for row in rows}
        self._references = references
        self._ended = {parent: asyncio.Event() for row in rows for parent in row.builds_on}
        self._outcomes: dict[int, RowOutcome] = {}
        self._abort_error: NanoBananaError | None = None

    def note(self, outcome: RowOutcome) -> None:
        """Take note of what became of a row."""
        if ended := self._ended.get(outcome.row):
            self._outcomes[outcome.row] = outcome
            ended.set()

    def abort(self, error: NanoBananaError) -> None:
        """Have nobody wait any longer, since the run ends."""
        self._abort_error = error
        for ended in self._ended.values():
            ended.set()

    async def ready(self, row: Row) -> None:
        """Wait until all images have landed that a row builds on.

        Raises:
            RowBlocked: One has not landed; it names the row where that began.
            CreditLimitReached: One was held back.
            UnusableReference: One is no image that the service takes.
            NanoBananaError: What has ended the whole run.
        """
        if not row.builds_on:
            return
        for parent in row.builds_on:
            await self._ended[parent].wait()
            if parent not in self._outcomes and self._abort_error:
                raise copy.copy(self._abort_error)
            self._require_landed(self._outcomes[parent])
        named = {
            name: self._outcomes[parent]
            for parent in row.builds_on
            for name in self._names_of(parent)
        }
        if self._references:
            add_landed(row, named, self._references)

    def _names_of(self, number: int) -> list[str]:
        row = self._rows[number]
        return [row.key, *([row.name] if row.name else [])]

    def _require_landed(self, outcome: RowOutcome) -> None:
        if outcome.in_storage:
            return
        if outcome.status is LandingStatus.HELD_BACK and outcome.error:
            raise CreditLimitReached(outcome.error.message)
        if outcome.blocked_by is not None and outcome.error:
            raise RowBlocked(outcome.error.message, by=outcome.blocked_by)
        label = outcome.label if outcome.name else f"row {outcome.row}"
        why = f" ({outcome.error.message.rstrip('.')})" if outcome.error else ""
        raise RowBlocked(
            f"blocked by {label}, whose image has not landed{why}. Nothing was submitted. It is "
            "done by a run in which that row lands.",
            by=outcome.row,
        )
