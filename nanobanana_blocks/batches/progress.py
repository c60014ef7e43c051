"""How far one row of a batch has come in a run, and what became of it; no I/O."""

from __future__ import annotations

from typing import Any

from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.batches.report import RowOutcome
from nanobanana_blocks.landing.report import ErrorSummary, LandingOutcome, LandingStatus


class RowProgress:
    """How far one row has come in this run."""

    def __init__(self, row: Row, *, changed: bool) -> None:
        self.row = row
        self.task_id = row.task_id or ""
        self.landed: LandingOutcome | None = None
        self.error: ErrorSummary | None = None
        self.blocked_by: int | None = None
        self.is_held_back = False
        self.is_alternative = False
        self._changed = changed

    def begin_again(self) -> None:
        """Forget how the row's own prompt ended."""
        self.task_id, self.landed, self.error = "", None, None

    def outcome(self, *, submits: int, unconfirmed: bool) -> RowOutcome:
        status = LandingStatus.FAILED if self.blocked_by is None else LandingStatus.BLOCKED
        if self.is_held_back:
            status = LandingStatus.HELD_BACK
        landed = self.landed or LandingOutcome(
            task_id=self.task_id, status=status, error=self.error
        )
        return row_outcome(
            self.row,
            landed,
            submits=submits,
            alternative_prompt=self.is_alternative,
            changed=self._changed and not submits,
            blocked_by=self.blocked_by,
            unconfirmed=unconfirmed,
        )


def row_outcome(row: Row, landed: LandingOutcome, *, submits: int = 0, **facts: Any) -> RowOutcome:
    return RowOutcome(
        **dict(landed),
        row=row.number,
        key=row.key,
        name=row.name,
        builds_on=row.builds_on,
        submitted=submits > 0,
        credits=row.credits * max(1, submits),
        **facts,
    )
