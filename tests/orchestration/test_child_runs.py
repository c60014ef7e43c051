"""A parent knows whether its child runs live, and they end with it; neither waits for Prefect."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import anyio
import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Running, Scheduled

from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.batches.leases import Leases, Liveness, open_leases
from nanobanana_blocks.batches.manifest import RowDefaults
from nanobanana_blocks.orchestration.runs import child_runs, shards
from nanobanana_blocks.orchestration.runs.batch_runs import BatchJob, Shard
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from tests.support.until import until

if TYPE_CHECKING:
    from nanobanana_blocks.batches.batch import Batch


class SomeLeases(Leases):
    """Leases that say what a test has them say."""

    def __init__(self) -> None:
        self.answer = Liveness.AT_WORK

    async def liveness(self, owner: str) -> Liveness:
        return self.answer


def sharded(leases: Leases, reports: Destination) -> shards.ShardedBatch:
    batch = SimpleNamespace(outcomes={}, landing=None)
    return shards.ShardedBatch(cast("Batch", batch), [SHARD], reports, leases)


SHARD = Shard(number=1, of=2, manifest_digest="digest", batch="a-batch")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Destination]:
    async with await StorageLocation(str(tmp_path)).open() as opened:
        yield opened


@pytest.mark.parametrize(
    ("answer", "is_dead"),
    [
        (Liveness.AT_WORK, False),
        (Liveness.DEAD, True),
        (Liveness.UNKNOWN, False),
        (Liveness.ENDED, False),
    ],
)
async def test_a_lease_decides_whether_a_child_is_dead(
    place: Destination, answer: Liveness, is_dead: bool
) -> None:
    """Rule: a child's report does not matter to that, and what cannot be read is not silence."""
    leases = SomeLeases()
    batch = sharded(leases, place)
    leases.answer = answer
    for _ in range(100):
        await batch.poll()
        assert await batch.dead_among([SHARD]) == ([SHARD] if is_dead else [])


async def test_a_child_that_never_gets_a_lease_is_dead_at_last(
    place: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: a child that Prefect believes at work and that never showed up is given up."""
    now = 0.0
    monkeypatch.setattr(shards, "_now", lambda: now)
    leases = SomeLeases()
    batch = sharded(leases, place)
    leases.answer = Liveness.ENDED
    assert await batch.dead_among([SHARD]) == []
    now = shards.UNSEEN_SECONDS
    leases.answer = Liveness.AT_WORK
    assert await batch.dead_among([SHARD]) == []
    leases.answer = Liveness.ENDED
    assert await batch.dead_among([SHARD]) == []
    now += shards.UNSEEN_SECONDS + 1
    assert await batch.dead_among([SHARD]) == [SHARD]


async def test_a_child_shows_that_it_is_at_work(
    prefect_api: str, place: Destination, tmp_path: Path
) -> None:
    """Rule: a child's lease is there, under the name that its parent asks for, until it ends."""
    job = BatchJob(
        manifest="rows.jsonl",
        destination=str(tmp_path),
        credentials="default",
        defaults=RowDefaults(),
        retry=(),
        timeout=1,
        in_flight=1,
        poll=PollPolicy(),
        date=date(2026, 1, 1),
        receiver_url=None,
    )
    with disable_run_logger():
        async with open_leases(StorageLocation(str(tmp_path))) as leases:
            batch = sharded(leases, place)
            async with shards.working_on_shard(job, SHARD):
                asked = await leases.liveness(shards._lease_of(SHARD))
                assert asked is Liveness.AT_WORK
            assert await batch.dead_among([SHARD]) == []
            assert await leases.read(shards._lease_of(SHARD)) is None


async def child_of(prefect: PrefectClient, parent: FlowRun) -> FlowRun:
    """A run that another one has started."""
    dummy = await prefect.create_task_run(
        task=_dummy, flow_run_id=parent.id, dynamic_key=uuid4().hex, state=Running()
    )
    return await prefect.create_flow_run(_shard, parent_task_run_id=dummy.id, state=Running())


async def test_a_child_ends_with_its_parent(prefect_api: str) -> None:
    """Rule: a child run whose parent is being cancelled asks for its own end."""
    async with get_client() as prefect:
        parent = await prefect.create_flow_run(_shard, state=Running())
        child = await child_of(prefect, parent)

        async def is_cancelling() -> bool:
            state = (await prefect.read_flow_run(child.id)).state
            return state is not None and state.is_cancelling()

        with disable_run_logger(), FlowRunContext.model_construct(flow_run=child):
            async with child_runs.ending_with_parent(pause_seconds=0.05):
                assert not await is_cancelling()
                await prefect.set_flow_run_state(parent.id, Cancelling())
                await until(is_cancelling)


async def test_a_cancellation_that_fails_at_first_is_tried_again(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: no answer from Prefect is not the end of the child runs that a parent cancels."""
    async with get_client() as prefect:
        children = [(await prefect.create_flow_run(_shard, state=Scheduled())).id for _ in range(2)]
        read, answers = prefect.read_flow_runs, []

        async def read_at_last(**what: Any) -> list[FlowRun]:
            answers.append(len(answers) not in (0, 2))
            if not answers[-1]:
                raise httpx.ReadError("reset")
            return await read(**what)

        monkeypatch.setattr(prefect, "read_flow_runs", read_at_last)
        await child_runs.cancel_and_wait(prefect, children)
        states = [(await prefect.read_flow_run(child)).state for child in children]
        assert [state and state.is_cancelled() for state in states] == [True, True]
    assert answers[:3] == [False, True, False]


async def test_asking_for_the_parent_blocks_nothing(prefect_api: str) -> None:
    """Rule: while Prefect does not answer, the child's event loop goes on."""
    async with get_client() as prefect:
        child = await child_of(prefect, await prefect.create_flow_run(_shard, state=Running()))
    with socket.create_server(("127.0.0.1", 0)) as silent, disable_run_logger():
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        turns = 0
        with (
            temporary_settings({PREFECT_API_URL: url}),
            FlowRunContext.model_construct(flow_run=child),
        ):
            async with child_runs.ending_with_parent():
                with anyio.fail_after(60):
                    await asyncio.to_thread(_connection_to, silent)
                    while turns < 100:
                        await asyncio.sleep(0)
                        turns += 1
    assert turns == 100


async def test_a_question_to_prefect_is_bounded() -> None:
    """Rule: states that Prefect does not tell in time are unknown, which ends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            async with get_client() as prefect:
                assert await child_runs.states_of(prefect, [uuid4()], seconds=0.05) is None
                assert await child_runs.cancel(prefect, [uuid4()], seconds=0.05) is False


def _connection_to(listener: socket.socket) -> socket.socket:
    return listener.accept()[0]


@flow(name="a-shard")
def _shard() -> None:
    """Only its runs' states matter."""


@task(name="a-dummy")
def _dummy() -> None:
    """What stands for a child run in its parent."""
