"""What became of each row of a batch, and of the batch; no I/O."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from pydantic import TypeAdapter, computed_field

from nanobanana_blocks.api.prices import total
from nanobanana_blocks.landing.report import (
    LandingOutcome,
    LandingReport,
    LandingStatus,
    Outcomes,
)
from nanobanana_blocks.storage.names import safe_name

REPORT_SUFFIX = ".report.json"


class RowOutcome(LandingOutcome):
    """What became of one row of a batch.

    `task_id` is empty where nothing was submitted, or where it is not known whether anything was.
    `submitted` tells whether this run has submitted it, at about `credits` credits: those of two
    submits where its alternative prompt was submitted as well. `alternative_prompt` tells that the
    task is that prompt's; `changed`, that the row's content is not that of its submit any more.
    `builds_on` has the numbers of the rows whose images it works from; `blocked_by` is the row that
    it waits for in vain: where its status is `blocked`, nothing was submitted for it. `unconfirmed`
    tells that this run has sent a submit for it and got no answer.
    """

    row: int
    key: str
    name: str | None = None
    submitted: bool = False
    credits: int | float = 0
    changed: bool = False
    alternative_prompt: bool = False
    builds_on: tuple[int, ...] = ()
    blocked_by: int | None = None
    unconfirmed: bool = False

    def describe(self) -> str:
        how = ", by its alternative prompt" if self.alternative_prompt and self.in_storage else ""
        return f"{super().describe()}{how}"

    @property
    def label(self) -> str:
        return f"row {self.row} ({self.name or self.task_id or 'no task'})"


_ROW = TypeAdapter(RowOutcome)


class BatchReport(LandingReport):
    """What became of the rows of a batch, in the order of its manifest; kept beside the images.

    Times are UTC. `credits_estimated` is for what this run submitted; `credits_before` and
    `credits_after` are what the account had, where the API told. `max_credits` is the limit that
    the run was given. While `finished_at` is None, rows without an outcome are still
    to come: `rows` counts them all.
    """

    outcomes: Outcomes[RowOutcome]
    manifest: str
    rows: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    credits_before: int | float | None = None
    credits_after: int | float | None = None
    max_credits: int | float | None = None

    def _named_failures(self) -> list[str]:
        """The rows that failed or are blocked, after what holds the others back."""
        held = [f"max_credits ({self.max_credits or 0:,}) is used up"] if self.held_back else []
        return held + [
            f"{outcome.label} {outcome.describe().rstrip('.')}"
            for outcome in self.not_landed
            if outcome.status is not LandingStatus.HELD_BACK
        ]

    def to_json(self) -> bytes:
        """The report as its file holds it, with a line for each row; values by default left out.

        Rows are written one by one: in one call, pydantic would stop all other threads meanwhile,
        and with them the event loop, for 0.2 s where there are 20,000.
        """
        head = self.model_dump_json(indent=2, exclude_defaults=True, exclude={"outcomes"})
        rows = [_ROW.dump_json(row, exclude_defaults=True) for row in self.outcomes]
        lines = b",\n    ".join(rows)
        listed = b"[\n    " + lines + b"\n  ]" if rows else b"[]"
        return head.removesuffix("\n}").encode() + b',\n  "outcomes": ' + listed + b"\n}"

    @property
    def not_landed(self) -> list[RowOutcome]:
        return [outcome for outcome in self.outcomes if not outcome.in_storage]

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def submitted(self) -> int:
        """How many rows this run has submitted."""
        return sum(outcome.submitted for outcome in self.outcomes)

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def credits_estimated(self) -> int | float:
        """About what this run's submits cost."""
        return total(outcome.credits for outcome in self.outcomes if outcome.submitted)

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def credits_measured(self) -> int | float | None:
        """By what the balance fell during this run, where it is known; all users of it count."""
        if self.credits_before is None or self.credits_after is None:
            return None
        return total([self.credits_before, -self.credits_after])

    @property
    def unconfirmed(self) -> list[RowOutcome]:
        """The rows whose submits of this run were not answered."""
        return [outcome for outcome in self.outcomes if outcome.unconfirmed]

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def failures(self) -> dict[str, int]:
        """How many rows did not land, by the class of their error.

        Those that are blocked or held back have not failed.
        """
        found = Counter(
            outcome.error.class_name
            for outcome in self.not_landed
            if outcome.error
            and outcome.status not in (LandingStatus.BLOCKED, LandingStatus.HELD_BACK)
        )
        return dict(found.most_common())

    @property
    def held_back(self) -> list[RowOutcome]:
        """The rows for which `max_credits` had nothing left."""
        return [o for o in self.outcomes if o.status is LandingStatus.HELD_BACK]

    @property
    def blocked(self) -> dict[int, list[int]]:
        """The rows that are blocked, by the number of the row that did not land."""
        found: dict[int, list[int]] = {}
        for outcome in self.outcomes:
            if outcome.blocked_by is not None:
                found.setdefault(outcome.blocked_by, []).append(outcome.row)
        return found


def report_name(manifest: str) -> str:
    """Return the file name of a batch's report, after the last part of its manifest's URL."""
    file_name = manifest.rstrip("/").replace("\\", "/").rpartition("/")[2]
    stem = file_name.rpartition(".")[0] if "." in file_name else file_name
    return f"{safe_name(stem or 'batch')}{REPORT_SUFFIX}"
