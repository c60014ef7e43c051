"""Several runs of one batch: together, one after the other was killed, and with the ledger gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from nanobanana_blocks.batches import submitter as submitting
from nanobanana_blocks.batches.batch import ANOTHER_LANDS
from nanobanana_blocks.batches.leases import Leases, open_leases
from nanobanana_blocks.batches.ledger import Ledger, open_ledger
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from nanobanana_blocks.storage.backends import LocalFolder
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.batches import (
    PATIENT,
    classes,
    entries,
    opened,
    prompts,
    rows_of,
    run,
    statuses,
)
from tests.support.prefect_runs import PROJECT
from tests.support.until import until

SUBMITS_AND_HANGS = """
import asyncio, sys
from pathlib import Path
from nanobanana_blocks.sandbox import Sandbox
from tests.support.batches import opened, prompts

class Running:
    api_key, base_url = sys.argv[2:4]

async def main():
    rows = prompts(int(sys.argv[4]))
    async with opened(Running, Path(sys.argv[1]), rows, timeout=600, in_flight=4) as made:
        await made.process_each(rows)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def soon_generated(sandbox: Sandbox) -> None:
    """Have submitted tasks end at once."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0.05))


@asynccontextmanager
async def another_run(folder: Path) -> AsyncIterator[tuple[Leases, Ledger]]:
    """A run at work that does only what the test says."""
    images = StorageLocation(str(folder))
    async with (
        open_leases(images, beat_seconds=0.1) as leases,
        open_ledger(images, owner=leases.owner) as ledger,
    ):
        yield leases, ledger


async def reserve(ledger: Ledger, rows: Any) -> list[Any]:
    return [(await ledger.reserve(row, row.request))[0] for row in rows]


@asynccontextmanager
async def killed_while_submitting(
    sandbox: Sandbox, folder: Path, rows: int
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, until it is killed with four submits under way."""
    command = [sys.executable, "-c", SUBMITS_AND_HANGS, str(folder), sandbox.api_key]
    process = subprocess.Popen(
        [*command, sandbox.base_url, str(rows)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        cwd=PROJECT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class TestPaying:
    """Whatever is lost between runs, a row is paid for once."""

    async def test_a_release_whose_answer_is_lost(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a repeated release meets, which another run has noted meanwhile, stays."""
        [row] = prompts(1)
        assert row.request
        async with (
            open_ledger(StorageLocation(str(tmp_path))) as first,
            open_ledger(StorageLocation(str(tmp_path))) as second,
            open_ledger(StorageLocation(str(tmp_path))) as third,
        ):
            entry, _ = await first.reserve(row, row.request)
            write, delete, lost = LocalFolder.write, LocalFolder.delete, []

            async def losing_the_first_answer(original: Any, *arguments: Any) -> None:
                await original(*arguments)
                if not lost:
                    lost.append(await second.reserve(row, row.request))
                    raise ConnectionResetError

            async def losing_write(*arguments: Any) -> None:
                await losing_the_first_answer(write, *arguments)

            async def losing_delete(*arguments: Any) -> None:
                await losing_the_first_answer(delete, *arguments)

            monkeypatch.setattr(LocalFolder, "write", losing_write)
            monkeypatch.setattr(LocalFolder, "delete", losing_delete)
            await first.release(entry)
            [(theirs, is_theirs)] = lost
            assert is_theirs
            assert await third.reserve(row, row.request) == (theirs, False)

    @pytest.mark.parametrize("storage", ["local", "replaced", "object-store"])
    async def test_a_destination_that_is_deleted_in_mid_run(
        self, sandbox: Sandbox, tmp_path: Path, storage: str
    ) -> None:
        """Without the ledger nothing more is submitted, and every row left says why."""
        folder = f"memory://{tmp_path.name}" if storage == "object-store" else str(tmp_path / "x")
        rows = prompts(30)
        async with opened(sandbox, folder, rows, in_flight=1) as made:
            processing = asyncio.create_task(made.process_each(rows))
            await until(lambda: len(made.outcomes) >= 3)
            if storage == "object-store":
                fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)
            else:
                Path(folder).rename(tmp_path / "gone")  # at once, whatever is being written
            if storage == "replaced":
                (Path(folder) / ".nanobanana/ledger").mkdir(parents=True)
            submits = sandbox.stats().submits
            await processing
            left = [outcome for outcome in made.outcomes.values() if not outcome.in_storage]
        assert sandbox.stats().submits <= submits + 1
        assert len(left) >= 20
        assert left[-1].error
        assert left[-1].error.class_name == "DestinationError"
        assert "is gone" in left[-1].error.message


class TestDeadRuns:
    """A run that has died holds nobody up, and what it left in doubt is reported."""

    async def test_reservations_of_a_run_that_has_ended(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """They are not waited for."""
        rows = prompts(8)
        async with another_run(tmp_path) as (_, ledger):
            await reserve(ledger, rows[:4])
        outcomes = await run(sandbox, tmp_path, rows, in_flight=4, patience=PATIENT)
        assert classes(outcomes) == ["UnconfirmedSubmit"] * 4 + [None] * 4

    @pytest.mark.slow
    async def test_a_run_that_was_killed(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Its process is gone: nobody waits for its answers, nor for its lease to be silent."""
        sandbox.add_fault(Fault(kind="latency", on="submit", seconds=600, count=4))
        rows = prompts(12)
        async with killed_while_submitting(sandbox, tmp_path, 12) as process:
            await until(lambda: sandbox.stats().faults_fired.get("latency") == 4)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        outcomes = await run(sandbox, tmp_path, rows, in_flight=4, patience=PATIENT)
        assert Counter(classes(outcomes)) == {"UnconfirmedSubmit": 4, None: 8}

    async def test_a_reservation_of_the_future(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Patience is counted by our own clock, whatever date another machine's has written."""
        rows = prompts(2)
        async with another_run(tmp_path) as (_, ledger):
            await reserve(ledger, rows[:1])
        [file] = (tmp_path / ".nanobanana/ledger").glob("*.1.json")
        entry = json.loads(file.read_bytes())
        del entry["owner"]
        entry["intended_at"] = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
        file.write_text(json.dumps(entry))
        patience = submitting.Patience(unowned=0.3, living=60, poll=0.05)
        outcomes = await run(sandbox, tmp_path, rows, patience=patience)
        assert classes(outcomes) == ["UnconfirmedSubmit", None]

    async def test_waiting_rows_hold_no_place(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """While another run at work is waited for, all other rows are done, and it is said so."""
        rows = prompts(6)
        async with (
            another_run(tmp_path) as (_, ledger),
            opened(sandbox, tmp_path, rows, in_flight=1, patience=PATIENT) as made,
        ):
            reserved = await reserve(ledger, rows[:4])
            await made.catch_up()
            processing = asyncio.create_task(made.process_each(rows))
            await until(lambda: len(made.outcomes) == 2)
            told = f"4 rows wait for {submitting.ANOTHER_RUN}"
            await until(lambda: told in made.submitter.waits.describe())
            for entry in reserved:
                await ledger.release(entry)
            await processing
            assert set(statuses(list(made.outcomes.values()))) == {"landed"}
        assert sandbox.stats().submits == 6

    async def test_rows_that_wait_for_callbacks_hold_no_place(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """With a receiver, the callback of a lost answer is waited for beside the other rows."""
        rows = prompts(6)
        async with another_run(tmp_path) as (_, ledger):
            await reserve(ledger, rows[:4])
        async with opened(
            sandbox,
            tmp_path,
            rows,
            in_flight=1,
            timeout=60,
            callback_url=lambda job_key: f"https://receiver.invalid/{job_key}",
        ) as made:
            processing = asyncio.create_task(made.process_each(rows))
            await until(lambda: len(made.outcomes) == 2)
            said = f"4 rows wait for {submitting.A_CALLBACK}"
            await until(lambda: said in made.submitter.waits.describe())
            for number, entry in enumerate(made.submitter.unanswered):
                task_id = sandbox.add_task(TaskPlan(seconds=0))
                made.submitter.reveal(entry.job_key, task_id)
                assert number < 4
            await processing
            assert set(statuses(list(made.outcomes.values()))) == {"landed"}


class TestLandingOnce:
    """Runs of one batch at the same time fetch each image once."""

    async def test_two_runs_at_once(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """The run that submits a row lands it; the other finds it landed."""
        # Small: drawn on a busy machine, sixteen at once would take longer than a host may.
        sandbox.configure(submitted_task=TaskPlan(seconds=0.3), image_bytes=2_000)
        rows = prompts(30)
        both = await asyncio.gather(*(run(sandbox, tmp_path, rows, patience=PATIENT) for _ in "ab"))
        told = Counter(status for outcomes in both for status in statuses(outcomes))
        assert told == {"landed": 30, "already_landed": 30}
        assert set(sandbox.stats().images_served.values()) == {1}
        assert sandbox.stats().submits == 30

    async def test_two_runs_after_a_dead_one(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """What a run left is landed by one of those that come after it, and so are given tasks."""
        given = sandbox.add_tasks([TaskPlan(seconds=0.3) for _ in range(5)])
        sandbox.configure(submitted_task=TaskPlan(seconds=1000), image_bytes=2_000)
        rows = rows_of(
            *({"prompt": f"Banana {number}"} for number in range(5)),
            *({"task_id": task_id} for task_id in given),
        )
        await run(sandbox, tmp_path, rows[:5], timeout=0.2)
        sandbox.advance(1000)
        both = await asyncio.gather(*(run(sandbox, tmp_path, rows, patience=PATIENT) for _ in "ab"))
        told = Counter(status for outcomes in both for status in statuses(outcomes))
        assert told == {"landed": 10, "already_landed": 10}
        assert set(sandbox.stats().images_served.values()) == {1}

    async def test_a_run_that_dies_while_it_lands(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """The claim of a dead run is taken over."""
        rows = rows_of({"task_id": sandbox.add_task(TaskPlan(seconds=0))})
        async with opened(sandbox, tmp_path, rows, patience=PATIENT) as waiting:
            async with opened(sandbox, tmp_path, rows) as dying:
                assert dying._claims
                assert dying.submitter.leases
                owner = await dying._claims.owner_of(rows[0].task_id or "")
                assert owner == dying.submitter.leases.owner
                processing = asyncio.create_task(waiting.process_each(rows))
                await until(lambda: ANOTHER_LANDS in waiting.submitter.waits.describe())
                assert sandbox.stats().images_served == {}
            await processing
            assert statuses([waiting.outcomes[1]]) == ["landed"]


class TestRefusals:
    """A refusal concerns its row, unless it is about the key or goes on and on."""

    @pytest.mark.parametrize(
        "fault",
        [
            Fault(kind="http-status", on="submit", status=403, count=1),
            Fault(kind="body-code", on="submit", code=403, count=1),
        ],
    )
    async def test_one_403(self, sandbox: Sandbox, tmp_path: Path, fault: Fault) -> None:
        """A firewall that dislikes one prompt fails one row, which a re-run tries again."""
        sandbox.add_fault(fault)
        rows = prompts(10)
        outcomes = await run(sandbox, tmp_path, rows)
        assert sorted(statuses(outcomes)) == ["failed"] + ["landed"] * 9
        again = await run(sandbox, tmp_path, rows)
        assert sorted(statuses(again)) == ["already_landed"] * 9 + ["landed"]
        assert sandbox.stats().submits == 10

    async def test_403_after_403(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Several in a row end the submitting, not the run; nothing is in doubt."""
        sandbox.add_fault(Fault(kind="http-status", on="submit", status=403))
        outcomes = await run(sandbox, tmp_path, prompts(40), in_flight=40)
        assert set(statuses(outcomes)) == {"failed"}
        asked = sandbox.stats().requests["generate"]
        assert asked <= submitting.MAX_FORBIDDEN_IN_A_ROW + 4
        assert outcomes[-1].error
        assert "in a row" in outcomes[-1].error.message or "last" in outcomes[-1].error.message
        assert await entries(tmp_path) == {}

    async def test_credits_that_cannot_be_asked_for(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """After a lost answer, any answer about the credits shows that the service is up."""
        sandbox.add_fault(Fault(kind="http-status", on="submit", status=502, count=1))
        sandbox.add_fault(Fault(kind="not-envelope", on="credit"))
        outcomes = await run(sandbox, tmp_path, prompts(6), in_flight=1)
        assert Counter(classes(outcomes)) == {"UnconfirmedSubmit": 1, None: 5}
