"""What an account's runs have learned of generation times is a Prefect variable."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.variables import Variable

from nanobanana_blocks import NanoBananaClient, PollPolicy
from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.errors import StorageError
from nanobanana_blocks.flows.run_batch import run_batch
from nanobanana_blocks.orchestration.account_memory import AccountMemory, memory_name
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.storage_kinds import free_port

ACCOUNT = "a-test"


@pytest.fixture
def memory(prefect_api: str) -> Iterator[AccountMemory]:
    yield AccountMemory(ACCOUNT)
    for name in (ACCOUNT, "default"):
        Variable.unset(memory_name(name))


async def learned(kinds: int, completions: int = 30) -> LearnedSummary:
    async with NanoBananaClient("key", "http://127.0.0.1:9") as client:
        planner = client.waiter(PollPolicy(requests_per_second=1000)).planner
        for kind in range(kinds):
            for number in range(completions + kind):
                seconds = 20 + kind + 17 * number % 23
                planner.schedules.of(f"kind {kind}").observe_completion(0.9 * seconds, seconds)
        return planner.learned()


async def test_it_is_read_as_it_was_written(memory: AccountMemory) -> None:
    """And written again in place of what was there."""
    assert (await memory.read()).is_empty
    summary = await learned(2)
    for _ in range(2):
        await memory.write(summary)
        assert (await memory.read()).kinds.keys() == summary.kinds.keys()


async def test_what_is_too_much_for_a_variable_keeps_what_is_known_best(
    memory: AccountMemory,
) -> None:
    """Prefect takes 5,000 characters."""
    await memory.write(await learned(24))
    kinds = (await memory.read()).kinds
    assert 5 <= len(kinds) <= 24
    assert "kind 23" in kinds


BOMB = base64.b64encode(zlib.compress(bytes(10_000_000), 9)).decode()[:4900]


@pytest.mark.parametrize("value", ["mine", 7, {"a": 1}, "bWluZQ==", BOMB])
async def test_a_variable_that_is_something_else_is_ignored(
    memory: AccountMemory, value: Any
) -> None:
    """It costs a little learning, and nothing else."""
    await Variable.aset(memory_name(ACCOUNT), value, overwrite=True)
    assert (await memory.read()).is_empty


async def test_prefect_out_of_reach_is_told_in_time() -> None:
    """Whoever asked goes on without it."""
    started = time.monotonic()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        with pytest.raises((StorageError, TimeoutError)):
            await AccountMemory(ACCOUNT).read()
        with pytest.raises((StorageError, TimeoutError)):
            await AccountMemory(ACCOUNT).write(LearnedSummary())
    assert time.monotonic() - started < 60


async def test_a_batch_leaves_what_it_has_learned_to_the_account(
    sandbox: Sandbox, tmp_path: Path, memory: AccountMemory
) -> None:
    """Of the credentials that it was told to use."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0.3))
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text('{"prompt": "A banana"}\n')
    poll = PollPolicy(min_interval_seconds=0.05, max_interval_seconds=0.2)
    await run_batch(str(manifest), str(tmp_path / "images"), poll=poll)
    assert not (await AccountMemory("default").read()).is_empty
