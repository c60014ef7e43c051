"""The ledger and the claims by themselves: what they make of lost answers and of other runs."""

from __future__ import annotations

import asyncio
import errno
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks.batches.claims import open_claims
from nanobanana_blocks.batches.leases import open_leases
from nanobanana_blocks.batches.ledger import FOLDER, Ledger, open_ledger
from nanobanana_blocks.batches.ledger_mark import MARK
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.batches.submitter import ANOTHER_RUN, Patience
from nanobanana_blocks.errors import DestinationError, StorageError
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.backends import LocalFolder
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.batches import opened, prompts, statuses
from tests.support.until import until

WAITS_FOR_EVER = Patience(unowned=1e6, living=1e6, poll=0.05)


async def reserved(ledger: Ledger, row: Row) -> Any:
    assert row.request
    return await ledger.reserve(row, row.request)


async def test_a_reservation_whose_answer_is_lost_is_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: what was written before the answer was lost is known by its content."""
    create = LocalFolder.create

    async def loses_answer(self: LocalFolder, name: str, data: bytes, media_type: str) -> bool:
        await create(self, name, data, media_type)
        raise TimeoutError

    [row] = prompts(1)
    async with open_ledger(StorageLocation(str(tmp_path))) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "create", loses_answer)
            entry, ours = await reserved(ledger, row)
        assert ours
    async with open_ledger(StorageLocation(str(tmp_path))) as other:
        assert await reserved(other, row) == (entry, False)


@pytest.mark.parametrize("settles", [True, False])
async def test_a_creation_that_is_not_settled_yet_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, settles: bool
) -> None:
    """Rule: a creation that is refused, of a file that cannot be read yet, is asked about again."""
    [row] = prompts(1)
    images = StorageLocation(str(tmp_path))
    async with open_ledger(images) as other, await images.child(FOLDER).open() as folder:
        entry, _ = await reserved(other, row)
        ledger = Ledger(folder, first_pause_seconds=0.01)
        reads = 0

        async def not_yet(self: LocalFolder, name: str) -> bytes:
            nonlocal reads
            reads += name == entry.file_name
            if name == entry.file_name and (reads < 5 or not settles):
                raise FileNotFoundError
            return await read(self, name)

        read = LocalFolder.read
        monkeypatch.setattr(LocalFolder, "read", not_yet)
        if settles:
            assert await reserved(ledger, row) == (entry, False)
        else:
            with pytest.raises(StorageError, match=r"\.1\.json can be neither made nor read"):
                await reserved(ledger, row)
        assert reads >= 5


async def test_without_exclusive_creation_an_entry_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: where nothing is exclusive, at least what another run has written is respected."""
    monkeypatch.setattr(LocalFolder, "can_create", False)
    [row] = prompts(1)
    images = StorageLocation(str(tmp_path))
    async with open_ledger(images) as ledger, open_ledger(images) as other:
        assert not ledger.is_exclusive
        entry, ours = await reserved(ledger, row)
        assert ours
        assert await reserved(other, row) == (entry, False)


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_without_exclusive_creation_two_first_runs_share_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_replaced: bool
) -> None:
    """Rule: a mark made at the same time is taken over; a ledger without our entries is another."""
    monkeypatch.setattr(LocalFolder, "can_create", False)
    rows = prompts(4)
    images, folder = StorageLocation(str(tmp_path)), tmp_path / FOLDER
    async with open_ledger(images) as first:
        await reserved(first, rows[0])
        # The other run had looked for the mark before this one made it.
        (folder / MARK).unlink()
        async with open_ledger(images) as second:
            await reserved(second, rows[1])
            if is_replaced:
                (folder / f"{rows[0].key}.1.json").unlink()
                with pytest.raises(DestinationError, match="is gone"):
                    await reserved(first, rows[2])
            else:
                assert (await reserved(first, rows[2]))[1]
                assert (await reserved(second, rows[3]))[1]


async def test_an_entry_under_another_rows_name_is_not_believed(tmp_path: Path) -> None:
    """Rule: a file that was copied, or renamed, tells nothing of the row that it is called by."""
    first, second = prompts(2)
    async with open_ledger(StorageLocation(str(tmp_path))) as ledger:
        entry, _ = await reserved(ledger, first)
        await ledger.submitted(entry, "task-of-the-first")
    file = tmp_path / ".nanobanana/ledger" / entry.file_name
    file.rename(file.with_name(f"{second.key}.1.json"))
    async with open_ledger(StorageLocation(str(tmp_path))) as ledger:
        await ledger.load([first.key, second.key])
        found = ledger.latest(second.key)
        assert found
        assert found.is_unanswered
        assert found.task_id is None


async def test_an_answer_that_cannot_be_written_stays_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: what the file still says, that nothing is known, does not undo what this run knows."""

    async def is_full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    [row] = prompts(1)
    async with open_ledger(StorageLocation(str(tmp_path))) as ledger:
        entry, _ = await reserved(ledger, row)
        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "write", is_full)
            with pytest.raises(StorageError):
                await ledger.submitted(entry, "paid-for")
        await ledger.load([row.key])
        latest = ledger.latest(row.key)
        assert latest
        assert latest.task_id == "paid-for"


async def test_the_last_word_of_a_run_is_read(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: an answer that a run noted just before it ended puts its row out of doubt."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    rows = prompts(1)
    images = StorageLocation(str(tmp_path))
    async with AsyncExitStack() as stack:
        async with open_leases(images) as leases, open_ledger(images, owner=leases.owner) as ended:
            entry, _ = await reserved(ended, rows[0])
            made = await stack.enter_async_context(
                opened(sandbox, tmp_path, rows, patience=WAITS_FOR_EVER)
            )
            await ended.submitted(entry, sandbox.add_task(TaskPlan(seconds=0)))
        await made.process_each(rows)
        assert statuses([made.outcomes[1]]) == ["landed"]
    assert sandbox.submits() == []


async def test_a_row_that_another_run_reserves_first_is_not_submitted(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: what was free when a run began is submitted by whoever reserves it."""
    rows = prompts(1)
    images = StorageLocation(str(tmp_path))
    async with (
        open_leases(images) as leases,
        open_ledger(images, owner=leases.owner) as other,
        opened(sandbox, tmp_path, rows) as made,
    ):
        await reserved(other, rows[0])
        await made.process_each(rows)
        [outcome] = made.outcomes.values()
        assert outcome.error
        assert outcome.error.class_name == "UnconfirmedSubmit"
    assert sandbox.stats().submits == 0


async def test_the_answer_of_the_living_is_waited_for(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a row that a run at work has reserved is in doubt only when that run says so."""
    rows = prompts(1)
    images = StorageLocation(str(tmp_path))
    async with (
        open_leases(images) as leases,
        open_ledger(images, owner=leases.owner) as other,
        opened(sandbox, tmp_path, rows, patience=WAITS_FOR_EVER) as made,
    ):
        entry, _ = await reserved(other, rows[0])
        processing = asyncio.create_task(made.process_each(rows))
        await until(lambda: ANOTHER_RUN in made.submitter.waits.describe() or made.outcomes)
        await other.submitted(entry, sandbox.add_task(TaskPlan(seconds=0)))
        await processing
        assert statuses([made.outcomes[1]]) == ["landed"]
    assert sandbox.stats().submits == 0


async def test_reservations_of_the_dead_are_not_waited_for(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: however long the living are waited for, a run that has ended is not."""
    rows = prompts(1)
    images = StorageLocation(str(tmp_path))
    async with open_leases(images) as leases, open_ledger(images, owner=leases.owner) as ended:
        await reserved(ended, rows[0])
    async with opened(sandbox, tmp_path, rows, patience=WAITS_FOR_EVER) as made:
        await made.process_each(rows)
        [outcome] = made.outcomes.values()
        assert outcome.error
        assert outcome.error.class_name == "UnconfirmedSubmit"


async def test_the_claim_of_the_dead_is_taken_over_and_that_of_the_living_is_not(
    tmp_path: Path,
) -> None:
    """Rule: a task is landed by the living run that claimed it first, else by who comes next."""
    images = StorageLocation(str(tmp_path))
    async with open_leases(images, same_answer_seconds=0) as ours:
        async with open_leases(images) as theirs:
            async with open_claims(images, theirs, exclusive=True) as claims:
                assert await claims.owner_of("t") == theirs.owner
            async with open_claims(images, ours, exclusive=True) as claims:
                assert await claims.owner_of("t") == theirs.owner
        async with open_claims(images, ours, exclusive=True) as claims:
            assert await claims.owner_of("t") == ours.owner
