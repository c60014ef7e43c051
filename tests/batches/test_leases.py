"""Who is at work and who is dead, as the small files of runs tell."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nanobanana_blocks import errors
from nanobanana_blocks.batches.leases import FOLDER, Leases, Liveness, open_leases
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from tests.support.until import until

HOLDS_A_LEASE = """
import asyncio, sys
from nanobanana_blocks.batches.leases import open_leases
from nanobanana_blocks.storage.destination import StorageLocation

async def main():
    async with open_leases(StorageLocation(sys.argv[1]), owner="other"):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@asynccontextmanager
async def opened(folder: Path, owner: str, *, silent: float = 3600) -> AsyncIterator[Leases]:
    async with open_leases(
        StorageLocation(str(folder)),
        owner=owner,
        beat_seconds=0.05,
        silent_seconds=silent,
        same_answer_seconds=0,
    ) as leases:
        yield leases


def hide_process(folder: Path, owner: str) -> bytes:
    """Make a lease that of another machine's run, which is never rewritten; return its content."""
    file = folder / FOLDER / f"{owner}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"owner": owner, "beaten_at": "2031-01-01T00:00:00Z", "process": "elsewhere 1 1"}
    file.write_text(json.dumps(content))
    return file.read_bytes()


async def test_a_run_at_work_and_its_end(tmp_path: Path) -> None:
    """A lease is rewritten while its run lives, and gone when it has ended."""
    async with opened(tmp_path, "watcher") as leases:
        assert await leases.liveness("other") is Liveness.ENDED
        async with opened(tmp_path, "other"):
            first = await leases.read("other")
            assert await leases.liveness("other") is Liveness.AT_WORK

            async def is_rewritten() -> bool:
                return await leases.read("other") != first

            await until(is_rewritten)
            assert await leases.liveness("other") is Liveness.AT_WORK
        assert await leases.liveness("other") is Liveness.ENDED
        assert await leases.liveness(leases.owner) is Liveness.AT_WORK
    assert list((tmp_path / FOLDER).iterdir()) == []


async def test_silence_is_death(tmp_path: Path) -> None:
    """A lease that is not rewritten is a dead run's, whatever date another clock has put in it."""
    hide_process(tmp_path, "other")
    async with opened(tmp_path, "watcher", silent=0.5) as leases:
        assert await leases.liveness("other") is Liveness.AT_WORK

        async def is_dead() -> bool:
            return await leases.liveness("other") is Liveness.DEAD

        await until(is_dead)


async def test_a_read_that_fails_is_not_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the storage does not answer, nobody is taken for dead, and then it is waited anew."""
    hide_process(tmp_path, "other")
    async with opened(tmp_path, "watcher", silent=0.3) as leases:
        await leases.liveness("other")
        read = Destination.read

        async def fail(*_: object) -> bytes:
            raise errors.StorageError("out of reach")

        monkeypatch.setattr(Destination, "read", fail)
        await asyncio.sleep(0.3)
        assert await leases.liveness("other") is Liveness.UNKNOWN
        monkeypatch.setattr(Destination, "read", read)
        assert await leases.liveness("other") is Liveness.AT_WORK


async def test_a_killed_process_is_dead_at_once(tmp_path: Path) -> None:
    """On the same machine, a process that is gone is not waited for until its lease is silent."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_LEASE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout
        assert (await asyncio.to_thread(holder.stdout.readline)).strip() == "held"
        async with opened(tmp_path, "watcher") as leases:
            assert await leases.liveness("other") is Liveness.AT_WORK
            holder.kill()
            await asyncio.to_thread(holder.wait)
            assert await leases.liveness("other") is Liveness.DEAD
    finally:
        holder.kill()
        holder.wait()


async def test_a_lease_that_cannot_be_understood(tmp_path: Path) -> None:
    """A damaged lease is that of a run at work until it has been silent for long enough."""
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "other.json").write_bytes(b"\0\0")
    async with opened(tmp_path, "watcher") as leases:
        assert await leases.liveness("other") is Liveness.AT_WORK
        assert await leases.read("other") is None


async def test_how_far_a_run_has_come(tmp_path: Path) -> None:
    """A run may say how many rows it has settled."""
    async with (
        opened(tmp_path, "watcher") as leases,
        open_leases(StorageLocation(str(tmp_path)), owner="other", done=lambda: 7),
    ):
        assert await leases.done_by("other") == 7
        assert await leases.done_by("watcher") is None
