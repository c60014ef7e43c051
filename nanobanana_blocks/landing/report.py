"""What became of each generation task of a run, and of the run; no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, TypeVar, get_args, overload

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, computed_field
from pydantic_core import core_schema

from nanobanana_blocks.errors import (
    GenerationFailed,
    IncompleteLanding,
    NanoBananaError,
    UnknownTask,
)
from nanobanana_blocks.landing.receipt import LandedImage
from nanobanana_blocks.words import counted

Outcome_co = TypeVar("Outcome_co", bound=BaseModel, covariant=True)
Report = TypeVar("Report", bound="LandingReport")


class LandingStatus(StrEnum):
    """How landing one generation task ended.

    Of a batch, a row can be blocked: it builds on another that did not land; or held back: the
    run's `max_credits` was used up before it. Neither has a task.
    """

    LANDED = "landed"
    ALREADY_LANDED = "already_landed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    BLOCKED = "blocked"
    HELD_BACK = "held_back"


class ErrorSummary(BaseModel):
    """An error as reports keep it: its class, what it said, and whether trying again may help."""

    model_config = ConfigDict(frozen=True)

    class_name: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, error: NanoBananaError) -> ErrorSummary:
        return cls(
            class_name=type(error).__name__, message=error.message, retryable=error.retryable
        )


class LandingOutcome(BaseModel):
    """What became of one generation task.

    `polls` counts record-info requests, `waited_seconds` runs until the task was seen to be done.
    `missing_images` is how many of those asked for are not in storage.
    """

    model_config = ConfigDict(frozen=True)

    task_id: str
    status: LandingStatus
    images: list[LandedImage] = Field(default_factory=list)
    error: ErrorSummary | None = None
    polls: int = 0
    waited_seconds: float = 0.0
    missing_images: int = 0

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.task_id

    @property
    def in_storage(self) -> bool:
        return self.status in (LandingStatus.LANDED, LandingStatus.ALREADY_LANDED)

    @property
    def is_settled(self) -> bool:
        """Whether nothing more can come of it: it is in storage, or failed permanently."""
        failures = (GenerationFailed.__name__, UnknownTask.__name__)
        return self.in_storage or (self.error is not None and self.error.class_name in failures)

    def describe(self) -> str:
        """What became of it, in a line without the task id."""
        status = self.status.value.replace("_", " ")
        if self.error:
            return f"{status}: {self.error.message}"
        pictures = ", ".join(
            f"{image.path} ({image.width} × {image.height}, {image.size / 1000:,.0f} kB)"
            for image in self.images
        )
        polls = counted(self.polls, "poll")
        waited = f", done after {self.waited_seconds:.1f} s and {polls}" if self.polls else ""
        fewer = f", {self.missing_images} fewer than asked for" if self.missing_images else ""
        return f"{status}: {pictures}{waited}{fewer}"


class Outcomes(Sequence[Outcome_co]):
    """The outcomes of a run, as a sequence that Prefect does not walk through.

    It walks through every list in what a flow returns, which stops the event loop for a second for
    10,000 outcomes.
    """

    __slots__ = ("_outcomes",)

    def __init__(self, outcomes: Iterable[Outcome_co] = ()) -> None:
        self._outcomes = tuple(outcomes)

    @overload
    def __getitem__(self, index: int) -> Outcome_co: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome_co]: ...

    def __getitem__(self, index: int | slice) -> Outcome_co | Sequence[Outcome_co]:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._outcomes == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as for a list

    def __repr__(self) -> str:
        return f"Outcomes({list(self._outcomes)!r})"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        listed = handler(list[get_args(source)[0]])  # type: ignore[misc]  # known at run time only
        return core_schema.chain_schema(
            [
                core_schema.no_info_plain_validator_function(_as_list),
                core_schema.no_info_after_validator_function(cls, listed),
            ],
            serialization=core_schema.plain_serializer_function_ser_schema(
                list, return_schema=listed
            ),
        )


def _as_list(outcomes: object) -> object:
    return list(outcomes) if isinstance(outcomes, (Outcomes, tuple)) else outcomes


class LandingReport(BaseModel):
    """What became of all generation tasks of a run, in the order asked."""

    destination: str
    outcomes: Outcomes[LandingOutcome]

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def counts(self) -> dict[str, int]:
        """How many outcomes have each status; what only rows have, where there are some."""
        found = Counter(outcome.status for outcome in self.outcomes)
        of_batches = (LandingStatus.BLOCKED, LandingStatus.HELD_BACK)
        return {
            status.value: found[status]
            for status in LandingStatus
            if found[status] or status not in of_batches
        }

    @property
    def not_landed(self) -> Sequence[LandingOutcome]:
        return [outcome for outcome in self.outcomes if not outcome.in_storage]

    @property
    def complete(self) -> bool:
        """Whether every image asked for is in storage."""
        return not self.not_landed

    def describe(self) -> str:
        """The counts in words: ``11 landed, 1 failed``."""
        present = [f"{n} {status.replace('_', ' ')}" for status, n in self.counts.items() if n]
        return ", ".join(present) or "nothing to land"

    def raise_unless_complete(self: Report) -> Report:
        """Return itself, or raise `IncompleteLanding` naming the first tasks that did not land."""
        if self.complete:
            return self
        failures = self._named_failures()
        more = f"; and {len(failures) - 3:,} more" if len(failures) > 3 else ""
        raise IncompleteLanding(
            f"{self.describe()}. {'; '.join(failures[:3])}{more}. "
            "Running again does only what is missing.",
            report=self,
        )

    def _named_failures(self) -> list[str]:
        """What did not land, each with its reason."""
        return [f"{outcome.label} {outcome.describe().rstrip('.')}" for outcome in self.not_landed]
