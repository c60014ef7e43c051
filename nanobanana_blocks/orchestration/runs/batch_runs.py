"""Batches as Prefect runs: from the names that a flow takes to the rows processed in task runs."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from prefect import State, task
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from nanobanana_blocks.api.prices import OwnPrices
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.batches.attempts import Failure
from nanobanana_blocks.batches.balance import note_balance_after
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.manifest import Manifest, Row, RowDefaults
from nanobanana_blocks.batches.manifest.chains import chains
from nanobanana_blocks.batches.opening import (
    finder_near,
    open_batch,
    read_manifest_near,
    summarise_ledger,
)
from nanobanana_blocks.batches.plan import BatchPlan
from nanobanana_blocks.batches.planning import plan_batch
from nanobanana_blocks.batches.policies import OnContentPolicy
from nanobanana_blocks.batches.reporting import keeping_report
from nanobanana_blocks.errors import InvalidInput, NanoBananaError
from nanobanana_blocks.garbage import short_collections
from nanobanana_blocks.landing.generation_times import learned_so_far
from nanobanana_blocks.landing.provenance import Provenance
from nanobanana_blocks.landing.report import LandingStatus
from nanobanana_blocks.orchestration.account_budget import sharing_account_budget
from nanobanana_blocks.orchestration.account_memory import AccountMemory
from nanobanana_blocks.orchestration.blocks.credentials import (
    NanoBananaCredentials,
    load_credentials,
)
from nanobanana_blocks.orchestration.blocks.image_store import (
    ImageStore,
    find_saved_location,
    load_store,
    public_place,
)
from nanobanana_blocks.orchestration.observability.events import posting_outcomes
from nanobanana_blocks.orchestration.observability.progress import showing_progress
from nanobanana_blocks.orchestration.observability.wakeups import (
    find_kept_callbacks,
    waking_on_callbacks,
)
from nanobanana_blocks.orchestration.runs.landing_runs import (
    TASK_RUN_EACH,
    OutcomeReporter,
    in_groups,
    run_task_runs_concurrently,
)
from nanobanana_blocks.orchestration.runs.retries import RETURNS_ITS_STATE
from nanobanana_blocks.signals import cancelled_by_sigterm
from nanobanana_blocks.storage import dates
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.storage.locations import Location


class BatchJob(BaseModel):
    """What a batch is told; `run_batch` describes each of these."""

    model_config = ConfigDict(frozen=True)

    manifest: str = Field(description="Path or fsspec URL of the manifest.")
    destination: str = Field(description="Path, fsspec URL or the name of an ImageStore block.")
    credentials: str = Field(description="Name of a NanoBananaCredentials block.")
    defaults: RowDefaults = Field(description="Defaults for rows that do not set them.")
    retry: tuple[Failure, ...] = Field(description="Kinds of failures to submit again.")
    on_content_policy: OnContentPolicy = Field(
        default=OnContentPolicy.SKIP, description="What to do with rows whose content is refused."
    )
    receiver_url: str | None = Field(description="Public URL of the callback receiver.")
    timeout: float = Field(description="Seconds to wait for each generation task.")
    in_flight: int = Field(ge=1, description="Rows under way at a time, in each run.")
    poll: PollPolicy = Field(description="When to ask the API.")
    date: datetime.date = Field(description="What {date} stands for.")
    references: str | None = Field(
        default=None, description="Name of an ImageStore with a public URL, for reference images."
    )
    prices: OwnPrices = Field(default_factory=dict, description="Prices that replace ours.")
    max_credits: int | float | None = Field(
        default=None, description="The most credits that the whole batch spends on submits."
    )


class Shard(BaseModel):
    """The part of a batch that one of its child runs does: every `of`-th row, from `number` on.

    Rows that build on each other count as one, so that they stay together.
    """

    model_config = ConfigDict(frozen=True)

    number: int = Field(ge=1, description="Which part, from 1.")
    of: int = Field(ge=1, description="How many parts there are.")
    manifest_digest: str = Field(description="SHA-256 of the manifest that was split.")
    batch: str = Field(description="What tells this parent run from all others.")
    credits_share: int | float | None = Field(
        default=None, description="How much of the batch's max_credits this part may spend."
    )

    @property
    def report_name(self) -> str:
        """What the report of this part is called."""
        return f"{self.batch}-{self.number}.json"

    def rows_of(self, manifest: Manifest) -> Sequence[Row]:
        """The rows of this part.

        Raises:
            InvalidInput: The manifest is not the one that was split.
        """
        if manifest.digest != self.manifest_digest:
            raise InvalidInput("the manifest has changed since the batch was begun: run it again")
        return self.part_of(manifest.rows)

    def part_of(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Those of the batch's rows that are in this part."""
        parts = chains(rows)[self.number - 1 :: self.of]
        return sorted((row for part in parts for row in part), key=lambda row: row.number)


@asynccontextmanager
async def opening_batch(
    job: BatchJob, shard: Shard | None = None, *, read_only: bool = False
) -> AsyncIterator[Batch]:
    """Check all that can be checked of a batch, or of one part of it, and give it to be processed.

    Where it is `read_only`, nothing is written, and it can only be planned.

    Raises:
        InvalidManifest: The manifest is invalid; every problem is named.
        NanoBananaError: Something else is invalid, missing, or refused; nothing was begun.
    """
    block = await load_credentials(job.credentials)
    callback_url = _callback_url(job, block)
    store = await dated_store(job)
    manifest_url = dates.for_date(job.manifest, job.date)
    public = await public_place(job.references)
    manifest = await read_manifest_near(manifest_url, store.location, job.defaults)
    manifest = manifest.priced(job.prices)
    rows = shard.rows_of(manifest) if shard else manifest.rows
    async with (
        cancelled_by_sigterm(),
        short_collections(),
        block.get_client() as client,
        posting_outcomes() as events,
        open_batch(
            client,
            store.location,
            Location.parse(manifest_url).redacted,
            manifest.digest,
            rows,
            timeout=job.timeout,
            in_flight=job.in_flight,
            poll=job.poll,
            retry=job.retry,
            on_content_policy=job.on_content_policy,
            callback_url=callback_url,
            keep_prompts=store.keep_prompts,
            is_part=shard is not None,
            max_credits=job.max_credits,
            credits_share=shard.credits_share if shard else None,
            finder=finder_near(manifest_url, store.location, find_saved_location),
            public=public,
            facts=Provenance(
                manifest=Location.parse(manifest_url).redacted,
                manifest_digest=manifest.digest,
                flow_run=flow_run.id,
            ),
            account_memory=AccountMemory(job.credentials),
            read_only=read_only,
            on_outcome=OutcomeReporter(len(rows), events),
            log=get_run_logger(),
        ) as batch,
    ):
        yield batch


async def plan_of(job: BatchJob, runs: int, *, check_credits: bool) -> BatchPlan:
    """What a batch would do in that many runs; nothing is submitted, and nothing written.

    Raises:
        InvalidManifest: The manifest is invalid; every problem is named.
        NanoBananaError: Something else is invalid, missing, or refused.
    """
    learned = await learned_so_far(
        (await dated_store(job)).location, AccountMemory(job.credentials)
    )
    async with opening_batch(job, read_only=True) as batch:
        return await plan_batch(
            batch,
            learned,
            in_flight=job.in_flight * runs,
            poll=job.poll,
            check_credits=check_credits,
        )


@asynccontextmanager
async def _keeping_record(
    batch: Batch, reports: Destination | None, report: str | None
) -> AsyncIterator[None]:
    """Keep the report, and at the end the ledger's summary, which a whole batch has."""
    try:
        async with keeping_report(batch, reports, report):
            yield
    finally:
        if report is None:
            await summarise_ledger(batch, get_run_logger())


async def process_here(
    batch: Batch, job: BatchJob, reports: Destination | None = None, report: str | None = None
) -> None:
    """Process all rows of a batch in this run, within the account's request budget.

    Args:
        batch: The batch, or the part of it that this run does.
        job: What its flow was told.
        reports: Where the report is kept, if not beside the images.
        report: What the report is called there.

    Raises:
        NanoBananaError: What concerns the whole run, such as a refused key.
    """
    async with (
        sharing_account_budget(job.credentials, batch.submitter.client.budget),
        showing_progress(
            len(batch.rows), lambda: len(batch.outcomes), "Rows", batch.submitter.waits.describe
        ),
        waking_on_callbacks(batch.landing, batch.submitter.reveal),
        # Innermost: what must last is written before anything waits for Prefect.
        _keeping_record(batch, reports, report),
    ):
        await _reveal_earlier(batch)
        await _process_in_task_runs(batch)
        if report is None:
            await note_balance_after(batch)


async def _process_in_task_runs(batch: Batch) -> None:
    rows = batch.rows
    runs: list[Any] = []
    if len(rows) <= TASK_RUN_EACH:
        for row in rows:
            called = row.name or row.task_id
            named = _process_row.with_options(
                task_run_name=f"row {row.number}{f': {called}' if called else ''}"
            )
            runs.append(named(row, batch, return_state=True))
    else:
        for _, group in in_groups(rows):
            first, last = group[0].number, group[-1].number
            named_group = _process_rows.with_options(task_run_name=f"rows {first} to {last}")
            runs.append(named_group(group, batch, return_state=True))
    await run_task_runs_concurrently(runs)
    if batch.abort_error:
        raise batch.abort_error


@task(name="process-row", **RETURNS_ITS_STATE)
async def _process_row(row: Row, batch: Batch) -> State[Any]:
    try:
        outcome = await batch.process(row)
    except NanoBananaError as error:
        return Cancelled(message=f"Not processed: {error}")
    if outcome.status is LandingStatus.BLOCKED:
        return Cancelled(name="Blocked", message=outcome.describe())
    if outcome.status is LandingStatus.HELD_BACK:
        return Completed(name="Held back", message=outcome.describe())
    if outcome.error:
        failure = batch.landing.errors.get(outcome.task_id)
        name = "TimedOut" if outcome.status is LandingStatus.TIMED_OUT else "Failed"
        return Failed(name=name, message=outcome.describe(), data=failure)
    return Completed(message=outcome.describe())


@task(name="process-rows", **RETURNS_ITS_STATE)
async def _process_rows(rows: Sequence[Row], batch: Batch) -> State[Any]:
    try:
        await batch.process_each(rows)
    except NanoBananaError as error:
        return Cancelled(message=f"Not all processed: {error}")
    outcomes = [batch.outcomes[row.number] for row in rows]
    landed = f"{sum(outcome.in_storage for outcome in outcomes)} in storage"
    held = sum(outcome.status is LandingStatus.HELD_BACK for outcome in outcomes)
    if held:
        landed = f"{landed}, {held} held back"
    missing = [o for o in outcomes if not o.in_storage and o.status is not LandingStatus.HELD_BACK]
    if missing:
        example = f"{missing[0].label} {missing[0].describe()}"
        return Failed(message=f"{landed}, {len(missing)} not. First: {example}")
    return Completed(name="Held back" if held else None, message=landed)


async def dated_store(job: BatchJob) -> ImageStore:
    """The place that a batch's destination means on its date."""
    return (await load_store(job.destination)).for_date(job.date)


def _callback_url(job: BatchJob, block: NanoBananaCredentials) -> Callable[[str], str] | None:
    if not job.receiver_url:
        return None
    from nanobanana_blocks.callbacks import callback_secret, callback_url

    make = partial(callback_url, job.receiver_url, callback_secret(block))
    make("checked-before-anything-is-spent")
    return make


async def _reveal_earlier(batch: Batch) -> None:
    unanswered = batch.submitter.unanswered
    if not unanswered:
        return
    get_run_logger().warning(
        "Of %s rows it is not known whether they were submitted; looking for their callbacks",
        f"{len(unanswered):,}",
    )
    since = min(entry.reserved_at for entry in unanswered)
    found = await find_kept_callbacks([entry.job_key for entry in unanswered], since)
    for job_key, task_id in found.items():
        batch.submitter.reveal(job_key, task_id)
