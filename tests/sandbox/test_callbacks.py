"""The sandbox's callbacks: their shapes, retries and weather."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from nanobanana_blocks.sandbox import (
    CallbackWeather,
    Sandbox,
    TaskPlan,
)
from tests.support.sandbox_api import DONE, Receiver, envelope, result_url, submit, wait_for_bodies
from tests.support.until import block_until


def test_callbacks_of_generate(sandbox: Sandbox, api: httpx.Client, receiver: Receiver) -> None:
    """On completion the documented shape is posted, with the code of the outcome."""
    sandbox.configure(submitted_task=DONE)
    task_id = submit(api, callBackUrl=receiver.url)["data"]["taskId"]
    wait_for_bodies(receiver, 1)
    body = receiver.bodies[0]
    assert body["code"] == 200
    assert body["data"] == {
        "taskId": task_id,
        "info": {"resultImageUrl": result_url(api, task_id)},
    }
    for number, (code, sent) in enumerate([(400, 400), (500, 500), (999, 501)], start=2):
        sandbox.add_task(
            TaskPlan(
                seconds=0,
                outcome="generate-failed",
                error_code=code,
                callback_url=receiver.url,
            )
        )
        wait_for_bodies(receiver, number)
        assert receiver.bodies[-1]["code"] == sent
        assert receiver.bodies[-1]["data"]["info"]["resultImageUrl"] == ""


def test_callbacks_in_the_shape_of_record_info(
    sandbox: Sandbox, api: httpx.Client, receiver: Receiver
) -> None:
    """generate-2 posts the record, with code 200 even for a failure; pro posts as generate does."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0, outcome="generate-failed"))
    task_id = submit(api, "generate-2", callBackUrl=receiver.url)["data"]["taskId"]
    wait_for_bodies(receiver, 1)
    assert receiver.bodies[0] == envelope(api, task_id)
    assert receiver.bodies[0]["code"] == 200
    assert receiver.bodies[0]["data"]["successFlag"] == 3
    task_id = submit(api, "generate-pro", callBackUrl=receiver.url)["data"]["taskId"]
    wait_for_bodies(receiver, 2)
    assert receiver.bodies[1]["code"] == 501
    assert receiver.bodies[1]["data"] == {"taskId": task_id, "info": {"resultImageUrl": ""}}


def test_callbacks_wait_for_completion(sandbox: Sandbox, receiver: Receiver) -> None:
    """Nothing is posted before the task is done."""
    sandbox.add_task(TaskPlan(seconds=50, callback_url=receiver.url))
    sandbox.add_task(TaskPlan(seconds=None, callback_url=receiver.url))
    assert sandbox.stats().callbacks_pending == 1
    assert receiver.bodies == []
    sandbox.advance(50)
    wait_for_bodies(receiver, 1)


def test_callbacks_are_tried_four_times(sandbox: Sandbox, receiver: Receiver) -> None:
    """After a failed post come three retries; a 200 ends them."""
    sandbox.configure(speed=1000.0)
    receiver.statuses = [500, 202, 302, 200]
    sandbox.add_task(TaskPlan(seconds=0, callback_url=receiver.url))
    block_until(lambda: sandbox.stats().callbacks_delivered == 1)
    assert sandbox.stats().callbacks_attempted == 4
    receiver.statuses = [500] * 4
    sandbox.add_task(TaskPlan(seconds=0, callback_url=receiver.url))
    block_until(lambda: sandbox.stats().callbacks_given_up == 1)
    assert sandbox.stats().callbacks_attempted == 8
    assert len(receiver.bodies) == 8


@pytest.mark.parametrize(
    "url", ["", "https://example.invalid/hook", "http://invalid", "ftp://x.test/", "http://[::1"]
)
def test_dummy_callback_addresses_are_never_contacted(
    sandbox: Sandbox, api: httpx.Client, url: str
) -> None:
    """An address that only satisfies the schema is accepted and skipped."""
    sandbox.configure(submitted_task=DONE)
    assert submit(api, callBackUrl=url)["code"] == 200
    stats = sandbox.stats()
    assert (stats.callbacks_skipped, stats.callbacks_pending, stats.callbacks_attempted) == (
        1,
        0,
        0,
    )


def test_callback_weather(sandbox: Sandbox, receiver: Receiver) -> None:
    """Duplicates, losses and forgeries come as asked; forgeries are lies about real tasks."""
    weathers = {
        "twice": CallbackWeather(duplicates=1),
        "lost": CallbackWeather(losses=1),
        "forged": CallbackWeather(forgeries=1),
    }
    sandbox.add_tasks(
        [
            TaskPlan(task_id=name, seconds=0, callback_url=receiver.url, callback_weather=weather)
            for name, weather in weathers.items()
        ]
    )
    block_until(lambda: sandbox.stats().callbacks_delivered == 5)
    ids = Counter(receiver.ids())
    assert (ids["twice"], ids["lost"], ids["forged"], len(ids)) == (2, 0, 2, 3)
    forged = [b for b in receiver.bodies if "forged.invalid" in str(b)]
    assert len(forged) == 2
    stats = sandbox.stats()
    assert (stats.callbacks_lost, stats.callbacks_forged) == (1, 2)


def test_callbacks_out_of_order(sandbox: Sandbox, receiver: Receiver) -> None:
    """Random delays shuffle callbacks, the same way for the same seed."""
    sandbox.configure(callback_weather=CallbackWeather(max_delay_seconds=0.2))
    names = [f"t{n}" for n in range(20)]
    plans = [TaskPlan(task_id=name, seconds=0, callback_url=receiver.url) for name in names]
    sandbox.add_tasks(plans)
    wait_for_bodies(receiver, 20)
    assert sorted(receiver.ids()) == sorted(names)
    assert receiver.ids() != names
