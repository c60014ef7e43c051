"""Sync and async alike: what works in both, and what is refused loudly where it cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import State, flow, unmapped

from flows.land_images import land_images, land_images_sync
from nanobanana_blocks import GenerateRequest, LandingReport, PollPolicy, TaskStatus
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.tasks import (
    get_task_details,
    get_task_details_sync,
    land_task,
    land_task_sync,
    submit_generation,
    submit_generation_sync,
    wait_for_task,
    wait_for_task_sync,
)

pytestmark = pytest.mark.usefixtures("prefect_api")

SOON = PollPolicy.fixed(0.05)
ASYNC_TASKS = [get_task_details, wait_for_task, land_task, submit_generation]


def test_a_sync_flow_from_prompt_to_image(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: with the twins, a sync flow submits, waits and lands as an async one does."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0))

    @flow
    def from_prompt() -> list[str]:
        task_id = submit_generation_sync(GenerateRequest(prompt="A banana"))
        assert get_task_details_sync(task_id).task_id == task_id
        assert wait_for_task_sync(task_id, poll=SOON).status is TaskStatus.SUCCESS
        return [image.path for image in land_task_sync(task_id, str(tmp_path), poll=SOON).images]

    [path] = from_prompt()
    assert Path(path).stat().st_size > 0


@pytest.mark.parametrize("called", ASYNC_TASKS, ids=lambda task: str(task.name))
def test_an_async_task_in_a_sync_flow_is_refused(sandbox: Sandbox, called: Any) -> None:
    """Rule: what would do nothing, and end well, fails and names its twin."""

    @flow
    def mistaken() -> None:
        called("a1b2")

    state: State[None] = mistaken(return_state=True)
    assert state.is_failed()
    assert f"Call {called.fn.__name__}_sync" in (state.message or "")
    assert not sandbox.stats().requests


def test_a_sync_flow_may_submit_async_tasks(sandbox: Sandbox) -> None:
    """Rule: `.submit()` and `.map()` run async tasks in a sync flow; they are not refused."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * 3)

    @flow
    def mapping() -> list[str]:
        first = wait_for_task.submit(task_ids[0], poll=SOON).result()
        others = wait_for_task_sync.map(task_ids[1:], poll=unmapped(SOON)).result()
        return [details.task_id for details in (first, *others)]

    assert mapping() == task_ids


async def test_a_sync_twin_in_async_code_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a twin never stops an event loop; its error names what to await."""
    with pytest.raises(InvalidInput, match="Await land_images instead"):
        land_images_sync(["a1b2"], str(tmp_path))
    with pytest.raises(InvalidInput, match="Await wait_for_task instead"):
        wait_for_task_sync("a1b2")


def test_a_flow_called_in_a_script(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a script without an event loop runs the flow by its twin."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * 2)
    report = land_images_sync(task_ids, str(tmp_path), poll=SOON)
    assert isinstance(report, LandingReport)
    assert report.counts["landed"] == 2
    assert land_images_sync.__doc__ == land_images.fn.__doc__
