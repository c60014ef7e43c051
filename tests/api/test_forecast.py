"""Estimates of how long a batch takes, from what was learned of generation times."""

from __future__ import annotations

import pytest

from nanobanana_blocks import Generate2Request, GenerateProRequest, GenerateRequest
from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.forecast import Forecast, expected_seconds, kind_of_request
from nanobanana_blocks.api.kinds import kind_of
from nanobanana_blocks.api.learning import KindSchedules
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.summary import LearnedSummary

POLL = PollPolicy(requests_per_second=1000)
NOTHING = LearnedSummary()


def learned(seconds: float, tasks: int = 60, kind: str = "generate") -> LearnedSummary:
    """What is learned from tasks that each took about so long."""
    schedules = KindSchedules(POLL, seed=1)
    schedule = schedules.of(kind)
    for _ in range(tasks):
        schedule.observe_pending(seconds * 0.1, seconds * 0.9)
        schedule.observe_completion(seconds * 0.9, seconds * 1.1)
    return schedules.learned()


def estimate(summary: LearnedSummary, count: int, **options: object) -> float:
    settings = {"depth": 1, "in_flight": 200, "poll": POLL, "timeout": 900.0} | options
    return expected_seconds(Forecast(summary), {"generate": count}, 0, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "operation", "parameters"),
    [
        (GenerateRequest(prompt="a"), "nanobanana_TEXTTOIAMGE", {}),
        (
            GenerateRequest(prompt="a", image_urls=("https://h/i.png",)),
            "nanobanana_IMAGETOIAMGE",
            {"imageUrls": ["https://h/i.png"]},
        ),
        (Generate2Request(prompt="a"), "nano-banana-2_1k", {}),
        (Generate2Request(prompt="a", resolution="4K"), "nano-banana-2_4k", {}),
        (GenerateProRequest(prompt="a", resolution="2K"), "nano-banana-pro_2k", {}),
    ],
)
def test_kinds_are_those_that_are_learned(
    request_: GenerationRequest, operation: str, parameters: dict[str, object]
) -> None:
    """Rule: a request's kind is the one that record-info's answer about its task has."""
    details = TaskDetails(
        task_id="a", status=TaskStatus.SUCCESS, operation_type=operation, parameters=parameters
    )
    assert kind_of_request(request_) == kind_of(details)


def test_what_was_learned_counts() -> None:
    """Rule: quick tasks make a short estimate, slow ones a long one; one kind speaks for itself."""
    quick, slow = learned(5), learned(100)
    assert 3 < Forecast(quick).seconds("generate", 900) < 8
    assert 60 < Forecast(slow).seconds("generate", 900) < 160
    assert estimate(quick, 10) < estimate(NOTHING, 10) < estimate(slow, 10)
    assert Forecast(slow).polls > 0


def test_the_narrowest_place_decides() -> None:
    """Rule: the budget of requests, the rows in flight and the longest chain each bound it."""
    base = estimate(NOTHING, 1000)
    assert estimate(NOTHING, 1000, in_flight=10) > 5 * base
    slow = PollPolicy(requests_per_second=1)
    assert estimate(NOTHING, 1000, poll=slow) > 1000 * (2 + slow.requests_per_task)
    assert estimate(NOTHING, 10, depth=5) > 1.5 * estimate(NOTHING, 10)


def test_nothing_to_do_takes_no_time() -> None:
    """Rule: a batch that has landed is estimated at nothing."""
    assert estimate(NOTHING, 0) == 0


def test_nobody_is_waited_for_longer_than_the_timeout() -> None:
    """Rule: the time of a task is bounded by what is waited for it."""
    assert Forecast(learned(100)).seconds("generate", 10) <= 10
    assert estimate(learned(100), 1, timeout=10.0) <= 11


def test_polls_at_a_fixed_interval_are_counted() -> None:
    """Rule: with a fixed interval, a task costs as many requests as fit into its time."""
    often = PollPolicy(mode="fixed", interval_seconds=0.1, requests_per_second=1)
    seldom = PollPolicy(mode="fixed", interval_seconds=60, requests_per_second=1)
    assert estimate(NOTHING, 100, poll=often) > 10 * estimate(NOTHING, 100, poll=seldom)


def test_a_service_that_works_on_one_after_the_other() -> None:
    """Rule: where tasks take turns, they take as long as all their turns together."""
    one = learned(10)
    serial = LearnedSummary(one.pool, one.kinds, learned(10).pool, serial=3.0)
    assert estimate(serial, 100) > 500
    assert estimate(LearnedSummary(one.pool, one.kinds, one.pool, 0.0), 100) < 100
