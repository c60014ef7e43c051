"""One attempt to land a generation task, as far as it has come, and its outcome; no I/O."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from nanobanana_blocks.api.details import TaskDetails
from nanobanana_blocks.api.waiting import Watch
from nanobanana_blocks.errors import NanoBananaError, WaitTimedOut
from nanobanana_blocks.images import VerifiedImage
from nanobanana_blocks.landing.provenance import Provenance
from nanobanana_blocks.landing.receipt import LandedImage, Receipt, ReceiptImage
from nanobanana_blocks.landing.report import ErrorSummary, LandingOutcome, LandingStatus


class Attempt:
    """One attempt to land a generation task, as far as it has come.

    `landed` and `failures` are by the number of the image, from 1; `replaceable` are the names of
    files known to be this task's.
    """

    def __init__(
        self,
        task_id: str,
        stem: str,
        replaces: Collection[str],
        row: tuple[str | None, str | None],
    ) -> None:
        self.task_id = task_id
        self.stem = stem
        self.replaces = replaces
        self.row = row
        self.provenance = Provenance()
        self.watch: Watch | None = None
        self.single_polls = 0
        self.just_submitted = False
        self.already_landed = False
        self.images: list[LandedImage] = []
        self.asked_for = 0
        self.landed: dict[int, ReceiptImage] = {}
        self.failures: dict[int, NanoBananaError] = {}
        self.replaceable: set[str] = set()

    @property
    def polls(self) -> int:
        return self.watch.polls if self.watch else self.single_polls

    @property
    def waited_seconds(self) -> float:
        return round(self.watch.waited_seconds, 3) if self.watch else 0.0

    def failure(self, count: int) -> NanoBananaError:
        """Why not all of `count` images landed, as an error of the most hopeful of their kinds."""
        failures = list(self.failures.values())
        chosen = next((error for error in failures if error.retryable), failures[0])
        if count == 1:
            return chosen
        missing = "; ".join(
            f"image {number} ({error.message.rstrip('.')})"
            for number, error in sorted(self.failures.items())
        )
        return type(chosen)(
            f"{len(self.landed)} of {count} images are in storage. Missing: {missing}. Running "
            "again fetches only what is missing.",
            task_id=self.task_id,
        )

    def outcome(self, error: NanoBananaError | None) -> LandingOutcome:
        if isinstance(error, WaitTimedOut):
            status = LandingStatus.TIMED_OUT
        elif error:
            status = LandingStatus.FAILED
        elif self.already_landed:
            status = LandingStatus.ALREADY_LANDED
        else:
            status = LandingStatus.LANDED
        return LandingOutcome(
            task_id=self.task_id,
            status=status,
            images=self.images,
            error=ErrorSummary.of(error) if error else None,
            polls=self.polls,
            waited_seconds=self.waited_seconds,
            missing_images=max(0, self.asked_for - len(self.images)),
        )

    def receipt(
        self, details: TaskDetails, images: list[ReceiptImage], *, keep_prompt: bool
    ) -> Receipt:
        """The receipt of its images, all of which are in storage."""
        known = self.provenance.completed_by(details)
        prompt = known.prompt or details.parameters.get("prompt")
        return Receipt(
            task_id=details.task_id,
            images=images,
            images_asked_for=details.images_asked_for,
            operation_type=details.operation_type,
            created_at=details.created_at,
            completed_at=details.completed_at,
            landed_at=datetime.now(UTC),
            polls=self.polls,
            waited_seconds=self.waited_seconds,
            prompt=prompt if keep_prompt and isinstance(prompt, str) else None,
            row_key=self.row[0],
            row_digest=self.row[1],
            provenance=known if known.model_dump(exclude_none=True) else None,
        )


def record_of(name: str, image: VerifiedImage) -> ReceiptImage:
    """What a receipt says of an image."""
    return ReceiptImage(
        name=name,
        media_type=image.media_type,
        size=len(image.data),
        width=image.width,
        height=image.height,
        sha256=image.sha256,
    )
