"""When to ask next about a generation task: the user's policy and the schedule that follows it.

This module computes; it sends nothing, waits for nothing, reads no clock and holds no list of
tasks. Whoever waits also enforces ``PollPolicy.requests_per_second``.

Theory: the mean time from done to detected, for a given mean number of polls, is least when the
density of polls is proportional to the square root of the hazard rate (J. B. Keller, "Optimum
checking schedules for systems subject to random failure", Management Science 21(3), 1974). The
hazard rate, the chance per second that a pending task finishes, is learned from every poll: a
completion and a task found still pending are evidence alike.
"""

import itertools
import math
import random
from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanobanana_blocks.api.forms import describe_briefly
from nanobanana_blocks.api.hazard import (
    OLDEST_SECONDS,
    STUCK,
    WIDTHS,
    Evidence,
    HazardLearner,
    Ramp,
)

DOCUMENTED_INTERVAL_SECONDS = 30.0
"""The polling interval that the API's documentation recommends."""


class PollPolicy(BaseModel):
    """How often to ask about generation tasks that are not finished yet.

    Where the longest or shortest interval does not allow ``requests_per_task``, the intervals
    win. Nothing here limits how long a task is waited for.

    Example:
        ```python
        from nanobanana_blocks import PollPolicy

        PollPolicy()                          # learns generation times, 4 polls a task
        PollPolicy(requests_per_task=8)       # detects sooner, asks twice as often
        PollPolicy.fixed(10)                  # every 10 seconds
        PollPolicy.documented()               # every 30 seconds, as the API recommends
        ```

    Raises:
        pydantic.ValidationError: a field is unknown, out of its bounds, or the longest interval
            is below the shortest.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra=describe_briefly,
    )

    mode: Literal["adaptive", "fixed"] = Field(
        default="adaptive",
        title="Mode",
        description=(
            "Adaptive learns how long generation takes and asks when a task is likely to have "
            "finished; fixed asks at one interval."
        ),
    )
    requests_per_task: float = Field(
        default=4.0,
        ge=1.0,
        le=100.0,
        title="Requests per task",
        description=(
            "Adaptive mode: the average number of times to ask about a task after the first time."
        ),
    )
    jitter: float = Field(
        default=0.1,
        ge=0.0,
        le=0.5,
        title="Jitter",
        description=(
            "How far an interval may stray at random, as a share of it, so that tasks submitted "
            "together are not all asked about at once; fixed intervals do not stray."
        ),
    )
    min_interval_seconds: float = Field(
        default=0.5,
        ge=0.01,
        le=3600.0,
        title="Shortest interval (seconds)",
        description="Adaptive mode: the shortest time between two polls of the same task.",
    )
    max_interval_seconds: float = Field(
        default=60.0,
        ge=0.01,
        le=3600.0,
        title="Longest interval (seconds)",
        description=(
            "Adaptive mode: the longest time between two polls of the same task; up to three times "
            "that for a task that has others before it, where the service works on one after the "
            "other."
        ),
    )
    interval_seconds: float = Field(
        default=DOCUMENTED_INTERVAL_SECONDS,
        ge=0.01,
        le=3600.0,
        title="Interval (seconds)",
        description="Fixed mode: the time between two polls of the same task.",
    )
    requests_per_second: float = Field(
        default=20.0,
        gt=0.0,
        le=1000.0,
        title="Requests per second",
        description="The most requests to the API a second, submits among them, of all tasks.",
    )

    remember: bool = Field(
        default=True,
        title="Remember",
        description=(
            "Adaptive mode: keep what was learned about generation times beside the images, and "
            "as a Prefect variable, for the runs that follow."
        ),
    )

    @model_validator(mode="after")
    def _intervals_in_order(self) -> "PollPolicy":
        if self.max_interval_seconds < self.min_interval_seconds:
            raise ValueError(
                f"max_interval_seconds ({self.max_interval_seconds:g}) is below "
                f"min_interval_seconds ({self.min_interval_seconds:g})."
            )
        return self

    @classmethod
    def fixed(cls, seconds: float) -> "PollPolicy":
        """A poll every ``seconds`` seconds, whatever is observed."""
        return cls(mode="fixed", interval_seconds=seconds)

    @classmethod
    def documented(cls) -> "PollPolicy":
        """A poll every 30 seconds, the interval that the API's documentation recommends."""
        return cls.fixed(DOCUMENTED_INTERVAL_SECONDS)


class Schedule(Protocol):
    """Says when to poll a task next, and is told what every poll found."""

    def next_delay(self, elapsed_seconds: float, /) -> float: ...
    def jittered(self, seconds: float, /) -> float: ...
    def observe_pending(self, previous_poll: float | None, this_poll: float, /) -> None: ...
    def observe_completion(self, previous_poll: float | None, this_poll: float, /) -> None: ...


class PollSchedule:
    """Says when to poll each generation task of one kind next, and learns from every poll.

    It is meant for one event loop and is not safe to share between threads.

    Ages are seconds since the generation task was created, or else since the wait for it began.
    The first poll is due at once and teaches nothing, since the task may have finished long before;
    every later poll is reported with ``observe_pending`` or ``observe_completion``.

    Args:
        policy: what the user wants.
        seed: makes the jitter and the learning repeatable.
        pool: the schedule of all kinds together, from which this one borrows until it has seen
            enough; it is to be told of the same polls, after this one.
        remembered: what was learned before.
    """

    def __init__(
        self,
        policy: PollPolicy,
        *,
        seed: int | None = None,
        pool: "PollSchedule | None" = None,
        remembered: Evidence | None = None,
    ) -> None:
        self._policy = policy
        # Randomness here spreads polls; it guards nothing.
        self._random = random.Random(seed)  # noqa: S311
        self._pool = pool
        self._learner = HazardLearner(remembered)
        self._polls = 0
        self._polls_since_plan = 0
        self._plan = self._make_plan(scale=1.0)

    @property
    def polls(self) -> int:
        """Polls that it was told of."""
        return self._polls

    def next_delay(self, elapsed_seconds: float) -> float:
        """Seconds from now until the next poll of a task that is ``elapsed_seconds`` old.

        Always positive and finite, and in adaptive mode within the policy's shortest and longest
        interval.
        """
        if self._policy.mode == "fixed":
            return self._policy.interval_seconds
        age = min(max(0.0, elapsed_seconds), OLDEST_SECONDS)
        return self._plan.delay(age, steps=self._stray())

    @property
    def median(self) -> float:
        """The age in seconds that half of the tasks reach."""
        return self.median_after(0.0)

    def median_after(self, age: float) -> float:
        """In how many seconds half of the tasks that are pending at an age have ended."""
        age = min(max(0.0, age), OLDEST_SECONDS)
        hazard = self._plan.hazard
        return min(hazard.inverse(hazard.at(age) + math.log(2)), OLDEST_SECONDS) - age

    def hazard_at(self, age: float) -> float:
        """The chance per second that a task which is pending at an age ends."""
        age = min(max(0.0, age), OLDEST_SECONDS)
        return self._plan.hazard.slope_at(age)

    def jittered(self, seconds: float) -> float:
        """``seconds`` strayed at random by the policy's jitter, for waits after an error."""
        return seconds * self._stray()

    def observe_pending(self, previous_poll: float | None, this_poll: float) -> None:
        """Learn that a task was still pending at ``this_poll``.

        Args:
            previous_poll: age in seconds at the poll before; None if there was none.
            this_poll: age in seconds at this poll.

        The first poll, and an interval that is empty, reversed, not finite or beyond the oldest
        age that is planned for (a little over an hour), teach nothing and are no error.
        """
        self._observe(previous_poll, this_poll, completed=False)

    def observe_completion(self, previous_poll: float | None, this_poll: float) -> None:
        """Learn that a task, pending at ``previous_poll``, was done or failed at ``this_poll``.

        Arguments are those of ``observe_pending``. When the task finished between the two polls
        is left open.
        """
        self._observe(previous_poll, this_poll, completed=True)

    def learned(self) -> Evidence:
        """What was learned since the start, or since ``go_on_from``."""
        return self._learner.fresh()

    def go_on_from(self, together: Evidence) -> None:
        """Go on from what this schedule has ``learned``, merged with what others have."""
        self._learner.take(together)
        self._polls_since_plan = 0
        self._plan = self._make_plan(self._plan.scale)

    def _observe(self, previous_poll: float | None, this_poll: float, *, completed: bool) -> None:
        if self._policy.mode == "fixed" or previous_poll is None:
            return
        if not (0.0 <= previous_poll < this_poll < math.inf and previous_poll < OLDEST_SECONDS):
            return
        start, end = previous_poll, min(this_poll, OLDEST_SECONDS)
        pool = self._pool._plan.hazard if self._pool else None
        self._learner.weigh(start, end, completed=completed, pool=pool)
        # Where nearly all tasks were to end in between, when they did is only our own belief.
        weight = min(1.0, self._plan.chance_to_pass(start, end) / _SURE_TO_END)
        if completed:
            end = self._plan.completion_between(start, end, quantile=self._random.random())
        self._learner.count(start, end, completed=completed, weight=weight)
        self._polls += 1
        self._polls_since_plan += 1
        if self._polls_since_plan >= max(4, min(256, self._polls // 16)):
            self._polls_since_plan = 0
            self._plan = self._make_plan(self._plan.scale)

    def _make_plan(self, scale: float) -> "_Plan":
        pool = self._pool._plan.hazards if self._pool else None
        return _Plan(self._learner.hazards(pool), self._policy, scale)

    def _stray(self) -> float:
        return 1.0 + self._policy.jitter * (2.0 * self._random.random() - 1.0)


class _Plan:
    """Where to poll, given the hazard: steps of equal size along a curve over age.

    The curve's slope is the density of polls, proportional to the square root of the hazard and
    scaled so that the expected number of polls is the policy's.

    Attributes:
        scale: The scale, or one that it is looked for from until it is needed.
    """

    def __init__(self, hazards: Sequence[float], policy: PollPolicy, scale: float) -> None:
        self.hazards = hazards
        self.hazard = Ramp(hazards)
        self._shortest = policy.min_interval_seconds
        self._longest = policy.max_interval_seconds
        self._requests = policy.requests_per_task
        self._polls = Ramp([math.sqrt(h * w) for h, w in zip(hazards, WIDTHS, strict=True)])
        self.scale = scale
        self._is_scaled = False

    def delay(self, age: float, *, steps: float) -> float:
        """Seconds from ``age`` until ``steps`` more polls are due."""
        if not self._is_scaled:
            self._is_scaled = True
            self._fit_scale()
        done = max(_HEAD_START, self.scale * self._polls.at(age))
        due = self._polls.inverse((done + steps) / self.scale)
        return min(max(due - age, self._shortest), self._longest)

    def chance_to_pass(self, start: float, end: float) -> float:
        """The chance that a task pending at ``start`` is so at ``end``."""
        return math.exp(self.hazard.at(start) - self.hazard.at(end))

    def completion_between(self, start: float, end: float, *, quantile: float) -> float:
        """The age by which ``quantile`` of the completions between two ages have happened."""
        before = self.hazard.at(start)
        chance = -math.expm1(before - self.hazard.at(end))
        age = self.hazard.inverse(before - math.log1p(-chance * quantile))
        return min(max(age, start), end)

    def _fit_scale(self) -> None:
        lowest, highest = _LOG_SCALES
        for attempt in itertools.count():
            tried = math.log(self.scale)
            excess = math.log(self._expected_polls() / self._requests)
            lowest, highest = (tried, highest) if excess < 0 else (lowest, tried)
            if abs(excess) < _PRECISION or highest - lowest < _STEP:
                return
            # The number of polls grows about as the scale does, so that few attempts mostly do.
            guess = tried - excess
            if attempt > 4 or not lowest < guess < highest:
                guess = (lowest + highest) / 2
            self.scale = math.exp(guess)

    def _expected_polls(self) -> float:
        """The mean number of polls after the first, detection included; a few times the policy's
        stand for more."""
        expected, age, pending = 0.0, 0.0, 1.0
        while pending > 2 * STUCK and expected < 4 * self._requests:
            expected += pending
            delay = self.delay(age, steps=1.0)
            if delay >= self._longest and pending < _FEW:
                break  # polls at the longest interval of the few tasks that may never end
            age += delay
            pending = math.exp(-self.hazard.at(age))
        return expected


# Between which logarithms the scale is looked for.
_LOG_SCALES = (-12.0, 12.0)

# How far the number of polls may be from the policy's, as a share of it.
_PRECISION = 0.0005

# How close two logarithms of scales are that count as one: there, the number of polls has a step.
_STEP = 0.004

# A share of tasks so small that it says nothing of how often the others are polled.
_FEW = 0.02

# A poll interval through which fewer tasks than this share are to pass counts less.
_SURE_TO_END = 0.3

# The square root law is asymptotic. Where the first poll comes this share of a step later, it is
# within 1 % of the exact optimum even at four polls (measured by benchmarks/polling.py).
_HEAD_START = 0.25
