"""A service that works on one task after the other is recognised, and polled in turn."""

import math
from itertools import accumulate
from random import Random
from statistics import fmean

import pytest

from nanobanana_blocks import PollPolicy, TaskDetails, TaskStatus
from nanobanana_blocks.api.planner import PollPlanner
from nanobanana_blocks.api.wait_state import PollAgain, Wait

GENERATING = TaskDetails(task_id="t", status=TaskStatus.GENERATING)
DONE = TaskDetails(task_id="t", status=TaskStatus.SUCCESS, result_urls=("https://h/i.png",))


def wait_for_all(
    planner: PollPlanner, ends: list[float], submitted: list[float] | None = None
) -> tuple[list[float], list[int]]:
    """Wait for tasks as the waiter does; the lag and the polls of each."""
    starts = submitted or [0.0] * len(ends)
    waits = [Wait(str(n), started=start, timeout=1e6) for n, start in enumerate(starts)]
    due = dict(enumerate(starts))
    lags = [0.0] * len(ends)
    while due:
        number = min(due, key=due.__getitem__)
        now, wait = due.pop(number), waits[number]
        wait.begin_poll(now)
        is_done = now >= ends[number]
        verdict, others = planner.after_answer(wait, DONE if is_done else GENERATING, now)
        if isinstance(verdict, PollAgain):
            longest = PollPolicy().max_interval_seconds * (3 if planner.is_serial else 1)
            assert now < verdict.scheduled <= now + longest + 1e-6
            due[number] = verdict.scheduled
        else:
            planner.forget(wait)
            lags[number] = now - ends[number]
        for other in others:
            if int(other.task_id) in due:
                other.scheduled = due[int(other.task_id)] = planner.next_due(other, now)
    return lags, [wait.polls for wait in waits]


def times(median: float, count: int, seed: int, deviation: float = 0.25) -> list[float]:
    random = Random(seed)
    return [median * math.exp(random.gauss(0, deviation)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_a_queue_is_recognised(seed: int) -> None:
    """Where tasks end one after the other, each is found soon after its turn has ended.

    Those far back are polled less often meanwhile.
    """
    planner = PollPlanner(PollPolicy(), seed=seed)
    lags, polls = wait_for_all(planner, list(accumulate(times(33, 30, seed))))
    assert planner.is_serial
    assert fmean(lags[5:]) < 3
    assert fmean(polls) < 15


@pytest.mark.parametrize("spacing", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(4))
def test_independent_tasks_are_not_taken_for_a_queue(spacing: float, seed: int) -> None:
    """Tasks that are worked on at once, also if submitted one after the other, are no queue."""
    planner = PollPlanner(PollPolicy(), seed=seed)
    submitted = [spacing * number for number in range(60)]
    ends = [start + time for start, time in zip(submitted, times(18, 60, seed, 0.5), strict=True)]
    lags, polls = wait_for_all(planner, ends, submitted)
    assert not planner.is_serial
    assert fmean(lags) < 4
    assert fmean(polls) < 7


@pytest.mark.parametrize("seed", range(4))
def test_tasks_that_end_in_the_order_of_their_submits_are_no_queue(seed: int) -> None:
    """Where each takes as long as the first, which had nobody before it, they do not wait."""
    planner = PollPlanner(PollPolicy(), seed=seed)
    submitted = [5.0 * number for number in range(60)]
    ends = [start + time for start, time in zip(submitted, times(40, 60, seed, 0.05), strict=True)]
    wait_for_all(planner, ends, submitted)
    assert not planner.is_serial


@pytest.mark.parametrize(
    ("median", "spacing", "deviation"), [(1.8, 0.1, 0.5), (1.8, 0.3, 0.2), (5.0, 0.5, 0.5)]
)
def test_a_stream_of_fast_tasks_is_no_queue(
    median: float, spacing: float, deviation: float
) -> None:
    """Tasks that are found in the order in which they are polled need not have ended in it."""
    planner = PollPlanner(PollPolicy(), seed=1)
    submitted = [spacing * number for number in range(200)]
    took = times(median, 200, 1, deviation)
    ends = [start + time for start, time in zip(submitted, took, strict=True)]
    lags, _ = wait_for_all(planner, ends, submitted)
    assert fmean(lags) < 6
    assert max(lags) < 30


def test_a_queue_that_ends_is_noticed() -> None:
    """When the service stops to work on one task after the other, the schedule follows."""
    planner = PollPlanner(PollPolicy(), seed=1)
    wait_for_all(planner, times(18, 60, 3, 0.5))
    wait_for_all(planner, list(accumulate(times(33, 20, 1))))
    assert planner.is_serial
    wait_for_all(planner, times(18, 60, 2, 0.5))
    assert not planner.is_serial
    lags, _ = wait_for_all(planner, times(18, 60, 4, 0.5))
    assert fmean(lags) < 6


def test_a_queue_is_remembered() -> None:
    """A later run knows of the queue from the start."""
    first, second = PollPlanner(PollPolicy(), seed=1), PollPlanner(PollPolicy(), seed=1)
    wait_for_all(first, list(accumulate(times(33, 30, 1))))
    second.go_on_from(first.learned())
    assert second.is_serial


def test_a_wait_that_is_given_up_holds_no_turn() -> None:
    """When the first in the queue is given up, the next one's turn begins."""
    planner = PollPlanner(PollPolicy(), seed=1)
    waits = [Wait(str(number), started=0.0, timeout=1e6) for number in range(3)]
    for wait in waits:
        wait.begin_poll(0.0)
        planner.after_answer(wait, GENERATING, 0.1)
    planner.forget(waits[0])
    planner.forget(waits[0])
    waits[1].begin_poll(30.0)
    verdict, others = planner.after_answer(waits[1], DONE, 30.1)
    assert not isinstance(verdict, PollAgain)
    assert waits[0] not in others
