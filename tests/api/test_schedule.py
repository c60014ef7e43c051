"""The polling schedule: what a policy accepts, when it polls, and what it learns."""

import json
import math
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nanobanana_blocks.api.hazard import ASSUMED_LOG_DEVIATION, ASSUMED_MEDIAN_SECONDS
from nanobanana_blocks.api.schedule import PollPolicy, PollSchedule

ADAPTIVE = PollPolicy()
STEADY = PollPolicy(jitter=0.0)

any_number = st.floats(allow_nan=True, allow_infinity=True)
any_poll = st.tuples(st.none() | any_number, any_number, st.booleans())


def generation_times(median: float, count: int, *, seed: int = 1) -> list[float]:
    random = Random(seed)
    return [median * math.exp(random.gauss(0, ASSUMED_LOG_DEVIATION)) for _ in range(count)]


def poll_ages(schedule: PollSchedule, *, until: float) -> list[float]:
    ages = [0.0]
    while ages[-1] < until:
        ages.append(ages[-1] + schedule.next_delay(ages[-1]))
    return ages[1:]


def follow(schedule: PollSchedule, finished: float, *, learn: bool) -> int:
    """Poll one task until it is found finished; the number of polls."""
    polls, previous, age = 0, 0.0, 0.0
    while age < finished:
        previous, age = age, age + schedule.next_delay(age)
        polls += 1
        if learn and age < finished:
            schedule.observe_pending(previous, age)
    if learn:
        schedule.observe_completion(previous, age)
    return polls


def taught(median: float, tasks: int, policy: PollPolicy = STEADY) -> PollSchedule:
    schedule = PollSchedule(policy, seed=1)
    for finished in generation_times(median, tasks):
        follow(schedule, finished, learn=True)
    return schedule


def mean_polls(schedule: PollSchedule, median: float) -> float:
    times = generation_times(median, 3000, seed=2)
    return sum(follow(schedule, finished, learn=False) for finished in times) / len(times)


class TestPolicy:
    def test_documented_is_fixed_at_thirty_seconds(self) -> None:
        """The documented policy polls every 30 seconds exactly, at any age."""
        schedule = PollSchedule(PollPolicy.documented())
        assert poll_ages(schedule, until=120) == [30.0, 60.0, 90.0, 120.0]

    def test_fixed_is_exact_whatever_was_observed(self) -> None:
        """A fixed interval neither strays nor learns, even outside the adaptive bounds."""
        schedule = PollSchedule(PollPolicy.fixed(0.05))
        for finished in generation_times(40, 50):
            schedule.observe_completion(0.0, finished)
        assert {schedule.next_delay(age) for age in (0.0, 0.3, 17.0, 1e9)} == {0.05}

    def test_default_is_adaptive(self) -> None:
        """A policy without arguments is adaptive, four polls a task, 20 requests a second."""
        assert ADAPTIVE.mode == "adaptive"
        assert (ADAPTIVE.requests_per_task, ADAPTIVE.requests_per_second) == (4.0, 20.0)

    @pytest.mark.parametrize("policy", [ADAPTIVE, PollPolicy.fixed(7), PollPolicy.documented()])
    def test_round_trip_through_json(self, policy: PollPolicy) -> None:
        """A policy that went through JSON is equal, hashes alike and schedules alike."""
        copy = PollPolicy.model_validate_json(policy.model_dump_json())
        assert copy == policy
        assert hash(copy) == hash(policy)
        assert poll_ages(PollSchedule(copy, seed=3), until=99) == poll_ages(
            PollSchedule(policy, seed=3), until=99
        )

    def test_frozen(self) -> None:
        """A policy cannot be changed once it is made."""
        with pytest.raises(ValidationError, match="frozen"):
            ADAPTIVE.jitter = 0.2  # type: ignore[misc]  # the rule under test

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("mode", "eager"),
            ("requests_per_task", 0.5),
            ("requests_per_task", math.nan),
            ("requests_per_second", 0),
            ("requests_per_second", math.inf),
            ("interval_seconds", 0),
            ("interval_seconds", -1),
            ("jitter", 0.9),
            ("min_interval_seconds", 0),
            ("max_interval_seconds", 1e9),
            ("intervall_seconds", 3),
        ],
    )
    def test_bad_value_is_refused_by_field(self, field: str, value: Any) -> None:
        """A value out of bounds, and an unknown field, is refused by the name of the field."""
        with pytest.raises(ValidationError) as caught:
            PollPolicy.model_validate({field: value})
        assert [error["loc"] for error in caught.value.errors()] == [(field,)]

    def test_fixed_refuses_zero(self) -> None:
        """There is no policy that asks without a pause."""
        with pytest.raises(ValidationError, match="interval_seconds"):
            PollPolicy.fixed(0)

    def test_intervals_out_of_order_name_both_fields(self) -> None:
        """The longest interval cannot be below the shortest, and the message names both."""
        with pytest.raises(ValidationError, match=r"max_interval_seconds \(1\).*min_interval_sec"):
            PollPolicy(min_interval_seconds=2, max_interval_seconds=1)

    def test_form(self) -> None:
        """Every field has a title and a sentence, and a form needs no choice between objects."""
        schema = PollPolicy.model_json_schema()
        for field in schema["properties"].values():
            assert field["title"]
            assert field["description"].endswith(".")
        text = json.dumps(schema)
        assert not any(word in text for word in ("anyOf", "oneOf", "allOf", "$ref"))


class TestDelays:
    @given(polls=st.lists(any_poll, max_size=40), ages=st.lists(any_number, min_size=1))
    def test_any_history_gives_a_usable_delay(
        self, polls: list[tuple[float | None, float, bool]], ages: list[float]
    ) -> None:
        """Whatever was observed and whatever the age, a delay is within the policy's bounds."""
        schedule = PollSchedule(ADAPTIVE, seed=1)
        for previous, this, completed in polls:
            if completed:
                schedule.observe_completion(previous, this)
            else:
                schedule.observe_pending(previous, this)
        for age in ages:
            delay = schedule.next_delay(age)
            assert ADAPTIVE.min_interval_seconds <= delay <= ADAPTIVE.max_interval_seconds

    @given(
        requests=st.floats(1, 100),
        shortest=st.floats(0.01, 60),
        stretch=st.floats(1, 60),
        age=st.floats(0, 1e7),
    )
    def test_bounds_hold_for_any_policy(
        self, requests: float, shortest: float, stretch: float, age: float
    ) -> None:
        """The shortest and the longest interval win over the requests asked for."""
        longest = shortest * stretch
        policy = PollPolicy(
            requests_per_task=requests, min_interval_seconds=shortest, max_interval_seconds=longest
        )
        assert shortest <= PollSchedule(policy, seed=1).next_delay(age) <= longest

    @pytest.mark.parametrize("requests", [2.5, 4.0, 8.0])
    def test_polls_are_as_many_as_asked_for(self, requests: float) -> None:
        """On the assumed times, the mean number of polls after the first is the policy's."""
        schedule = PollSchedule(PollPolicy(requests_per_task=requests), seed=1)
        assert mean_polls(schedule, ASSUMED_MEDIAN_SECONDS) == pytest.approx(requests, rel=0.06)

    def test_polls_are_dense_where_tasks_finish(self) -> None:
        """Polls are closest where a pending task is likeliest to finish, wider before and after."""
        ages = poll_ages(PollSchedule(STEADY, seed=1), until=300)
        gaps = [end - start for start, end in pairwise([0.0, *ages])]
        around_median = min(gaps)
        assert gaps[0] > 2 * around_median
        assert gaps[-1] > 2 * around_median

    def test_same_seed_same_schedule(self) -> None:
        """A seed makes the jitter and the learning repeatable."""
        first, second = taught(30, 40, ADAPTIVE), taught(30, 40, ADAPTIVE)
        assert poll_ages(first, until=200) == poll_ages(second, until=200)

    def test_jitter_spreads_tasks_submitted_together(self) -> None:
        """Tasks that start together are asked about at different times, unless jitter is zero."""
        jittered, steady = PollSchedule(ADAPTIVE, seed=1), PollSchedule(STEADY, seed=1)
        assert len({jittered.next_delay(0.0) for _ in range(100)}) == 100
        assert len({steady.next_delay(0.0) for _ in range(100)}) == 1

    @given(seconds=st.floats(0.01, 1000))
    def test_jittered_stays_within_its_share(self, seconds: float) -> None:
        """A jittered wait strays by no more than the policy's share."""
        strayed = PollSchedule(PollPolicy.documented(), seed=1).jittered(seconds)
        assert 0.9 * seconds <= strayed <= 1.1 * seconds


class TestLearning:
    @pytest.mark.parametrize(("median", "sooner"), [(6, True), (54, False)])
    def test_first_poll_moves_towards_what_was_seen(self, median: float, sooner: bool) -> None:
        """Short tasks bring the next poll of a new task forward, long ones put it off."""
        assumed = PollSchedule(STEADY, seed=1).next_delay(0.0)
        learned = taught(median, 50).next_delay(0.0)
        assert (learned < assumed / 1.5) if sooner else (learned > assumed * 1.5)

    @pytest.mark.parametrize("median", [2, 9, 36, 120])
    def test_polls_return_to_what_was_asked_for(self, median: float) -> None:
        """Once times are learned, the mean number of polls is the policy's again."""
        schedule = taught(median, 400)
        assert mean_polls(schedule, median) == pytest.approx(4.0, rel=0.15)

    def test_a_change_is_followed(self) -> None:
        """Old evidence fades: after times triple, new tasks outweigh as many old ones."""
        schedule = taught(12, 400)
        before = schedule.next_delay(0.0)
        for finished in generation_times(36, 400, seed=3):
            follow(schedule, finished, learn=True)
        assert schedule.next_delay(0.0) > 2 * before
        assert mean_polls(schedule, 36) == pytest.approx(4.0, rel=0.2)

    def test_fast_finishers_of_a_batch_do_not_fool(self) -> None:
        """The first completions of a large batch are its fastest, and the pending ones say so."""
        times = generation_times(ASSUMED_MEDIAN_SECONDS, 1000)
        censored, naive = PollSchedule(STEADY, seed=1), PollSchedule(STEADY, seed=1)
        first_poll = censored.next_delay(0.0)
        for finished in times:
            if finished <= first_poll:
                censored.observe_completion(0.0, first_poll)
                naive.observe_completion(0.0, first_poll)
            else:
                censored.observe_pending(0.0, first_poll)
        assert mean_polls(censored, ASSUMED_MEDIAN_SECONDS) == pytest.approx(4.0, rel=0.15)
        assert naive.next_delay(0.0) < first_poll / 2

    def test_pending_tasks_alone_put_polls_off(self) -> None:
        """Many tasks that outlive the assumed times teach, though none has finished."""
        schedule = PollSchedule(STEADY, seed=1)
        before = schedule.next_delay(0.0)
        for _ in range(200):
            schedule.observe_pending(0.0, 40.0)
        assert schedule.next_delay(0.0) > 1.5 * before

    def test_two_kinds_of_work_are_told_apart(self) -> None:
        """With tasks of 8 s and of 60 s, polls are rarer between the two than around each."""
        random = Random(1)
        schedule = PollSchedule(STEADY, seed=1)
        for _ in range(600):
            finished = random.choice((8.0, 60.0)) * math.exp(random.gauss(0, 0.2))
            follow(schedule, finished, learn=True)
        ages = poll_ages(schedule, until=90)
        gaps = {start: end - start for start, end in pairwise(ages)}
        between = max(gap for start, gap in gaps.items() if 10 < start < 40)
        around = min(gap for start, gap in gaps.items() if 50 < start < 80)
        assert between > 2 * around

    def test_stuck_tasks_are_shrugged_off(self) -> None:
        """A few tasks that never finish do not spoil the schedule for the others."""
        schedule = taught(ASSUMED_MEDIAN_SECONDS, 400)
        for _ in range(4):
            for start, end in pairwise(range(0, 900, 30)):
                schedule.observe_pending(float(start), float(end))
        assert mean_polls(schedule, ASSUMED_MEDIAN_SECONDS) == pytest.approx(4.0, rel=0.25)

    @pytest.mark.parametrize(
        ("previous", "this"),
        [(None, 40.0), (0.0, 0.0), (9.0, 3.0), (-1.0, 5.0), (0.0, math.inf), (5e3, 6e3)],
    )
    def test_polls_that_teach_nothing(self, previous: float | None, this: float) -> None:
        """A first poll, and an interval that cannot be, leave the schedule as it was."""
        schedule = PollSchedule(STEADY, seed=1)
        before = poll_ages(schedule, until=200)
        for _ in range(50):
            schedule.observe_completion(previous, this)
            schedule.observe_pending(previous, this)
        assert poll_ages(schedule, until=200) == before
