"""What is in storage for a generation task: its images, and the receipt that says so; no I/O."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from nanobanana_blocks.landing.provenance import Provenance, encodable


def _in_utc(time: datetime) -> datetime | None:
    """The same moment in UTC; None at the ends of the calendar, where there is no such time."""
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        return None


def _or_none(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """What is only told beside: where it cannot be understood, the receipt is one all the same."""
    try:
        return validate(value)
    except ValidationError:
        return None


Moment = Annotated[datetime, AfterValidator(_in_utc)]


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

    def as_recorded(self) -> ReceiptImage:
        """The same image, as its receipt records it."""
        return ReceiptImage(name=self.path.rpartition("/")[2], **self.model_dump(exclude={"path"}))


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
        """The same image, by its path."""
        return LandedImage(path=path, **self.model_dump(exclude={"name"}))


class Receipt(BaseModel):
    """The JSON file beside the images whose existence means that the generation task is done.

    Times are UTC; `created_at` and `completed_at` rest on the observation that the API's times are
    UTC+8. `prompt` is there only where the store is set to keep it. `row_key` and `row_digest`
    name the row of a batch that it was landed for, so that the row is known without its ledger.
    `provenance` is what made the images, as far as it is known.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    task_id: str
    images: list[ReceiptImage] = Field(min_length=1)
    images_asked_for: int = 1
    operation_type: str | None = None
    created_at: Moment | None = None
    completed_at: Moment | None = None
    landed_at: Moment
    polls: int
    waited_seconds: float
    prompt: Annotated[str | None, BeforeValidator(encodable)] = None
    row_key: str | None = None
    row_digest: str | None = None
    provenance: Annotated[Provenance | None, WrapValidator(_or_none)] = None


class PartialLanding(BaseModel):
    """Which images of a generation task are in storage while others could not be had.

    It is kept in a hidden file until the receipt is there, so that running again fetches only what
    is missing. `images` are by number, from 1; `count` is how many the service named.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    task_id: str
    count: int
    images: dict[int, ReceiptImage]


def read_receipt(data: bytes) -> Receipt | None:
    """The receipt that a file holds; None where it holds none that this version understands."""
    try:
        return Receipt.model_validate_json(data)
    except ValidationError:
        return None


def is_unfinished(data: bytes) -> bool:
    """Whether a file was to become a receipt and is not one, so that it may be replaced.

    That is a torn one, as a kill or a power cut leaves on storage that does not write atomically,
    and one without images, as version 0.1 wrote of a task that had no URL yet.
    """
    if not data.strip(b"\0"):
        return True
    content = _json_object(data)
    if content is not None:
        of_ours = content.get("version") == 1 and isinstance(content.get("task_id"), str)
        return of_ours and content.get("images") == []
    head = b'{"version":1,"task_id":"'
    found = b"".join(data[:200].split())[: len(head)]
    return found == head[: len(found)]


def version_of(data: bytes) -> int | None:
    """The version that a file claims to be a receipt of, if it does."""
    content = _json_object(data) or {}
    version = content.get("version")
    is_version = isinstance(version, int) and isinstance(content.get("task_id"), str)
    return version if is_version else None


def claimed_task_id(data: bytes) -> str | None:
    """The generation task that a damaged receipt was written for, as far as that can be read."""
    content = _json_object(data)
    if content is not None:
        task_id = content.get("task_id")
        return task_id if isinstance(task_id, str) else None
    found = _TASK_ID.search(data[:400])
    return found[1].decode() if found else None


_TASK_ID = re.compile(rb'"task_id"\s*:\s*"([A-Za-z0-9_-]+)"')


def _json_object(data: bytes) -> dict[str, Any] | None:
    """The object that the file holds; None for anything that is not JSON; empty for other JSON."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else {}
