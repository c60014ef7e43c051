"""Splits a batch among child runs of a deployment, and follows them to their end.

Prefect's work pools decide where the child runs execute. What they have done is read from the
reports that they keep beside the images, so that it is known even of one that was killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import httpx
from prefect import State
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelling
from pydantic import ValidationError

from nanobanana_blocks.batches.batch import REPORT_SECONDS, Batch, write_report
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.concurrency import background_task
from nanobanana_blocks.errors import InvalidInput, NanoBananaError
from nanobanana_blocks.images.download import MAX_PIXELS
from nanobanana_blocks.images.verification import verify_image
from nanobanana_blocks.orchestration.account_budget import ensure_account_budget
from nanobanana_blocks.orchestration.observability.artifacts import showing_progress
from nanobanana_blocks.orchestration.runs.batch_runs import BatchJob, Shard, dated_store
from nanobanana_blocks.storage.destination import Destination

REPORTS_FOLDER = ".nanobanana/shards"

LOOK_SECONDS = 3.0
PARENT_SECONDS = 10.0
CANCELLED_SECONDS = 15.0
"""How long a parent that is cancelled waits for its child runs: Prefect kills it after 30."""

WARN_SECONDS = 30.0
UNCLAIMED_SECONDS = 900.0
"""How long all child runs that are left may wait for a worker at the same time."""

THUMBNAILS = 24

SILENT_SECONDS = 300.0
"""After so long without news in its report, a child run is taken for dead."""


class ShardedBatch:
    """A batch that child runs do: what their reports tell of it; made by `run_shards`."""

    def __init__(self, batch: Batch, shards: Sequence[Shard], reports: Destination) -> None:
        self.outcomes = batch.outcomes
        self._batch = batch
        self._shards = shards
        self._reports = reports
        self._told: dict[Shard, bytes] = {}
        self._heard_at: dict[Shard, float] = {}

    async def look(self) -> None:
        """Read how far the child runs have come."""
        await asyncio.gather(*(self._look_at(shard) for shard in self._shards))

    def is_silent(self, shard: Shard) -> bool:
        """Whether a child run at work has not told anything for so long that it must be dead."""
        return _now() - self._heard_at.setdefault(shard, _now()) > SILENT_SECONDS

    async def publish(self, *, finished: bool) -> BatchReport:
        """Write the batch's report beside the images, and return it."""
        report = self._batch.report(finished=finished)
        await write_report(self._batch.landing.destination, report)
        return report

    async def forget_reports(self) -> None:
        """Delete the child runs' reports, which the batch's own holds now."""
        with suppress(NanoBananaError):
            for shard in self._shards:
                await self._reports.delete(shard.report_name)

    async def _look_at(self, shard: Shard) -> None:
        with suppress(NanoBananaError, ValidationError):
            told = await self._reports.read(shard.report_name)
            if told is None or told == self._told.get(shard):
                return
            report = await asyncio.to_thread(BatchReport.model_validate_json, told)
            self.outcomes.update((outcome.row, outcome) for outcome in report.outcomes)
            self._told[shard], self._heard_at[shard] = told, _now()


async def run_shards(batch: Batch, job: BatchJob, count: int, deployment: str) -> BatchReport:
    """Have child runs of a deployment do a batch, and wait for all of them.

    Args:
        batch: The whole batch, checked.
        job: What its flow was told.
        count: How many child runs there shall be; not more than the account's budget has slots.
        deployment: Their deployment, such as ``run-shard/pool``.

    Raises:
        InvalidInput: There is no such deployment.
        NanoBananaError: No worker has taken any of those that are left for a quarter of an hour.
    """
    slots = await ensure_account_budget(job.credentials, job.poll.requests_per_second)
    of = min(count, slots, len(batch.rows))
    shards = [
        Shard(
            number=number,
            of=of,
            manifest_digest=batch.digest,
            batch=f"{flow_run.id}-{flow_run.run_count}",
        )
        for number in range(1, of + 1)
    ]
    async with get_client() as prefect, opening_shard_reports(job) as reports:
        sharded = ShardedBatch(batch, shards, reports)
        runs: dict[UUID, Shard] = {}
        try:
            for shard in shards:
                runs[await _start(shard, job, deployment)] = shard
            get_run_logger().info("%s child runs of %s share the rows", of, deployment)
            async with showing_progress(len(batch.rows), lambda: len(sharded.outcomes), "Rows"):
                ended_badly = await _follow(prefect, runs, sharded)
        except BaseException:
            await _cancel(prefect, runs)
            await _see_them_end(prefect, runs)
            raise
        finally:
            await sharded.look()
            with suppress(NanoBananaError):
                await batch.catch_up()
            report = await sharded.publish(finished=True)
            await sharded.forget_reports()
        await _fetch_thumbnails(batch)
    if ended_badly and report.not_landed:
        batch.abort_error = NanoBananaError(
            f"{len(ended_badly)} of {of} child runs did not do their part. {ended_badly[0]}"
        )
    return report


@asynccontextmanager
async def ending_with_parent() -> AsyncIterator[None]:
    """Have this child run cancelled when its parent is, also one that could not say so any more."""
    async with get_client() as prefect, background_task(_follow_parent(prefect)):
        yield


async def _follow_parent(prefect: PrefectClient) -> None:
    parent_id, own_id = flow_run.parent_flow_run_id, flow_run.id
    if parent_id is None or own_id is None:
        return
    while True:
        parents = await _states(prefect, [UUID(parent_id)]) or {}
        if any(state.is_cancelled() or state.is_cancelling() for state in parents.values()):
            await _cancel(prefect, [UUID(own_id)])
            return
        await anyio.sleep(PARENT_SECONDS)


@asynccontextmanager
async def opening_shard_reports(job: BatchJob) -> AsyncIterator[Destination]:
    """Reach the folder in which the child runs of a batch keep their reports."""
    store = await dated_store(job)
    async with await store.location.child(REPORTS_FOLDER).open() as reports:
        await reports.check_writable()
        yield reports


async def _fetch_thumbnails(batch: Batch) -> None:
    """Make thumbnails of some images that the child runs have landed, by reading them again."""
    landing = batch.landing
    landed = [outcome for outcome in batch.outcomes.values() if outcome.in_storage]
    for outcome in landed[:THUMBNAILS]:
        name = outcome.images[0].path.rpartition("/")[2]
        with suppress(NanoBananaError):
            data = await landing.destination.read(name) or b""
            verify = partial(verify_image, data, max_pixels=MAX_PIXELS, thumbnail=True)
            image = await asyncio.to_thread(verify)
            if image.thumbnail:
                landing.thumbnails[outcome.task_id] = image.thumbnail


async def _start(shard: Shard, job: BatchJob, deployment: str) -> UUID:
    try:
        run = await arun_deployment(
            deployment,
            parameters={
                "job": job.model_dump(mode="json", by_alias=True),
                "shard": shard.model_dump(mode="json"),
            },
            flow_run_name=f"shard {shard.number} of {shard.of}",
            idempotency_key=shard.report_name,
            timeout=0,
        )
    except ObjectNotFound:
        raise InvalidInput(
            f"there is no deployment {deployment!r} for the child runs: "
            "`prefect --no-prompt deploy --all` makes it. Or run with shards=1."
        ) from None
    return run.id


async def _follow(
    prefect: PrefectClient, runs: dict[UUID, Shard], sharded: ShardedBatch
) -> list[str]:
    """Wait for the child runs; return what is to be told of those that ended badly."""
    logger = get_run_logger()
    left = dict(runs)
    ended_badly: list[str] = []
    looked_at = _now()
    queue = _Queue()
    while left:
        await anyio.sleep(LOOK_SECONDS)
        if _now() - looked_at >= REPORT_SECONDS:
            await sharded.look()
            await sharded.publish(finished=False)
            looked_at = _now()
        states = await _states(prefect, left)
        if states is None or any(state.is_running() for state in states.values()):
            queue.has_moved()
        for run_id, state in (states or {}).items():
            if state.is_final():
                trouble = "" if state.is_completed() else f"ended {state.name}: {state.message}"
            elif state.is_running() and sharded.is_silent(left[run_id]):
                trouble = "has been silent too long; its worker has died"
                await _cancel(prefect, [run_id])
            else:
                continue
            shard = left.pop(run_id)
            queue.has_moved()
            if trouble:
                ended_badly.append(f"Shard {shard.number} {trouble}")
                logger.error(ended_badly[-1])
        queue.check(len(left))
    return ended_badly


class _Queue:
    """Child runs that wait for a worker, and for how long none of them was taken."""

    def __init__(self) -> None:
        self._moved_at = _now()
        self._told = False

    def has_moved(self) -> None:
        """Take note that a child run is at work, has ended, or cannot be seen just now."""
        self._moved_at, self._told = _now(), False

    def check(self, left: int) -> None:
        """Tell, in time, that there is no worker for those that are left; at last raise."""
        seconds = _now() - self._moved_at
        if seconds > UNCLAIMED_SECONDS:
            raise NanoBananaError(f"no worker has taken any of {left} child runs. {_ONE_MORE}")
        if seconds > WARN_SECONDS and left and not self._told:
            get_run_logger().warning(
                "No worker has taken any of %s child runs yet. %s", left, _ONE_MORE
            )
            self._told = True


async def _states(prefect: PrefectClient, run_ids: Iterable[UUID]) -> dict[UUID, State[Any]] | None:
    """The states of those runs that there are; None where Prefect does not tell now."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(run_ids)))
    try:
        found = await prefect.read_flow_runs(flow_run_filter=wanted)
    except (PrefectException, httpx.HTTPError, OSError):
        return None
    return {run.id: run.state for run in found if run.state}


async def _cancel(prefect: PrefectClient, run_ids: Iterable[UUID]) -> None:
    for run_id, state in (await _states(prefect, run_ids) or {}).items():
        if not state.is_final():
            with suppress(PrefectException, httpx.HTTPError, OSError):
                await prefect.set_flow_run_state(run_id, Cancelling())


async def _see_them_end(prefect: PrefectClient, run_ids: Collection[UUID]) -> None:
    with anyio.move_on_after(CANCELLED_SECONDS):
        while states := await _states(prefect, run_ids):
            if all(state.is_final() for state in states.values()):
                return
            await anyio.sleep(1)


_ONE_MORE = (
    "Start one more worker, or raise the limit of the one that runs this batch: it occupies a "
    "place itself."
)


def _now() -> float:
    return asyncio.get_running_loop().time()
