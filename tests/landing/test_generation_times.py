"""What a run has learned of generation times is kept beside the images for the next."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from nanobanana_blocks import NanoBananaClient, PollPolicy, errors
from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.batches.opening import open_batch
from nanobanana_blocks.landing.generation_times import FILE, FOLDER, remembering
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from tests.support.batches import prompts
from tests.support.until import until

POLICY = PollPolicy(min_interval_seconds=0.05, requests_per_second=1000)


def new_client() -> NanoBananaClient:
    return NanoBananaClient("key", "http://127.0.0.1:9")


def learn(client: NanoBananaClient, kind: str = "generate") -> None:
    for _ in range(30):
        client.waiter(POLICY).planner.schedules.of(kind).observe_completion(40.0, 50.0)


def first_delay(client: NanoBananaClient, kind: str = "generate") -> float:
    return client.waiter(POLICY).planner.schedules.of(kind).next_delay(0.0)


@pytest.fixture
def images(tmp_path: Path) -> StorageLocation:
    return StorageLocation(str(tmp_path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / FOLDER / FILE


async def test_a_run_goes_on_from_what_the_last_has_learned(images: StorageLocation) -> None:
    """The next run polls as the last one would have gone on."""
    async with new_client() as first, new_client() as second:
        unlearned = first_delay(first)
        async with remembering(images, first, POLICY):
            learn(first)
        async with remembering(images, second, POLICY):
            assert first_delay(second) > 1.3 * unlearned


async def test_it_is_written_now_and_then(images: StorageLocation, file: Path) -> None:
    """A long run writes what it has learned before it ends; one that learned nothing, nothing."""
    async with new_client() as client, remembering(images, client, POLICY, every=0.01):
        await asyncio.sleep(0.1)
        assert not file.exists()
        learn(client)
        await until(file.exists)


async def test_runs_at_the_same_time_add_up(images: StorageLocation, file: Path) -> None:
    """A run that ends later adds to what another has written meanwhile."""
    async with (
        new_client() as first,
        new_client() as second,
        remembering(images, first, POLICY),
    ):
        learn(first, "a")
        async with remembering(images, second, POLICY):
            learn(second, "b")
    assert set(json.loads(file.read_text())["kinds"]) == {"a", "b"}


def polls_kept(folder: Path) -> float:
    return float(json.loads((folder / FOLDER / FILE).read_text())["all"]["polls"])


class Kept:
    """A store in this process."""

    def __init__(self) -> None:
        self.summary = LearnedSummary()

    async def read(self) -> LearnedSummary:
        return self.summary

    async def write(self, summary: LearnedSummary) -> None:
        self.summary = summary


async def test_a_new_destination_has_what_the_account_has_learned(tmp_path: Path) -> None:
    """What knows most is gone on from, and each place adds what it has not seen, once."""
    account = Kept()
    first, second = (StorageLocation(str(tmp_path / name)) for name in ("first", "second"))
    async with new_client() as client:
        unlearned = first_delay(client)
        async with remembering(first, client, POLICY, account=account, every=0.01):
            learn(client)
            await until(lambda: not account.summary.is_empty)
            await asyncio.sleep(0.1)
        learned = account.summary.pool.polls
        assert polls_kept(tmp_path / "first") == pytest.approx(learned, abs=0.1)
    async with new_client() as client:
        async with remembering(second, client, POLICY, account=account):
            assert first_delay(client) > 1.3 * unlearned
            learn(client, "another")
        added = polls_kept(tmp_path / "second")
        assert account.summary.pool.polls == pytest.approx(learned + added, rel=0.1)
        assert account.summary.kinds.keys() == {"generate", "another"}


async def test_a_cancelled_run_does_not_wait_for_it(images: StorageLocation, file: Path) -> None:
    """Whoever is being stopped leaves out what may be lost."""
    async with new_client() as client:
        learn(client)

        async def cancelled() -> None:
            async with remembering(images, client, POLICY):
                learn(client)
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await cancelled()
    assert not file.exists()


@pytest.mark.parametrize(
    "policy", [PollPolicy.fixed(5), POLICY.model_copy(update={"remember": False})]
)
async def test_it_can_be_turned_off(
    images: StorageLocation, file: Path, policy: PollPolicy
) -> None:
    """A policy that does not learn, or is not to remember, leaves no file."""
    async with new_client() as client, remembering(images, client, policy):
        client.waiter(policy).planner.schedules.of("a").observe_completion(4.0, 5.0)
    assert not file.exists()


@pytest.mark.parametrize("method", ["read", "publish"])
async def test_storage_that_fails_costs_only_learning(
    images: StorageLocation, file: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is not failed by what could not be read or written of this."""

    async def fail(*_: object) -> None:
        raise errors.DestinationError("full")

    monkeypatch.setattr(Destination, method, fail)
    async with new_client() as client, remembering(images, client, POLICY):
        learn(client)
    assert not file.exists()


async def test_a_batch_remembers(sandbox: Sandbox, images: StorageLocation, file: Path) -> None:
    """A batch leaves what it has learned beside its ledger."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0.3))
    poll = POLICY.model_copy(update={"max_interval_seconds": 0.2})
    rows = prompts(3)
    async with (
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
        open_batch(
            client,
            images,
            "rows.jsonl",
            "digest",
            rows,
            timeout=60,
            in_flight=3,
            poll=poll,
            log=logging.getLogger(__name__),
        ) as batch,
    ):
        await batch.process_each(rows)
    assert {outcome.status.value for outcome in batch.outcomes.values()} == {"landed"}
    assert json.loads(file.read_text())["all"]["polls"] > 0
