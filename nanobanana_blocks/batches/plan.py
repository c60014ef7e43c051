"""What a run of a batch would do, and what that would cost; no I/O."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, computed_field

from nanobanana_blocks.api.prices import total
from nanobanana_blocks.landing.report import Outcomes
from nanobanana_blocks.words import counted

MAX_LINES = 50
"""Rows that a person is shown on a terminal."""


class RowAction(StrEnum):
    """What a run would do with a row.

    `submit`: submit it, and land it. `resume`: wait for a task that was submitted before, or is
    given, and land it. `skip`: nothing, it has landed. `report`: say again how it has failed, or
    that its submit was not answered. `blocked`: nothing, for it builds on a row that will not land.
    `held_back`: nothing, for `max_credits` is used up before it.
    """

    SUBMIT = "submit"
    RESUME = "resume"
    SKIP = "skip"
    REPORT = "report"
    BLOCKED = "blocked"
    HELD_BACK = "held_back"


class PlannedRow(BaseModel):
    """What a run would do with one row; values by default are left out of JSON.

    `credits` is about what its submit costs, or would cost. `after` are the rows that it waits for;
    `blocked_by` is the one that it would wait for in vain. `alternative_credits` may come on top,
    for its alternative prompt.
    """

    model_config = ConfigDict(frozen=True)

    row: int
    key: str
    name: str | None = None
    action: RowAction
    why: str = ""
    credits: int | float = 0
    alternative_credits: int | float = 0
    after: tuple[int, ...] = ()
    blocked_by: int | None = None

    def describe(self) -> str:
        """The row in a line: ``row 3 (plate): submit, for about 4 credits, after row 2``."""
        name = f" ({self.name})" if self.name else ""
        parts = [f"row {self.row}{name}: {self.action.value.replace('_', ' ')}"]
        if self.credits:
            parts.append(f"for about {self.credits:,} credits")
        if self.after:
            rows = ", ".join(map(str, self.after))
            parts.append(f"after {'row' if len(self.after) == 1 else 'rows'} {rows}")
        return ", ".join(parts) + (f": {self.why}" if self.why else "")


class ReferenceUse(BaseModel):
    """How the service would get some of the images to work from.

    `way` is `url` (its own), `signed_url`, `public_copy`, `upload` (to the provider) or `row` (the
    image of another row, which goes the way of files). `where` is the place for copies or uploads.
    """

    model_config = ConfigDict(frozen=True)

    way: str
    images: int
    where: str | None = None


class BatchPlan(BaseModel):
    """What `run_batch` would do now; nothing was spent, and nothing written to the destination.

    Costs and times are estimates. `credits_available` is the account's balance, where the API told;
    `credits_worst_case` counts every alternative prompt. `learned_from_polls` says on how many
    observations the time rests; 0 where it is assumed. `warnings` are what a person should know
    before the run.
    """

    model_config = ConfigDict(frozen=True)

    manifest: str
    destination: str
    rows: int
    planned: Outcomes[PlannedRow]
    references: list[ReferenceUse] = Field(default_factory=list)
    credits_available: int | float | None = None
    max_credits: int | float | None = None
    seconds_estimated: float = 0.0
    learned_from_polls: int = 0
    warnings: list[str] = Field(default_factory=list)

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def counts(self) -> dict[str, int]:
        """How many rows there are for each action."""
        found = Counter(row.action.value for row in self.planned)
        return {action.value: found[action.value] for action in RowAction}

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def credits_estimated(self) -> int | float:
        """About what the rows to submit cost."""
        return total(row.credits for row in self.of(RowAction.SUBMIT))

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def credits_worst_case(self) -> int | float:
        """About what they cost where every alternative prompt is needed."""
        more = total(row.alternative_credits for row in self.planned)
        worst = total([self.credits_estimated, more])
        return worst if self.max_credits is None else min(worst, self.max_credits)

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def credits_held_back(self) -> int | float:
        """About what the rows cost that `max_credits` holds back."""
        return total(row.credits for row in self.of(RowAction.HELD_BACK))

    def of(self, action: RowAction) -> list[PlannedRow]:
        """The rows with which one thing would be done."""
        return [row for row in self.planned if row.action is action]

    def describe(self) -> str:
        """The plan in a line: ``8 rows to submit, for about 32 credits; 4 to skip``."""
        counts = self.counts
        costs = f", for about {self.credits_estimated:,} credits"
        parts = [f"{counts['submit']:,} to submit{costs if counts['submit'] else ''}"]
        parts += [f"{counts[name]:,} {words}" for name, words in _WORDS.items() if counts[name]]
        return f"{counted(self.rows, 'row')}: {', '.join(parts)}"

    def in_lines(self) -> list[str]:
        """The plan for a person, a fact a line, without its rows."""
        return [
            f"{self.describe()}.",
            self._money(),
            *([f"Time: about {self._duration()}."] if self.seconds_estimated else []),
            *(
                ["Images to work from: " + "; ".join(map(_use, self.references)) + "."]
                if self.references
                else []
            ),
            *self.warnings,
        ]

    def rows_in_lines(self) -> list[str]:
        """The rows that have not landed, for a person: a row a line, `MAX_LINES` at most."""
        told = [row for row in self.planned if row.action is not RowAction.SKIP]
        more = len(told) - MAX_LINES
        return [
            *(row.describe() for row in told[:MAX_LINES]),
            *([f"and {more:,} more rows"] if more > 0 else []),
        ]

    def _money(self) -> str:
        if self.credits_available is None:
            has = "The account's balance is not known"
        else:
            has = f"The account has {self.credits_available:,}"
        parts = [f"Credits: about {self.credits_estimated:,} (estimated). {has}"]
        if self.max_credits is not None:
            held = f", which holds back rows for about {self.credits_held_back:,}"
            parts.append(
                f"max_credits is {self.max_credits:,}{held if self.credits_held_back else ''}"
            )
        if self.credits_worst_case > self.credits_estimated:
            parts.append(f"With every alternative prompt it would be {self.credits_worst_case:,}")
        return ". ".join(parts) + "."

    def _duration(self) -> str:
        known = (
            f"learned from {self.learned_from_polls:,} polls here"
            if self.learned_from_polls
            else "assumed; nothing was learned here yet"
        )
        return f"{_time(self.seconds_estimated)} until the last image is ready ({known})"


_WORDS = {
    "resume": "to wait for that were submitted before",
    "skip": "to skip, for they have landed",
    "report": "failed or unconfirmed, to be left as they are",
    "blocked": "blocked",
    "held_back": "held back by max_credits",
}

_WAYS = {
    "url": "by their own URLs",
    "signed_url": "by signed URLs",
    "public_copy": "by public copies",
    "upload": "by uploads, which the provider keeps for a day or more,",
}


def _use(use: ReferenceUse) -> str:
    where = f" in {use.where}" if use.where else ""
    if use.way == "row":
        is_server = (use.where or "").startswith(("http://", "https://"))
        how = _WAYS["upload" if is_server else "public_copy" if use.where else "signed_url"]
        return f"{use.images:,} that other rows make, {how}{where}"
    return f"{use.images:,} {_WAYS.get(use.way, use.way)}{where}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
