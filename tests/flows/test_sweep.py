"""The sweep: what was announced and lost is landed, and what is settled is forgotten."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.land_images import land_images
from flows.sweep import sweep
from nanobanana_blocks import LandingReport, NanoBananaClient
from nanobanana_blocks.api.requests import Endpoint
from nanobanana_blocks.batches.ledger import AttemptState, SubmissionAttempt
from nanobanana_blocks.errors import DestinationError, StorageError
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.recovery import outstanding
from nanobanana_blocks.recovery.pending import open_pending
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination, StorageLocation


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
        monkeypatch.setattr(outstanding, "DOUBTED_FOR", timedelta(0))
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

    @pytest.mark.parametrize("kind", ["envelope", "unknown"])
    async def test_a_doubtful_end_of_a_row_is_asked_about_again(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        """What only a code of the envelope says, or another account's key, writes nothing off."""
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        asked = task_id if kind == "envelope" else "of-another-account"
        self.submitted(tmp_path, [asked])
        sandbox.add_fault(Fault(kind="body-code", code=501, count=1))
        assert self.statuses(await sweep(str(tmp_path), older_than=0)) == {asked: "failed"}
        again = await sweep(str(tmp_path), older_than=0)
        landed = "landed" if kind == "envelope" else "failed"
        assert self.statuses(again) == {asked: landed}
        monkeypatch.setattr(outstanding, "DOUBTED_FOR", timedelta(0))
        await sweep(str(tmp_path), older_than=0)
        assert (await sweep(str(tmp_path), older_than=0)).outcomes == []

    def submitted(self, folder: Path, task_ids: list[str]) -> None:
        """Have a ledger tell of one row, submitted an hour ago, an attempt a task."""
        made = datetime.now(UTC) - timedelta(hours=1)
        ledger = folder / ".nanobanana/ledger"
        ledger.mkdir(parents=True)
        for attempt, task_id in enumerate(task_ids, start=1):
            entry = SubmissionAttempt(
                key="fig",
                attempt=attempt,
                digest="d",
                name="fig",
                endpoint=Endpoint.GENERATE,
                credits=4,
                job_key=f"job-{attempt}",
                reserved_at=made,
                state=AttemptState.SUBMITTED,
                task_id=task_id,
            )
            (ledger / f"fig.{attempt}.json").write_text(entry.model_dump_json(exclude_none=True))

    @pytest.mark.parametrize("broken", [1, 2])
    async def test_a_broken_place_does_not_stop_the_others(
        self, sandbox: Sandbox, tmp_path: Path, broken: int
    ) -> None:
        """Of several days each is swept, and the run fails at its end and names what went wrong."""
        today = datetime.now(UTC).date()
        days = [tmp_path / str(today - timedelta(days=ago)) for ago in range(3)]
        for day in days[:broken]:
            (day / ".nanobanana").mkdir(parents=True)
            (day / ".nanobanana/ledger").write_text("a file where the folder should be")
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        await self.announce(days[2], task_id)
        with pytest.raises((StorageError, DestinationError)) as caught:
            await sweep(f"{tmp_path}/{{date}}", older_than=0, days=3)
        for day in days[:broken]:
            assert f"{day}/.nanobanana/ledger" in str(caught.value)
        assert ("2 of 3 places" in str(caught.value)) is (broken == 2)
        assert (days[2] / f"{task_id}.json").exists()

    async def test_a_place_that_was_never_used_is_refused(
        self, sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A misspelt destination fails the sweep; a day without any use is only said."""
        with pytest.raises(DestinationError, match=r"misspelt: nothing was ever.*spelling"):
            await sweep(str(tmp_path / "misspelt"), older_than=0)
        with caplog.at_level("WARNING", "prefect.flow_runs"):
            assert (await sweep(f"{tmp_path}/{{date}}", older_than=0)).outcomes == []
        assert "Of the last 2 days" in caplog.text
        task_id = sandbox.add_task(TaskPlan(seconds=0))
        await land_images([task_id], str(tmp_path / "used"))
        assert (await sweep(str(tmp_path / "used"), older_than=0)).outcomes == []

    async def test_a_row_submitted_twice_is_reported_until_it_has_landed(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """A receipt of an earlier attempt does not settle a row, and one of the last does."""
        first, second = sandbox.add_tasks([TaskPlan(seconds=0)] * 2)
        self.submitted(tmp_path, [first, second])
        async with (
            NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
            await Destination.open(str(tmp_path)) as destination,
            open_lander([first], client, destination) as lander,
        ):
            await lander.land(first, name="fig")
        assert self.statuses(await sweep(str(tmp_path), older_than=0)) == {second: "landed"}
        assert (await sweep(str(tmp_path), older_than=0)).outcomes == []

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

    async def test_a_success_without_a_url_is_kept(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A task that is done and has no URL yet is not landed with nothing, and not forgotten."""
        task_id = sandbox.add_task(TaskPlan(seconds=0, looks_without_url=1))
        await self.announce(tmp_path, task_id)
        assert self.statuses(await sweep(str(tmp_path), older_than=0)) == {task_id: "failed"}
        assert await self.awaited(tmp_path) == [task_id]
        assert not (tmp_path / f"{task_id}.json").exists()
        assert self.statuses(await sweep(str(tmp_path), older_than=0)) == {task_id: "landed"}
        assert await self.awaited(tmp_path) == []
