"""What the API says and what landing reports, as values; this module does no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum, IntEnum
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, computed_field

from nanobanana_blocks.errors import (
    GenerationFailed,
    IncompleteLanding,
    InvalidInput,
    NanoBananaError,
    UnknownTask,
)

LONGEST_TASK_ID = 255

Report = TypeVar("Report", bound="LandingReport")


class TaskStatus(IntEnum):
    """The documented values of record-info's `successFlag`."""

    GENERATING = 0
    SUCCESS = 1
    CREATE_TASK_FAILED = 2
    GENERATE_FAILED = 3

    @property
    def is_final(self) -> bool:
        """Whether the generation task has ended, well or badly."""
        return self is not TaskStatus.GENERATING


class TaskDetails(BaseModel):
    """A generation task as record-info, or a callback, describes it.

    The URLs are temporary (documented: 10 minutes for `origin_urls`, longer for `result_urls`) and
    may be signed, so they stay out of the representation.
    """

    model_config = ConfigDict(frozen=True)

    task_id: str
    status: TaskStatus
    result_urls: tuple[str, ...] = Field(default=(), repr=False)
    origin_urls: tuple[str, ...] = Field(default=(), repr=False)
    error_code: int | str | None = None
    error_message: str | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = None
    operation_type: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, repr=False)

    @property
    def image_count(self) -> int:
        """How many images the service says there are."""
        return max(len(self.result_urls), len(self.origin_urls))

    @property
    def images_asked_for(self) -> int:
        """How many images the generation task was asked for; 1 where it does not say."""
        asked = self.parameters.get("numImages")
        return asked if isinstance(asked, int) and 1 <= asked <= 100 else 1

    def image_urls(self, index: int) -> tuple[str, ...]:
        """The URLs of image `index` (from 0), the longer-lived one first."""
        return tuple(
            urls[index] for urls in (self.result_urls, self.origin_urls) if index < len(urls)
        )

    def raise_for_status(self) -> TaskDetails:
        """Return itself, or raise `GenerationFailed` if the generation task failed."""
        if self.status in (TaskStatus.GENERATING, TaskStatus.SUCCESS):
            return self
        reason = self.error_message or "no reason given"
        code = "" if self.error_code is None else f" (code {self.error_code})"
        raise GenerationFailed(
            f"the service ended it with {self.status.name}{code}: {reason}",
            task_id=self.task_id,
            status=self.status.name,
            error_code=self.error_code,
        )


class LandedImage(BaseModel):
    """One image in storage, whole and verified.

    `size` is in bytes, `width` and `height` in pixels, `sha256` in hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    media_type: str
    size: int
    width: int
    height: int
    sha256: str


class ReceiptImage(BaseModel):
    """One image as its receipt records it; `name` is relative to the receipt's folder."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    media_type: str
    size: int
    width: int
    height: int
    sha256: str

    def at(self, path: str) -> LandedImage:
        """The same image, told by where it is."""
        return LandedImage(path=path, **self.model_dump(exclude={"name"}))


class Receipt(BaseModel):
    """The JSON file beside the images whose existence means that the generation task is done.

    Times are UTC; `created_at` and `completed_at` rest on the observation that the API's times are
    UTC+8. `prompt` is there only where the store was told to keep it.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    task_id: str
    images: list[ReceiptImage]
    images_asked_for: int = 1
    operation_type: str | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = None
    landed_at: datetime
    polls: int
    waited_seconds: float
    prompt: str | None = None


class LandingStatus(str, Enum):
    """How landing one generation task ended."""

    LANDED = "landed"
    ALREADY_LANDED = "already_landed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


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
    `missing_images` is how many fewer images the service gave than were asked for.
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
        """What a person knows it by."""
        return self.task_id

    @property
    def in_storage(self) -> bool:
        return self.status in (LandingStatus.LANDED, LandingStatus.ALREADY_LANDED)

    @property
    def is_settled(self) -> bool:
        """Whether nothing more can come of it: it is in storage, or failed for good."""
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
        polls = "1 poll" if self.polls == 1 else f"{self.polls} polls"
        waited = f", done after {self.waited_seconds:.1f} s and {polls}" if self.polls else ""
        fewer = f", {self.missing_images} fewer than asked for" if self.missing_images else ""
        return f"{status}: {pictures}{waited}{fewer}"


_OUTCOMES = TypeAdapter(list[LandingOutcome])


class LandingReport(BaseModel):
    """What became of all generation tasks of a run, in the order asked.

    The outcomes are no field: Prefect walks through every field of what a flow returns, which would
    stop the event loop for a second for 10,000 of them.
    """

    destination: str
    _outcomes: Sequence[LandingOutcome] = PrivateAttr()

    def __init__(self, *, outcomes: Sequence[LandingOutcome], **fields: Any) -> None:
        super().__init__(**fields)
        self._outcomes = _OUTCOMES.validate_python(outcomes)

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def outcomes(self) -> Sequence[LandingOutcome]:
        """What became of each generation task."""
        return self._outcomes

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def counts(self) -> dict[str, int]:
        """How many outcomes have each status; all four statuses are always there."""
        found = Counter(outcome.status.value for outcome in self.outcomes)
        return {status.value: found[status.value] for status in LandingStatus}

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
        missing = self.not_landed
        if not missing:
            return self
        named = [f"{outcome.label} {outcome.describe().rstrip('.')}" for outcome in missing[:3]]
        more = f"; and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise IncompleteLanding(
            f"{self.describe()}. {'; '.join(named)}{more}. "
            "Running again does only what is missing.",
            report=self,
        )


class RowOutcome(LandingOutcome):
    """What became of one row of a batch.

    `task_id` is empty where nothing was submitted, or where it is not known whether anything was.
    `submitted` tells whether this run has submitted it, at about `credits` credits; `changed`, that
    its content is not that of its submit any more.
    """

    row: int
    key: str
    name: str | None = None
    submitted: bool = False
    credits: int = 0
    changed: bool = False

    @property
    def label(self) -> str:
        return f"row {self.row} ({self.name or self.task_id or 'no task'})"


_ROW_OUTCOMES = TypeAdapter(list[RowOutcome])


class BatchReport(LandingReport):
    """What became of the rows of a batch, in the order of its manifest; kept beside the images.

    Times are UTC. `credits_estimated` is for what this run submitted; `credits_before` is what the
    account had, where the API told. While `finished_at` is None, rows without an outcome are still
    to come: `rows` counts them all.
    """

    manifest: str
    rows: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    credits_before: int | None = None
    _outcomes: Sequence[RowOutcome] = PrivateAttr()

    def __init__(self, *, outcomes: Sequence[RowOutcome], **fields: Any) -> None:
        super().__init__(outcomes=(), **fields)
        self._outcomes = _ROW_OUTCOMES.validate_python(outcomes)

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def outcomes(self) -> Sequence[RowOutcome]:
        """What became of each row."""
        return self._outcomes

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
    def credits_estimated(self) -> int:
        """About what this run's submits cost."""
        return sum(outcome.credits for outcome in self.outcomes if outcome.submitted)

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def failures(self) -> dict[str, int]:
        """How many rows did not land, by the class of their error."""
        found = Counter(o.error.class_name for o in self.not_landed if o.error)
        return dict(found.most_common())


def check_task_id(task_id: object) -> str:
    """Return `task_id`, or raise `InvalidInput` if it cannot be one.

    The API does not document a form for its ids; anything printable without spaces may be one.
    """
    if not isinstance(task_id, str) or not task_id.strip():
        raise InvalidInput(f"a task id is blank or not text: {task_id!r:.80}")
    if len(task_id) > LONGEST_TASK_ID:
        raise InvalidInput(
            f"a task id is {len(task_id)} characters long (at most {LONGEST_TASK_ID}): "
            f"{task_id[:40]!r}…"
        )
    if not task_id.isprintable() or any(character.isspace() for character in task_id):
        raise InvalidInput(f"a task id holds a space or a control character: {task_id[:80]!r}")
    return task_id


def check_task_ids(task_ids: Iterable[object]) -> list[str]:
    """Return the ids as a list, or raise `InvalidInput` naming the first that cannot be one."""
    if isinstance(task_ids, (str, bytes)):
        raise InvalidInput(f"task_ids takes a list of ids, not one text: {task_ids[:80]!r}")
    checked = [check_task_id(task_id) for task_id in task_ids]
    if not checked:
        raise InvalidInput("task_ids is empty: give at least one task id")
    return checked
