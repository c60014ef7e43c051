"""Callbacks wake a waiting flow through Prefect's event stream, and a sweep finds what was lost."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.land_images import land_images
from flows.sweep import sweep
from nanobanana_blocks import LandingReport, PollPolicy
from nanobanana_blocks.errors import StorageError
from nanobanana_blocks.orchestration.observability.events import CALLBACK_RECEIVED, resource_of
from nanobanana_blocks.orchestration.observability.wakeups import waking_on_callbacks
from nanobanana_blocks.recovery import outstanding as awaited
from nanobanana_blocks.recovery.pending import open_pending
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.until import until

ONLY_AT_ONCE = PollPolicy.fixed(3600)


async def tell_of_callback(prefect_api: str, task_id: str) -> None:
    """Do what the receiver does with a callback: give Prefect its event."""
    event = {
        "id": str(uuid4()),
        "event": CALLBACK_RECEIVED,
        "resource": resource_of(task_id),
        "occurred": datetime.now(UTC).isoformat(),
        "payload": {"task_id": task_id},
    }
    async with httpx.AsyncClient() as http:
        (await http.post(f"{prefect_api}/events", json=[event])).raise_for_status()


async def when_looked_at(sandbox: Sandbox, task_id: str, times: int) -> None:
    """Return as soon as record-info has been asked so often about a task."""
    await until(lambda: sandbox.stats().looks.get(task_id, 0) >= times)


async def test_a_callback_wakes_its_task(
    prefect_api: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A waiting run lands a task when its callback comes, with two looks and long before a poll."""
    task_id = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=1000))
    run = asyncio.create_task(land_images([task_id], str(tmp_path), poll=ONLY_AT_ONCE))
    await when_looked_at(sandbox, task_id, 1)
    sandbox.advance(1000)
    await tell_of_callback(prefect_api, task_id)
    report = await asyncio.wait_for(run, 60)
    assert report.complete
    assert sandbox.stats().looks[task_id] == 2


async def test_a_callback_ahead_of_the_truth_lands_nothing(
    prefect_api: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A callback is a hint: while record-info says generating, nothing is landed."""
    task_id = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=None))
    run = asyncio.create_task(
        land_images([task_id], str(tmp_path), timeout=8, poll=ONLY_AT_ONCE, allow_partial=True)
    )
    await when_looked_at(sandbox, task_id, 1)
    await tell_of_callback(prefect_api, task_id)
    await when_looked_at(sandbox, task_id, 3)
    [outcome] = (await asyncio.wait_for(run, 60)).outcomes
    assert outcome.status.value == "timed_out"
    assert list(tmp_path.iterdir()) == []


async def test_callbacks_of_strangers_change_nothing(
    prefect_api: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A callback about a task that nobody waits for costs this run no request."""
    task_id = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=1000))
    run = asyncio.create_task(land_images([task_id], str(tmp_path), poll=ONLY_AT_ONCE))
    await when_looked_at(sandbox, task_id, 1)
    await tell_of_callback(prefect_api, "stranger")
    sandbox.advance(1000)
    await tell_of_callback(prefect_api, task_id)
    await asyncio.wait_for(run, 60)
    assert sandbox.stats().looks == {task_id: 2}


async def test_no_event_stream_means_polling(
    prefect_api: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stream cannot be subscribed to, the run says so once and polls."""
    monkeypatch.setattr(
        "prefect.events.clients.events_out_socket_from_api_url",
        lambda _: "ws://127.0.0.1:9/nothing-listens-here",
    )
    task_id = sandbox.add_task(TaskPlan(seconds=0.2))
    report = await land_images([task_id], str(tmp_path), poll=PollPolicy.fixed(0.1))
    assert report.complete


@pytest.mark.usefixtures("prefect_api")
class TestSweep:
    """The sweep lands what was announced and lost, and forgets what is settled."""

    async def announce(self, folder: Path, *task_ids: str) -> None:
        async with open_pending(StorageLocation(str(folder))) as pending:
            for task_id in task_ids:
                await pending.announce(task_id)

    async def awaited(self, folder: Path) -> list[str]:
        async with open_pending(StorageLocation(str(folder))) as pending:
            return [task.task_id for task in await pending.older_than(0)]

    def statuses(self, report: LandingReport) -> dict[str, str]:
        return {outcome.task_id: outcome.status.value for outcome in report.outcomes}

    async def test_lands_reports_and_drops(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Done is landed, running is kept, what has failed is dropped; one look each.

        What is not known may be another key's: it is dropped after a day.
        """
        done = sandbox.add_task(TaskPlan(seconds=0))
        running = sandbox.add_task(TaskPlan(seconds=None))
        failed = sandbox.add_task(TaskPlan(seconds=0, outcome="generate-failed"))
        await self.announce(tmp_path, done, running, failed, "unknown")
        report = await sweep(str(tmp_path), older_than=0)
        assert self.statuses(report) == {
            done: "landed",
            running: "timed_out",
            failed: "failed",
            "unknown": "failed",
        }
        assert set(sandbox.stats().looks.values()) == {1}
        assert await self.awaited(tmp_path) == [running, "unknown"]
        assert (tmp_path / f"{done}.json").exists()
        monkeypatch.setattr(awaited, "UNKNOWN_FOR", timedelta(0))
        await sweep(str(tmp_path), older_than=0)
        assert await self.awaited(tmp_path) == [running]

    async def test_what_is_there_costs_no_request(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A task that another run has landed meanwhile is only forgotten."""
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        await self.announce(tmp_path, task_id)
        await land_images([task_id], str(tmp_path))
        looks = sandbox.stats().looks
        report = await sweep(str(tmp_path), older_than=0)
        assert self.statuses(report) == {task_id: "already_landed"}
        assert sandbox.stats().looks == looks
        assert await self.awaited(tmp_path) == []

    async def test_young_tasks_are_left_to_others(
        self, sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What was announced a moment ago is not asked about yet, and the log says so."""
        await self.announce(tmp_path, sandbox.add_task())
        with caplog.at_level("INFO", "prefect.flow_runs"):
            assert (await sweep(str(tmp_path), older_than=60)).outcomes == []
        assert "0 tasks are outstanding, and 1 more for less than 60 s" in caplog.text
        assert sandbox.stats().requests == {}

    async def test_a_passing_failure_is_kept(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A task that could not be asked about, or fetched, stays for the next sweep."""
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        await self.announce(tmp_path, task_id)
        sandbox.add_fault(Fault(kind="body-code", code=500, count=1))
        assert self.statuses(await sweep(str(tmp_path), older_than=0)) == {task_id: "failed"}
        assert await self.awaited(tmp_path) == [task_id]
        assert self.statuses(await sweep(str(tmp_path), older_than=0)) == {task_id: "landed"}

    @pytest.mark.parametrize("broken", [1, 2])
    async def test_a_broken_place_does_not_stop_the_others(
        self, sandbox: Sandbox, tmp_path: Path, broken: int
    ) -> None:
        """Of several days each is swept, and the run fails at its end and names what went wrong."""
        today = datetime.now(UTC).date()
        days = [tmp_path / str(today - timedelta(days=ago)) for ago in range(3)]
        for day in days[:broken]:
            (day / ".nanobanana/ledger").mkdir(parents=True)
            (day / ".nanobanana/ledger/row.1.json").write_text("torn")
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        await self.announce(days[2], task_id)
        with pytest.raises(StorageError) as caught:
            await sweep(f"{tmp_path}/{{date}}", older_than=0, days=3)
        for day in days[:broken]:
            assert f"{day}/.nanobanana/ledger/row.1.json is no ledger entry" in str(caught.value)
        assert ("2 of 3 places" in str(caught.value)) is (broken == 2)
        assert (days[2] / f"{task_id}.json").exists()

    async def test_announcing_again_does_not_make_younger(self, tmp_path: Path) -> None:
        """Repeated callbacks of a task do not put its sweep off."""
        await self.announce(tmp_path, "t")
        [first] = (tmp_path / ".nanobanana" / "pending").iterdir()
        before = first.read_bytes()
        await self.announce(tmp_path, "t")
        assert first.read_bytes() == before

    async def test_memory_and_files_alike(self) -> None:
        """What is pending is kept on any storage that images go to."""
        async with open_pending(StorageLocation("memory://sweep-test")) as pending:
            await pending.announce("a/../b")
            assert [task.task_id for task in await pending.older_than(0)] == ["a/../b"]
            await pending.settle("a/../b")
            assert await pending.older_than(0) == []


async def test_without_a_server_nothing_is_subscribed() -> None:
    """Where no server is set there is no stream to wait for, and the landing goes ahead."""
    with temporary_settings({PREFECT_API_URL: None}), disable_run_logger():
        before = asyncio.all_tasks()
        async with waking_on_callbacks(landing=None):  # type: ignore[arg-type]  # never touched
            assert asyncio.all_tasks() == before
