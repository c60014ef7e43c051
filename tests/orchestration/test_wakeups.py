"""Callbacks wake a waiting flow through Prefect's event stream."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.land_images import land_images
from nanobanana_blocks import PollPolicy
from nanobanana_blocks.orchestration.observability.events import CALLBACK_RECEIVED, resource_of
from nanobanana_blocks.orchestration.observability.wakeups import waking_on_callbacks
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
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


async def test_without_a_server_nothing_is_subscribed() -> None:
    """Where no server is set there is no stream to wait for, and the landing goes ahead."""
    with temporary_settings({PREFECT_API_URL: None}), disable_run_logger():
        before = asyncio.all_tasks()
        async with waking_on_callbacks(landing=None):  # type: ignore[arg-type]  # never touched
            assert asyncio.all_tasks() == before
