"""What is in storage for a generation task: its images, and the receipt that says so; no I/O."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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
    UTC+8. `prompt` is there only where the store was told to keep it. `row_key` and `row_digest`
    tell the row of a batch that it was landed for, so that the row is known without its ledger.
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
    row_key: str | None = None
    row_digest: str | None = None
