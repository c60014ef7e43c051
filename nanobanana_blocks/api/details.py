"""What the API says of a generation task, as values; this module does no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import IntEnum
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from nanobanana_blocks.errors import GenerationFailed, ImageUnavailable, InvalidInput

MAX_TASK_ID_LENGTH = 255


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
    may be signed, so they stay out of the representation. `result_urls` and `origin_urls` leave out
    what the service leaves empty; `image_urls` says which of them belong to the same image
    (`urls_by_image` is set only where their order does not say so). `by_code` says that the end was
    told not by `successFlag` but by a code of the envelope, which only sister products document: it
    is believed when it is repeated. `answered_at` is when record-info said this by
    the service's own clock, its Date header: with `created_at` it gives the task's age.
    """

    model_config = ConfigDict(frozen=True)

    task_id: str
    status: TaskStatus
    result_urls: tuple[str, ...] = Field(default=(), repr=False)
    origin_urls: tuple[str, ...] = Field(default=(), repr=False)
    urls_by_image: tuple[tuple[str, ...], ...] = Field(default=(), repr=False)
    error_code: int | str | None = None
    error_message: str | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = None
    operation_type: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, repr=False)
    by_code: bool = False
    answered_at: datetime | None = Field(default=None, repr=False)

    @property
    def image_count(self) -> int:
        """How many images the service gives at least one URL of."""
        return len(self._urls_by_image)

    @property
    def images_asked_for(self) -> int:
        """How many images the generation task was asked for; 1 where it does not say."""
        asked = self.parameters.get("numImages")
        return asked if isinstance(asked, int) and 1 <= asked <= 100 else 1

    def image_urls(self, index: int) -> tuple[str, ...]:
        """The URLs of image `index` (from 0), the longer-lived one first; none beyond the last."""
        images = self._urls_by_image
        return images[index] if index < len(images) else ()

    @property
    def _urls_by_image(self) -> tuple[tuple[str, ...], ...]:
        return self.urls_by_image or pair_urls(self.result_urls, self.origin_urls)

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
            by_code=self.by_code,
        )

    def require_images(self) -> TaskDetails:
        """Return itself, or raise `ImageUnavailable` if a success has no image URL (yet).

        Observed: for a while, a task may count as a success before it has its URLs.
        """
        if self.status is TaskStatus.SUCCESS and not self.image_count:
            raise ImageUnavailable(
                "the task is done, but the API gives no image URL. Run again later.",
                task_id=self.task_id,
            )
        return self


def pair_urls(
    result: Iterable[str | None], origin: Iterable[str | None]
) -> tuple[tuple[str, ...], ...]:
    """The URLs of each image, from two lists of the same images by position.

    A position that neither list gives a URL for is no image.
    """
    positions = (tuple(url for url in pair if url) for pair in zip_longest(result, origin))
    return tuple(urls for urls in positions if urls)


def check_task_id(task_id: object) -> str:
    """Return `task_id`, or raise `InvalidInput` if it is invalid.

    The API does not document a form for its ids; anything printable without spaces may be one.
    """
    if not isinstance(task_id, str) or not task_id.strip():
        raise InvalidInput(f"a task id is blank or not text: {task_id!r:.80}")
    if len(task_id) > MAX_TASK_ID_LENGTH:
        raise InvalidInput(
            f"a task id is {len(task_id)} characters long (at most {MAX_TASK_ID_LENGTH}): "
            f"{task_id[:40]!r}…"
        )
    if not task_id.isprintable() or any(character.isspace() for character in task_id):
        raise InvalidInput(f"a task id holds a space or a control character: {task_id[:80]!r}")
    return task_id


def check_task_ids(task_ids: Iterable[object]) -> list[str]:
    """Return the ids as a list, or raise `InvalidInput` naming the first that is invalid."""
    if isinstance(task_ids, (str, bytes)):
        raise InvalidInput(f"task_ids takes a list of ids, not one text: {task_ids[:80]!r}")
    checked = [check_task_id(task_id) for task_id in task_ids]
    if not checked:
        raise InvalidInput("task_ids is empty: give at least one task id")
    return checked
