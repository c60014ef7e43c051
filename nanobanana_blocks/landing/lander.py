"""Lands generation tasks: wait, fetch, verify, publish, and last the receipt; knows no Prefect.

A receipt is the JSON file whose existence alone means "this generation task is done". It is
written after its images, so a run killed at any moment is continued by running again.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.details import TaskDetails, check_task_ids
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.waiting import check_timeout
from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import (
    NanoBananaError,
    Unauthorized,
    WaitTimedOut,
)
from nanobanana_blocks.images import EgressRules, ImageDownloader
from nanobanana_blocks.landing.attempt import Attempt, record_of
from nanobanana_blocks.landing.fetching import TaskImages
from nanobanana_blocks.landing.folder import LandingFolder
from nanobanana_blocks.landing.naming import image_name
from nanobanana_blocks.landing.provenance import Provenance
from nanobanana_blocks.landing.receipt import LandedImage, PartialLanding, Receipt, ReceiptImage
from nanobanana_blocks.landing.report import (
    ErrorSummary,
    LandingOutcome,
    LandingReport,
    LandingStatus,
)
from nanobanana_blocks.storage.destination import Destination

logger = logging.getLogger(__name__)

_Error = TypeVar("_Error", bound=NanoBananaError)

MAX_THUMBNAILS = 48


class Placement(NamedTuple):
    """Where the files of a generation task go: under a name, in place of those of other tasks.

    `row_key` and `row_digest` name the row of a batch that it is landed for, and `provenance` what
    made it, for its receipt.
    """

    name: str | None = None
    replaces: Collection[str] = ()
    row_key: str | None = None
    row_digest: str | None = None
    provenance: Provenance | None = None


_BY_ID = Placement()


class Lander:
    """Lands the generation tasks of one run; made by `open_lander`.

    Attributes:
        task_ids: The generation tasks, in the order asked, repetitions included.
        destination: Where the images go.
        folder: The files of generation tasks there.
        expected: How many tasks this run is about.
        outcomes: What became of each task so far.
        thumbnails: Small JPEGs of what this run landed first, by task id: of each task's
            first image.
        errors: Why tasks did not land, by task id.
        keeps_prompts: Whether receipts hold the prompts.
        facts: What is known of the making of all images, for their receipts.
        abort_error: What ended the run as a whole, such as a refused key.
    """

    def __init__(
        self,
        task_ids: list[str],
        client: NanoBananaClient,
        downloader: ImageDownloader,
        destination: Destination,
        *,
        timeout: float,
        poll: PollPolicy,
        overwrite: bool,
        keep_prompts: bool,
        on_outcome: Callable[[LandingOutcome], None] | None,
        expecting: int,
        facts: Provenance | None,
    ) -> None:
        """For `open_lander`, which describes these."""
        self.task_ids = task_ids
        self.destination = destination
        self.folder = LandingFolder(destination, overwrite=overwrite)
        self.outcomes: dict[str, LandingOutcome] = {}
        self.thumbnails: dict[str, bytes] = {}
        self.errors: dict[str, NanoBananaError] = {}
        self.abort_error: NanoBananaError | None = None
        self._client = client
        self._waiter = client.waiter(poll)
        self._downloader = downloader
        self._timeout = timeout
        self._overwrite = overwrite
        self.keeps_prompts = keep_prompts
        self.facts = facts or Provenance()
        self._on_outcome = on_outcome
        self.expected = len(set(task_ids)) + expecting

    @property
    def unique_task_ids(self) -> list[str]:
        """The generation tasks, each once."""
        return list(dict.fromkeys(self.task_ids))

    def wake(self, task_id: str) -> bool:
        """Poll a task now, since it is said to be done; return whether it is waited for."""
        return self._waiter.wake(task_id)

    def report(self) -> LandingReport:
        """What became of every task asked for."""
        return LandingReport(
            destination=self.destination.path,
            outcomes=[
                self.outcomes.get(task_id) or not_attempted(task_id) for task_id in self.task_ids
            ],
        )

    async def land_each(
        self,
        task_ids: Iterable[str],
        *,
        placed: Mapping[str, Placement] | None = None,
        wait: bool = True,
    ) -> None:
        """Land many generation tasks concurrently, as `land` does; `outcomes` has how each ended.

        Raises:
            NanoBananaError: What concerns the whole run, such as a refused key.
        """
        places = placed or {}
        await run_concurrently(
            self.land(task_id, **places.get(task_id, _BY_ID)._asdict(), wait=wait)
            for task_id in task_ids
        )

    async def land(
        self,
        task_id: str,
        *,
        name: str | None = None,
        replaces: Collection[str] = (),
        row_key: str | None = None,
        row_digest: str | None = None,
        provenance: Provenance | None = None,
        wait: bool = True,
        just_submitted: bool = False,
    ) -> LandingOutcome:
        """Land one generation task; what goes wrong with it is in the outcome.

        It takes at most the wait's `timeout`, then the downloader's `seconds_per_image` (120 s) for
        all of its images, which are fetched at the same time, and for each file that is written the
        destination's `operation_seconds` (120 s); waiting for its turn in a large run is not
        counted. Nothing retries it: what may pass is retried in the downloader and the destination.

        Args:
            task_id: The generation task.
            name: What its files are called, instead of after the task.
            replaces: Tasks whose files of that name it may take the place of.
            row_key: The key of the batch's row that it is landed for, for the receipt.
            row_digest: The digest of that row's content.
            provenance: What is known of how it was made, for the receipt.
            wait: Wait for it to end; else record-info is asked once, and a task that has not
                ended counts as timed out.
            just_submitted: The service itself has just given this id: it may be unknown to
                record-info for as long as it is waited for.

        Raises:
            NanoBananaError: What concerns the whole run, such as a refused key.
        """
        attempt = Attempt(task_id, name or task_id, replaces, (row_key, row_digest))
        attempt.provenance = self.facts.including(provenance)
        attempt.just_submitted = just_submitted
        self.errors.pop(task_id, None)
        try:
            await self._attempt(attempt, wait=wait)
        except NanoBananaError as error:
            if error.is_fatal:
                self.abort_error = without_frames(copy.copy(error))
                raise
            error.task_id = error.task_id or task_id
            self.errors[task_id] = without_frames(error)
        except Exception as error:
            self.errors[task_id] = unforeseen(f"Landing {task_id}", error, task_id)
        outcome = attempt.outcome(self.errors.get(task_id))
        self.outcomes[task_id] = outcome
        try:
            if self._on_outcome:
                self._on_outcome(outcome)
        except Exception as error:
            log_unforeseen(f"Reporting {task_id}", error)
        return outcome

    async def _attempt(self, attempt: Attempt, *, wait: bool) -> None:
        task_id = attempt.task_id
        earlier = await self.folder.receipt(attempt.stem, (task_id, *attempt.replaces))
        replaced = earlier is not None and (self._overwrite or earlier.task_id != task_id)
        if earlier and not replaced and await self.folder.is_whole(earlier.images):
            attempt.already_landed = True
            attempt.asked_for = earlier.images_asked_for
            attempt.images = [self._located(image) for image in earlier.images]
            return
        details = await (self._wait(attempt) if wait else self._poll_once(attempt))
        details.raise_for_status().require_images()
        attempt.asked_for = max(details.images_asked_for, details.image_count)
        await self._land_images(details, attempt, earlier)

    async def _wait(self, attempt: Attempt) -> TaskDetails:
        attempt.watch = self._waiter.watch(
            attempt.task_id, self._timeout, just_submitted=attempt.just_submitted
        )
        return await attempt.watch.ended()

    async def _poll_once(self, attempt: Attempt) -> TaskDetails:
        attempt.single_polls = 1
        try:
            details = await self._client.get_task_details(attempt.task_id)
        except Unauthorized as error:
            error.is_fatal = True
            raise
        if not details.status.is_final:
            raise WaitTimedOut("still generating.", task_id=attempt.task_id)
        return details

    async def _land_images(
        self, details: TaskDetails, attempt: Attempt, earlier: Receipt | None
    ) -> None:
        """Land every image that can be had, and the receipt if that is all of them.

        Raises:
            NanoBananaError: Some could not be had.
        """
        count = details.image_count
        note = await self.folder.partial(attempt.stem, details.task_id, count)
        if note and note.count == count and not self._overwrite:
            for number, image in note.images.items():
                if 1 <= number <= count and await self.folder.is_whole([image]):
                    attempt.landed[number] = image
        known = [*(earlier.images if earlier else ()), *(note.images.values() if note else ())]
        attempt.replaceable = {image.name for image in known}
        images = TaskImages(details, self._client, self._downloader)
        await run_concurrently(
            self._land_image(images, index, attempt)
            for index in range(count)
            if index + 1 not in attempt.landed
        )
        recorded = [image for _, image in sorted(attempt.landed.items())]
        attempt.images = [self._located(image) for image in recorded]
        if attempt.failures:
            if recorded:
                note = PartialLanding(task_id=details.task_id, count=count, images=attempt.landed)
                await self.folder.note_partial(attempt.stem, note)
            raise attempt.failure(count)
        # Before the receipt: as long as the old one is there, a failure here is made good later.
        await self.folder.remove(attempt.replaceable - {image.name for image in recorded})
        receipt = attempt.receipt(details, recorded, keep_prompt=self.keeps_prompts)
        await self.folder.publish_receipt(attempt.stem, receipt)
        if note:
            await self.folder.forget_partial(attempt.stem)

    async def _land_image(self, images: TaskImages, index: int, attempt: Attempt) -> None:
        """Land one image of a task, or note why it could not be landed."""
        task_id = attempt.task_id
        thumbnail = index == 0 and len(self.thumbnails) < MAX_THUMBNAILS
        try:
            async with images.fetch(index, thumbnail=thumbnail) as image:
                name = image_name(attempt.stem, index, images.count, image.extension)
                await self.folder.claim(name, task_id, attempt.stem, index, images.count)
                await self.folder.publish_image(
                    name, image.data, image.media_type, attempt.replaceable
                )
            attempt.landed[index + 1] = record_of(name, image)
            if image.thumbnail and len(self.thumbnails) < MAX_THUMBNAILS:
                self.thumbnails.setdefault(task_id, image.thumbnail)
        except NanoBananaError as error:
            if error.is_fatal:
                raise
            attempt.failures[index + 1] = without_frames(error)
        except Exception as error:
            attempt.failures[index + 1] = unforeseen(
                f"Landing image {index + 1} of {task_id}", error, task_id
            )

    def _located(self, image: ReceiptImage) -> LandedImage:
        return image.at(self.destination.path_of(image.name))


def without_frames(error: _Error) -> _Error:
    """The error to be kept: its traceback holds frames, and they hold the bytes of images."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def unforeseen(doing: str, error: Exception, task_id: str | None = None) -> NanoBananaError:
    """Log an error that nothing here raises on purpose, and return one that may be reported."""
    log_unforeseen(doing, error)
    return NanoBananaError(
        f"an unexpected {type(error).__name__}; the log has its trace.", task_id=task_id
    )


def log_unforeseen(doing: str, error: Exception) -> None:
    """Log where an error came from, but not its text, which may hold anything."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s met an unexpected %s:\n%s", doing, type(error).__name__, trace)


def not_attempted(task_id: str) -> LandingOutcome:
    """The outcome of a task that a run did not come to before it ended."""
    error = NanoBananaError("it was not attempted; the log of the run says why.")
    return LandingOutcome(
        task_id=task_id, status=LandingStatus.FAILED, error=ErrorSummary.of(error)
    )


@asynccontextmanager
async def open_lander(
    task_ids: Sequence[str],
    client: NanoBananaClient,
    destination: Destination,
    *,
    timeout: float = 900.0,
    poll: PollPolicy | None = None,
    overwrite: bool = False,
    keep_prompts: bool = False,
    on_outcome: Callable[[LandingOutcome], None] | None = None,
    expecting: int = 0,
    facts: Provenance | None = None,
    downloader: ImageDownloader | None = None,
    check: bool = True,
) -> AsyncIterator[Lander]:
    """Check everything that can be checked before any waiting, and give the run's `Lander`.

    Args:
        task_ids: The generation tasks; repetitions are landed once and reported each time.
        client: Asks the API; its caller closes it.
        destination: Where images and receipts go; its caller closes it.
        timeout: Seconds to wait for each task.
        poll: When to ask.
        overwrite: Land again what has a receipt already, and replace files of others.
        keep_prompts: Write each task's prompt into its receipt.
        on_outcome: Called with each task's outcome, as soon as it is known.
        expecting: How many tasks will be landed beside these, which are not known yet.
        facts: What is known of the making of all images, for their receipts.
        downloader: Fetches the images, and is closed at the end.
        check: Whether to make sure that the destination can be written to, by doing so.

    Raises:
        InvalidInput: A task id or `timeout` is invalid.
        DestinationError: The destination cannot be written to.
    """
    checked = check_task_ids(task_ids) if task_ids or not expecting else []
    check_timeout(timeout)
    if check:
        await destination.check_writable()
    rules = EgressRules.for_api(client.base_url)
    async with downloader or ImageDownloader(rules) as images:
        landing = Lander(
            checked,
            client,
            images,
            destination,
            timeout=timeout,
            poll=poll or PollPolicy(),
            overwrite=overwrite,
            keep_prompts=keep_prompts,
            on_outcome=on_outcome,
            expecting=expecting,
            facts=facts,
        )
        await landing.folder.survey(landing.expected)
        yield landing
