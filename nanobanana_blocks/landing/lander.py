"""Lands generation tasks: wait, fetch, verify, publish, and last the receipt; knows no Prefect.

A receipt is the JSON file whose existence alone means "this generation task is done". It is
written after its images, so a run killed at any moment is continued by running again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import ValidationError

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.details import TaskDetails, check_task_ids
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.waiting import Watch, check_timeout
from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import (
    DestinationError,
    ImageError,
    ImageUnavailable,
    NanoBananaError,
    OutOfCredits,
    Unauthorized,
    WaitTimedOut,
)
from nanobanana_blocks.images.download import ImageDownloader
from nanobanana_blocks.images.egress import EgressRules
from nanobanana_blocks.images.verification import VerifiedImage
from nanobanana_blocks.landing.naming import image_name, receipt_name, rival_stem
from nanobanana_blocks.landing.receipt import LandedImage, Receipt, ReceiptImage
from nanobanana_blocks.landing.report import (
    ErrorSummary,
    LandingOutcome,
    LandingReport,
    LandingStatus,
)
from nanobanana_blocks.storage.destination import Destination

logger = logging.getLogger(__name__)

MAX_SINGLE_LOOKUPS = 20
"""Up to so many receipts are asked for one by one; for more, the destination is listed once."""

LARGE_RUN_TASKS = 1000
MAX_THUMBNAILS = 48

FRESH_URL_SECONDS = 3.0
"""How long to wait before a URL that the API has just given again is tried once more."""


class Placement(NamedTuple):
    """Where the files of a generation task go: under a name, in place of those of other tasks.

    `row_key` and `row_digest` tell the row of a batch that it is landed for, for its receipt.
    """

    name: str | None = None
    replaces: Collection[str] = ()
    row_key: str | None = None
    row_digest: str | None = None


_BY_ID = Placement()


class Lander:
    """Lands the generation tasks of one run; made by `open_lander`.

    Attributes:
        task_ids: The generation tasks, in the order asked, repetitions included.
        expected: How many tasks this run is about.
        outcomes: What became of each task so far.
        thumbnails: Small JPEGs of the first images landed in this run, by task id.
        errors: Why tasks did not land, by task id.
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
    ) -> None:
        self.task_ids = task_ids
        self.destination = destination
        self.outcomes: dict[str, LandingOutcome] = {}
        self.thumbnails: dict[str, bytes] = {}
        self.errors: dict[str, NanoBananaError] = {}
        self.abort_error: NanoBananaError | None = None
        self._client = client
        self._waiter = client.waiter(poll)
        self._downloader = downloader
        self._timeout = timeout
        self._overwrite = overwrite
        self._keep_prompts = keep_prompts
        self._on_outcome = on_outcome
        self._sizes: dict[str, int] | None = None
        self._claimed: dict[str, str] = {}
        self.expected = len(set(task_ids)) + expecting
        self._begun = 0

    @property
    def unique_task_ids(self) -> list[str]:
        """The generation tasks, each once."""
        return list(dict.fromkeys(self.task_ids))

    def wake(self, task_id: str) -> bool:
        """Look at a task now, since something says that it is done; whether it is waited for."""
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
        """Land many generation tasks side by side, as `land` does; `outcomes` tells how each ended.

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
        wait: bool = True,
    ) -> LandingOutcome:
        """Land one generation task; what goes wrong with it is told by the outcome.

        Args:
            task_id: The generation task.
            name: What its files are called, instead of after the task.
            replaces: Tasks whose files of that name it may take the place of.
            row_key: The key of the batch's row that it is landed for, for the receipt.
            row_digest: The digest of that row's content.
            wait: Wait for it to end; else record-info is asked once, and a task that has not
                ended counts as timed out.

        Raises:
            NanoBananaError: What concerns the whole run, such as a refused key.
        """
        self._begun += 1
        if self._begun == self.expected >= LARGE_RUN_TASKS:
            gc.freeze()
        attempt = _Attempt(task_id, name or task_id, replaces, (row_key, row_digest))
        self.errors.pop(task_id, None)
        try:
            await self._attempt(attempt, wait=wait)
        except NanoBananaError as error:
            if error.is_fatal:
                self.abort_error = error
                raise
            self.errors[task_id] = error
        except Exception as error:
            log_unforeseen(f"Landing {task_id}", error)
            self.errors[task_id] = NanoBananaError(
                f"an unexpected {type(error).__name__}; the log has its trace.", task_id=task_id
            )
        outcome = attempt.outcome(self.errors.get(task_id))
        self.outcomes[task_id] = outcome
        try:
            if self._on_outcome:
                self._on_outcome(outcome)
        except Exception as error:
            log_unforeseen(f"Telling of {task_id}", error)
        return outcome

    async def _attempt(self, attempt: _Attempt, *, wait: bool) -> None:
        task_id = attempt.task_id
        earlier = await self._earlier_receipt(attempt)
        replaced = earlier is not None and (self._overwrite or earlier.task_id != task_id)
        if earlier and not replaced and await self._is_whole(earlier):
            attempt.already_landed = True
            attempt.images += [self._located(image) for image in earlier.images]
            attempt.asked_for = earlier.images_asked_for
            return
        if wait:
            attempt.watch = self._waiter.watch(task_id, self._timeout)
            details = await attempt.watch.ended()
        else:
            attempt.looks = 1
            details = await self._look_once(task_id)
        attempt.asked_for = details.raise_for_status().images_asked_for
        receipt = await self._land_images(details, attempt)
        await self._remove_leftovers(earlier, receipt)

    async def _look_once(self, task_id: str) -> TaskDetails:
        try:
            details = await self._client.get_task_details(task_id)
        except (Unauthorized, OutOfCredits) as error:
            error.is_fatal = True
            raise
        if not details.status.is_final:
            raise WaitTimedOut("still generating.", task_id=task_id)
        return details

    async def survey(self) -> None:
        """List the destination once, where that costs less than asking for each receipt."""
        if self.expected > MAX_SINGLE_LOOKUPS:
            self._sizes = await self.destination.list()

    async def receipt_of(self, stem: str) -> Receipt | None:
        """The receipt beside the images of that stem, if there is one that can be read."""
        name = receipt_name(stem)
        if self._sizes is not None and name not in self._sizes:
            return None
        return await self._read_receipt(name)

    async def _earlier_receipt(self, attempt: _Attempt) -> Receipt | None:
        receipt = await self.receipt_of(attempt.stem)
        if receipt and receipt.task_id not in (attempt.task_id, *attempt.replaces):
            raise DestinationError(
                f"{self.destination.path_of(receipt_name(attempt.stem))} is the receipt of another "
                f"task, {receipt.task_id}. Land this one in another folder.",
                task_id=attempt.task_id,
            )
        return receipt

    async def _read_receipt(self, name: str) -> Receipt | None:
        data = await self.destination.read(name)
        try:
            return Receipt.model_validate_json(data) if data else None
        except ValidationError:
            return None

    async def _is_whole(self, receipt: Receipt) -> bool:
        for image in receipt.images:
            if self._sizes is None:
                size = await self.destination.size_of(image.name)
            else:
                size = self._sizes.get(image.name)
            if size != image.size:
                return False
        return True

    async def _land_images(self, details: TaskDetails, attempt: _Attempt) -> Receipt:
        recorded: list[ReceiptImage] = []
        count = details.image_count
        for index in range(count):
            async with AsyncExitStack() as bytes_held:
                image, details = await self._fetch(details, index, bytes_held)
                name = image_name(attempt.stem, index, count, image.extension)
                await self._claim(name, attempt, index, count)
                await self.destination.publish(name, image.data, image.media_type)
            recorded.append(_record(name, image))
            attempt.images.append(self._located(recorded[-1]))
            if image.thumbnail and len(self.thumbnails) < MAX_THUMBNAILS:
                self.thumbnails.setdefault(details.task_id, image.thumbnail)
        prompt = details.parameters.get("prompt") if self._keep_prompts else None
        receipt = Receipt(
            task_id=details.task_id,
            images=recorded,
            images_asked_for=details.images_asked_for,
            operation_type=details.operation_type,
            created_at=details.created_at,
            completed_at=details.completed_at,
            landed_at=datetime.now(UTC),
            polls=attempt.polls,
            waited_seconds=attempt.waited_seconds,
            prompt=prompt if isinstance(prompt, str) else None,
            row_key=attempt.row[0],
            row_digest=attempt.row[1],
        )
        text = receipt.model_dump_json(indent=2, exclude_none=True)
        await self.destination.publish(
            receipt_name(attempt.stem), text.encode(), "application/json"
        )
        return receipt

    async def _claim(self, name: str, attempt: _Attempt, index: int, count: int) -> None:
        """Refuse a file name that another task has, in this run or by an earlier receipt."""
        task_id = attempt.task_id
        owner = self._claimed.setdefault(name, task_id)
        rival = rival_stem(attempt.stem, index, count)
        if owner == task_id and rival:
            receipt = await self._read_receipt(receipt_name(rival))
            if receipt and any(image.name == name for image in receipt.images):
                owner = receipt.task_id
        if owner != task_id:
            raise DestinationError(
                f"its file would be {name}, which is task {owner}'s. Land it in another folder.",
                task_id=task_id,
            )

    async def _fetch(
        self, details: TaskDetails, index: int, bytes_held: AsyncExitStack
    ) -> tuple[VerifiedImage, TaskDetails]:
        """Fetch one image by any of its URLs; where all fail, by fresh ones, asked for once."""
        urls = details.image_urls(index)
        try:
            return await self._fetch_by_any(urls, details.task_id, bytes_held), details
        except ImageError as error:
            if not error.retryable:
                raise
            failure = error
        try:
            details = await self._client.get_task_details(details.task_id)
        except NanoBananaError:
            raise failure from None
        if details.image_urls(index) == urls:
            await asyncio.sleep(FRESH_URL_SECONDS)
        return (
            await self._fetch_by_any(details.image_urls(index), details.task_id, bytes_held),
            details,
        )

    async def _fetch_by_any(
        self, urls: tuple[str, ...], task_id: str, bytes_held: AsyncExitStack
    ) -> VerifiedImage:
        thumbnail = len(self.thumbnails) < MAX_THUMBNAILS
        failures: list[ImageError] = []
        for url in urls:
            fetch = self._downloader.fetch(url, task_id=task_id, thumbnail=thumbnail)
            try:
                return await bytes_held.enter_async_context(fetch)
            except ImageError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        raise ImageUnavailable("the API gives no URL for it.", task_id=task_id)

    async def _remove_leftovers(self, replaced: Receipt | None, receipt: Receipt) -> None:
        """Remove images that an overwritten receipt names and the new one does not."""
        kept = {image.name for image in receipt.images}
        for image in replaced.images if replaced else ():
            if image.name not in kept:
                await self.destination.delete(image.name)

    def _located(self, image: ReceiptImage) -> LandedImage:
        return image.at(self.destination.path_of(image.name))


class _Attempt:
    """One attempt to land a generation task, as far as it has come."""

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
        self.watch: Watch | None = None
        self.looks = 0
        self.already_landed = False
        self.images: list[LandedImage] = []
        self.asked_for = 0

    @property
    def polls(self) -> int:
        return self.watch.polls if self.watch else self.looks

    @property
    def waited_seconds(self) -> float:
        return round(self.watch.waited_seconds, 3) if self.watch else 0.0

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


@contextmanager
def _collecting_less_garbage(tasks: int) -> Iterator[None]:
    """Spare many waits the full garbage collections, each of which stops the event loop.

    They would look through all modules and all waits, which stay anyway: once before the waits are
    begun, and once more when all are, what is there is put aside. At the end it is taken back.
    """
    if tasks < LARGE_RUN_TASKS:
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def log_unforeseen(doing: str, error: Exception) -> None:
    """Log where an error came from, but not its text, which may hold anything."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s met an unforeseen %s:\n%s", doing, type(error).__name__, trace)


def not_attempted(task_id: str) -> LandingOutcome:
    """What is told of a task that a run ended before."""
    error = NanoBananaError("it was not attempted; the log of the run says why.")
    return LandingOutcome(
        task_id=task_id, status=LandingStatus.FAILED, error=ErrorSummary.of(error)
    )


def _record(name: str, image: VerifiedImage) -> ReceiptImage:
    return ReceiptImage(
        name=name,
        media_type=image.media_type,
        size=len(image.data),
        width=image.width,
        height=image.height,
        sha256=image.sha256,
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
) -> AsyncIterator[Lander]:
    """Check everything that can be checked before any waiting, and give the run's `Landing`.

    Args:
        task_ids: The generation tasks; repetitions are landed once and reported each time.
        client: Asks the API; its caller closes it.
        destination: Where images and receipts go; its caller closes it.
        timeout: Seconds to wait for each task.
        poll: When to ask.
        overwrite: Land again what has a receipt already.
        keep_prompts: Write each task's prompt into its receipt.
        on_outcome: Told what became of each task, as soon as it is known.
        expecting: How many tasks will be landed beside these, which are not known yet.

    Raises:
        InvalidInput: A task id or `timeout` cannot be meant.
        DestinationError: The destination cannot be written to.
    """
    checked = check_task_ids(task_ids) if task_ids or not expecting else []
    check_timeout(timeout)
    await destination.check_writable()
    async with ImageDownloader(EgressRules.for_api(client.base_url)) as downloader:
        landing = Lander(
            checked,
            client,
            downloader,
            destination,
            timeout=timeout,
            poll=poll or PollPolicy(),
            overwrite=overwrite,
            keep_prompts=keep_prompts,
            on_outcome=on_outcome,
            expecting=expecting,
        )
        await landing.survey()
        with _collecting_less_garbage(landing.expected):
            yield landing
