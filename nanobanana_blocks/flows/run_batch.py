"""The batch flow: from a manifest of prompts or task ids to images, each row paid for once."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from prefect import State, flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from nanobanana_blocks.api.prices import OwnPrices
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.batches.balance import note_balance_before, spending_in_words
from nanobanana_blocks.batches.ledger import Failure
from nanobanana_blocks.batches.manifest import RowDefaults
from nanobanana_blocks.batches.plan import BatchPlan
from nanobanana_blocks.batches.policies import OnContentPolicy
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.gallery import make_gallery_of_batch
from nanobanana_blocks.orchestration.observability.artifacts import publish_batch_report
from nanobanana_blocks.orchestration.observability.plan_artifacts import publish_plan
from nanobanana_blocks.orchestration.runs.batch_runs import (
    BatchJob,
    Shard,
    opening_batch,
    plan_of,
    process_here,
)
from nanobanana_blocks.orchestration.runs.scheduled_day import scheduled_day
from nanobanana_blocks.orchestration.runs.shards import run_shards, working_on_shard
from nanobanana_blocks.storage.dates import DATE
from nanobanana_blocks.storage.locations import redact


def name_run() -> str:
    """Name a run after what it does: ``prompts.jsonl to s3://bucket/folder``."""
    parameters: dict[str, Any] = flow_run.parameters
    manifest = redact(parameters["manifest"]).rpartition("/")[2]
    what = f"{manifest} to {redact(parameters['destination'])}"
    if DATE not in what:
        return what
    try:
        date = str(parameters["date"] or scheduled_day(parameters["timezone"]))
    except InvalidInput:
        return what
    return what.replace(DATE, date)


@flow(name="run-batch", flow_run_name=name_run)
async def run_batch(
    manifest: str,
    destination: str = "images",
    credentials: str = "default",
    defaults: RowDefaults = RowDefaults(),  # noqa: B008  # frozen, and Prefect shows it in the form
    retry: tuple[Failure, ...] = (),
    shards: Annotated[int, Field(ge=1, le=64)] = 1,
    receiver_url: str | None = None,
    timeout: float = 900.0,
    in_flight: Annotated[int, Field(ge=1)] = 200,
    poll: PollPolicy = PollPolicy(),  # noqa: B008  # frozen, and Prefect shows it in the form
    check_credits: bool = True,
    allow_partial: bool = False,
    date: datetime.date | None = None,
    timezone: str = "UTC",
    shard_deployment: str = "run-shard/pool",
    gallery: bool = True,
    references: str | None = None,
    prices: OwnPrices | None = None,
    on_content_policy: OnContentPolicy = OnContentPolicy.SKIP,
    max_credits: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None,
    dry_run: bool = False,
) -> BatchReport | BatchPlan:
    """Submit the rows of a manifest, each once, and land their images as soon as they are ready.

    The whole manifest is checked before anything is spent. What was submitted is noted beside the
    images, so running again, on any machine and after any crash, does only what is missing.

    Args:
        manifest: Path or fsspec URL of a JSONL or CSV file; {date} in it is replaced.
        destination: A path, an fsspec URL such as s3://bucket/{date}, or the name of a saved
            ImageStore block.
        credentials: Name of a saved NanoBananaCredentials block; where there is none of that name,
            the worker's NANOBANANA_API_KEY and NANOBANANA_BASE_URL are used.
        defaults: Defaults for rows that do not set them.
        retry: Kinds of failures whose rows are submitted again, which may cost again.
        shards: Number of child runs that share the rows; with 1, this run does them all.
        receiver_url: Public URL of the callback receiver, where one runs.
        timeout: Seconds to wait for each generation task.
        in_flight: Rows under way at a time, in each run.
        poll: When to ask the API; its requests per second are the budget.
        check_credits: Begin only if the account has about as many credits as the rows cost.
        allow_partial: End as Completed even when not every row has landed.
        date: What {date} stands for; by default the day on which the run was scheduled.
        timezone: Time zone of that day, such as Europe/Berlin.
        shard_deployment: Deployment of the child runs.
        gallery: Write a gallery, index.html, beside the images.
        references: Name of a saved ImageStore block with a public URL, where copies of images to
            work from go; without it, their storage signs URLs.
        prices: Credits for each image where yours differ from the table in the documentation,
            such as {"generate": 4, "generate-pro/2K": 18}.
        on_content_policy: Whether rows whose content is refused are submitted once more, and paid
            for, with their promptOnContentPolicy.
        max_credits: The most credits, by estimate, that this run spends on submits; it lands what
            it has submitted, and the next run goes on.
        dry_run: Only say what would be done, how, and for how many credits; nothing is submitted
            or written.

    Returns:
        What became of each row, in the order of the manifest; also kept beside the images. Of a dry
        run, the plan.

    Raises:
        InvalidManifest: The manifest is invalid; every problem is named.
        IncompleteLanding: Not every row has landed and `allow_partial` is off.
        NanoBananaError: Something is invalid, missing, or refused; nothing was begun.
    """
    job = BatchJob(
        manifest=manifest,
        destination=destination,
        credentials=credentials,
        defaults=defaults,
        retry=retry,
        receiver_url=receiver_url,
        timeout=timeout,
        in_flight=in_flight,
        poll=poll,
        date=date or scheduled_day(timezone),
        references=references,
        prices=prices or {},
        on_content_policy=on_content_policy,
        max_credits=max_credits,
    )
    log = get_run_logger()
    if dry_run:
        plan = await plan_of(job, shards, check_credits=check_credits)
        log.info("%s", "\n".join(plan.in_lines()))
        await publish_plan(plan)
        return plan
    async with opening_batch(job) as batch:
        await note_balance_before(batch, log, check=check_credits)
        if shards > 1:
            report = await run_shards(batch, job, shards, shard_deployment)
        else:
            await process_here(batch, job)
            report = batch.report(finished=True)
        log.info("%s, in %s", report.describe(), report.destination)
        if spent := spending_in_words(report):
            log.info("%s", spent)
        page = await make_gallery_of_batch(report, batch.landing, log) if gallery else None
        await publish_batch_report(report, batch.landing, page)
    if not allow_partial:
        report.raise_unless_complete()
    if batch.abort_error:
        raise batch.abort_error
    return report


@flow(name="run-shard")
async def run_shard(job: BatchJob, shard: Shard) -> State[BatchReport]:
    """Do one part of a batch; started by run-batch.

    Args:
        job: What the batch was told.
        shard: Which part this is.
    """
    async with (
        working_on_shard(job, shard) as reports,
        opening_batch(job, shard) as batch,
    ):
        await process_here(batch, job, reports, shard.report_name)
        report = batch.report(finished=True)
        await publish_batch_report(report, batch.landing)
    return Completed(message=report.describe(), data=report)
