"""Splits a batch among child runs of a deployment, and follows them to their end.

Prefect's work pools decide where the child runs execute. What they have done is read from the
reports that they keep beside the images, so that it is known even of one that was killed. Whether
they are alive is a question of its own, which their leases answer, not their reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import ValidationError

from nanobanana_blocks.api.prices import total
from nanobanana_blocks.batches.balance import note_balance_after
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.leases import Leases, Liveness, open_leases
from nanobanana_blocks.batches.opening import summarise_ledger
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.batches.reporting import REPORT_SECONDS, report_pause, write_report
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.orchestration.account_budget import ensure_account_budget
from nanobanana_blocks.orchestration.observability.progress import showing_progress
from nanobanana_blocks.orchestration.runs import child_runs
from nanobanana_blocks.orchestration.runs.batch_runs import (
    BatchJob,
    Shard,
    dated_store,
)
from nanobanana_blocks.storage.destination import Destination

REPORTS_FOLDER = ".nanobanana/shards"

POLL_SECONDS = 3.0
FIRST_REPORT_SECONDS = 5.0
"""How long a parent that is cancelled writes what it knows, before it waits for its child runs."""

SILENT_SECONDS = 120.0
"""After so long without a change of its lease, which was readable, a child run is dead."""

UNSEEN_SECONDS = 300.0
"""After so long at work, as Prefect says, without a lease, a child run is dead."""

WARN_SECONDS = 30.0
UNCLAIMED_SECONDS = 900.0
"""How long all child runs that are left may wait for a worker at the same time."""


class ShardedBatch:
    """A batch that child runs do: what their reports say of it; made by `run_shards`."""

    def __init__(
        self, batch: Batch, shards: Sequence[Shard], reports: Destination, leases: Leases
    ) -> None:
        self.outcomes = batch.outcomes
        self.pause = REPORT_SECONDS
        self._batch = batch
        self._shards = shards
        self._reports = reports
        self._leases = leases
        self._unseen_since: dict[Shard, float] = {}
        self._read: dict[Shard, bytes] = {}

    async def poll(self) -> None:
        """Read how far the child runs have come."""
        await asyncio.gather(*(self._read_report(shard) for shard in self._shards))

    async def dead_among(self, shards: Iterable[Shard]) -> list[Shard]:
        """Those of the child runs that Prefect believes at work whose leases say that they died."""
        return [shard for shard in shards if await self._is_dead(shard)]

    async def _is_dead(self, shard: Shard) -> bool:
        liveness = await self._leases.liveness(_lease_of(shard))
        if liveness is not Liveness.ENDED:
            self._unseen_since.pop(shard, None)
            return liveness is Liveness.DEAD
        return _now() - self._unseen_since.setdefault(shard, _now()) > UNSEEN_SECONDS

    async def publish(self, *, finished: bool) -> BatchReport:
        """Write the batch's report beside the images, and return it."""
        report = self._batch.report(finished=finished)
        size = await write_report(self._batch.landing.destination, report)
        self.pause = report_pause(size)
        return report

    async def finish(self) -> BatchReport:
        """Write what must last: the report of all that is known, and the ledger's summary."""
        await self.poll()
        with suppress(NanoBananaError):
            await self._batch.catch_up()
        report = await self.publish(finished=True)
        await summarise_ledger(self._batch, get_run_logger())
        return report

    async def forget(self) -> None:
        """Delete the child runs' reports, which the batch's own holds now, and leases."""
        with suppress(NanoBananaError):
            for shard in self._shards:
                await self._reports.delete(shard.report_name)
                await self._leases.remove(_lease_of(shard))

    async def _read_report(self, shard: Shard) -> None:
        with suppress(NanoBananaError, ValidationError):
            data = await self._reports.read(shard.report_name)
            if data is None or data == self._read.get(shard):
                return
            report = await asyncio.to_thread(BatchReport.model_validate_json, data)
            self.outcomes.update((outcome.row, outcome) for outcome in report.outcomes)
            self._read[shard] = data


async def run_shards(batch: Batch, job: BatchJob, count: int, deployment: str) -> BatchReport:
    """Have child runs of a deployment do a batch, and wait for all of them.

    Args:
        batch: The whole batch, checked.
        job: What its flow was given.
        count: How many child runs there shall be; not more than the account's budget has slots.
        deployment: Their deployment, such as ``run-shard/pool``.

    Raises:
        InvalidInput: There is no such deployment.
        NanoBananaError: No worker has taken any of those that are left for a quarter of an hour.
    """
    slots = await ensure_account_budget(job.credentials, job.poll.requests_per_second)
    of = min(count, slots, len(batch.rows))
    shards = [
        _with_share(
            Shard(
                number=number,
                of=of,
                manifest_digest=batch.digest,
                batch=f"{flow_run.id}-{flow_run.run_count}",
            ),
            batch,
        )
        for number in range(1, of + 1)
    ]
    async with (
        get_client() as prefect,
        opening_shard_reports(job) as reports,
        open_leases((await dated_store(job)).location, silent_seconds=SILENT_SECONDS) as leases,
        showing_progress(len(batch.rows), lambda: len(batch.outcomes), "Rows"),
    ):
        sharded = ShardedBatch(batch, shards, reports, leases)
        runs: dict[UUID, Shard] = {}
        try:
            for shard in shards:
                runs[await _start(shard, job, deployment)] = shard
            get_run_logger().info("%s child runs of %s share the rows", of, deployment)
            ended_badly = await _follow(prefect, runs, sharded)
            await sharded.poll()
            await note_balance_after(batch)
        except BaseException:
            with anyio.move_on_after(FIRST_REPORT_SECONDS):
                await sharded.publish(finished=True)
            await child_runs.cancel_and_wait(prefect, runs)
            raise
        finally:
            report = await sharded.finish()
            await sharded.forget()
    if ended_badly and report.not_landed:
        batch.abort_error = NanoBananaError(
            f"{len(ended_badly)} of {of} child runs did not do their part. {ended_badly[0]}"
        )
    return report


@asynccontextmanager
async def working_on_shard(job: BatchJob, shard: Shard) -> AsyncIterator[Destination]:
    """Let a child run's parent know that it lives, end it with its parent; gives the reports."""
    async with (
        child_runs.ending_with_parent(),
        opening_shard_reports(job) as reports,
        open_leases((await dated_store(job)).location, owner=_lease_of(shard)),
    ):
        yield reports


@asynccontextmanager
async def opening_shard_reports(job: BatchJob) -> AsyncIterator[Destination]:
    """Reach the folder in which the child runs of a batch keep their reports."""
    store = await dated_store(job)
    async with await store.location.child(REPORTS_FOLDER).open() as reports:
        await reports.check_writable()
        yield reports


def _with_share(shard: Shard, batch: Batch) -> Shard:
    """The part with what it may spend: the cost of its rows that are chosen for the whole batch."""
    limit = batch.submitter.limit
    if limit is None:
        return shard
    chosen = [row for row in shard.part_of(batch.rows) if limit.allows(row)]
    return shard.model_copy(update={"credits_share": total(row.credits for row in chosen)})


async def _start(shard: Shard, job: BatchJob, deployment: str) -> UUID:
    return await child_runs.start(
        deployment,
        {
            "job": job.model_dump(mode="json", by_alias=True),
            "shard": shard.model_dump(mode="json"),
        },
        name=f"shard {shard.number} of {shard.of}",
        idempotency_key=shard.report_name,
    )


async def _follow(
    prefect: PrefectClient, runs: dict[UUID, Shard], sharded: ShardedBatch
) -> list[str]:
    """Wait for the child runs; return what is to be said of those that ended badly."""
    left = dict(runs)
    ended_badly: list[str] = []
    polled_at = _now()
    queue = _Queue()
    while left:
        await anyio.sleep(POLL_SECONDS)
        states = await child_runs.states_of(prefect, left)
        running = [left[run_id] for run_id, s in (states or {}).items() if s.is_running()]
        dead = await sharded.dead_among(running)
        if _now() - polled_at >= sharded.pause:
            await sharded.poll()
            await sharded.publish(finished=False)
            polled_at = _now()
        if states is None or running:
            queue.has_moved()
        for run_id, state in (states or {}).items():
            shard = left[run_id]
            if state.is_final():
                trouble = "" if state.is_completed() else f"ended {state.name}: {state.message}"
            elif shard in dead:
                trouble = "does not renew its lease any more; its worker has died"
                await child_runs.cancel(prefect, [run_id])
            else:
                continue
            del left[run_id]
            queue.has_moved()
            if trouble:
                ended_badly.append(f"Shard {shard.number} {trouble}")
                get_run_logger().error(ended_badly[-1])
        queue.check(len(left))
    return ended_badly


class _Queue:
    """Child runs that wait for a worker, and for how long none of them was taken."""

    def __init__(self) -> None:
        self._moved_at = _now()
        self._warned = False

    def has_moved(self) -> None:
        """Take note that a child run is at work, has ended, or cannot be seen just now."""
        self._moved_at, self._warned = _now(), False

    def check(self, left: int) -> None:
        """Warn, in time, that there is no worker for those that are left; at last raise."""
        seconds = _now() - self._moved_at
        if seconds > UNCLAIMED_SECONDS:
            raise NanoBananaError(f"no worker has taken any of {left} child runs. {_ONE_MORE}")
        if seconds > WARN_SECONDS and left and not self._warned:
            get_run_logger().warning(
                "No worker has taken any of %s child runs yet. %s", left, _ONE_MORE
            )
            self._warned = True


_ONE_MORE = (
    "Start one more worker, or raise the limit of the one that runs this batch: it occupies a "
    "place itself."
)


def _lease_of(shard: Shard) -> str:
    return shard.report_name.removesuffix(".json")


def _now() -> float:
    return asyncio.get_running_loop().time()
