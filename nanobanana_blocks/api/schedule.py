"""When to ask next about a generation task: the user's policy and the schedule that follows it.

This module computes; it sends nothing, waits for nothing, reads no clock and holds no list of
tasks. Whoever waits also enforces ``PollPolicy.requests_per_second``.

Theory: the mean time from done to detected, for a given mean number of looks, is least when the
density of looks is proportional to the square root of the hazard rate (J. B. Keller, "Optimum
checking schedules for systems subject to random failure", Management Science 21(3), 1974). The
hazard rate, the chance per second that a pending task finishes, is learned from every look: a
completion and a task found still pending are evidence alike.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import add, mul, sub
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

DOCUMENTED_INTERVAL_SECONDS = 30.0
"""The polling interval that the API's documentation recommends."""

ASSUMED_MEDIAN_SECONDS = 18.0
"""Median generation time before anything is observed (assumed; p99 is then 64 s)."""

ASSUMED_LOG_DEVIATION = 0.5453
"""Standard deviation of the logarithm of generation times before anything is observed."""


class PollPolicy(BaseModel):
    """How often to ask about generation tasks that are not finished yet.

    Where the longest or shortest interval does not allow ``requests_per_task``, the intervals
    win. Nothing here limits how long a task is waited for.

    Example:
        ```python
        from nanobanana_blocks import PollPolicy

        PollPolicy()                          # learns generation times, 4 looks a task
        PollPolicy(requests_per_task=8)       # detects sooner, asks twice as often
        PollPolicy.fixed(10)                  # every 10 seconds
        PollPolicy.documented()               # every 30 seconds, as the API recommends
        ```

    Raises:
        pydantic.ValidationError: a field is unknown, out of its bounds, or the longest interval
            is below the shortest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
        description="Adaptive mode: the shortest time between two looks at the same task.",
    )
    max_interval_seconds: float = Field(
        default=60.0,
        ge=0.01,
        le=3600.0,
        title="Longest interval (seconds)",
        description="Adaptive mode: the longest time between two looks at the same task.",
    )
    interval_seconds: float = Field(
        default=DOCUMENTED_INTERVAL_SECONDS,
        ge=0.01,
        le=3600.0,
        title="Interval (seconds)",
        description="Fixed mode: the time between two looks at the same task.",
    )
    requests_per_second: float = Field(
        default=20.0,
        gt=0.0,
        le=1000.0,
        title="Requests per second",
        description="The most requests a second, shared by all tasks that are waited for.",
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
        """A look every ``seconds`` seconds, whatever is observed."""
        return cls(mode="fixed", interval_seconds=seconds)

    @classmethod
    def documented(cls) -> "PollPolicy":
        """A look every 30 seconds, the interval that the API's documentation recommends."""
        return cls.fixed(DOCUMENTED_INTERVAL_SECONDS)


class PollSchedule:
    """Says when to look next at each generation task, and learns from every look.

    One schedule serves every task of a kind, as all of them teach it. It is meant for one event
    loop and is not safe to share between threads.

    Ages are seconds since the wait for a task began. The first look is due at once and teaches
    nothing, since the task may have finished long before; every later look is reported with
    ``observe_pending`` or ``observe_completion``.

    Args:
        policy: what the user wants.
        seed: makes the jitter and the learning repeatable.
    """

    def __init__(self, policy: PollPolicy, *, seed: int | None = None) -> None:
        self._policy = policy
        # Randomness here spreads looks; it guards nothing.
        self._random = random.Random(seed)  # noqa: S311
        self._looks = 0
        self._looks_since_plan = 0
        if policy.mode == "adaptive":
            self._learner = _HazardLearner()
            self._plan = _Plan(self._learner.hazards(), policy)

    def next_delay(self, elapsed_seconds: float) -> float:
        """Seconds from now until the next look at a task that was waited for ``elapsed_seconds``.

        Always positive and finite, and in adaptive mode within the policy's shortest and longest
        interval.
        """
        if self._policy.mode == "fixed":
            return self._policy.interval_seconds
        age = min(max(0.0, elapsed_seconds), _OLDEST)
        return self._plan.delay(age, steps=self._stray())

    def jittered(self, seconds: float) -> float:
        """``seconds`` strayed at random by the policy's jitter, for waits after an error."""
        return seconds * self._stray()

    def observe_pending(self, previous_look: float | None, this_look: float) -> None:
        """Learn that a task was still pending at ``this_look``.

        Args:
            previous_look: age in seconds at the look before; None if there was none.
            this_look: age in seconds at this look.

        The first look, and an interval that is empty, reversed, not finite or beyond the oldest
        age that is planned for (a little over an hour), teach nothing and are no error.
        """
        self._observe(previous_look, this_look, completed=False)

    def observe_completion(self, previous_look: float | None, this_look: float) -> None:
        """Learn that a task, pending at ``previous_look``, was done or failed at ``this_look``.

        Arguments are those of ``observe_pending``. When the task finished between the two looks
        is left open.
        """
        self._observe(previous_look, this_look, completed=True)

    def _observe(self, previous_look: float | None, this_look: float, *, completed: bool) -> None:
        if self._policy.mode == "fixed" or previous_look is None:
            return
        if not (0.0 <= previous_look < this_look < math.inf and previous_look < _OLDEST):
            return
        start, end = previous_look, min(this_look, _OLDEST)
        self._learner.weigh(start, end, completed=completed)
        if completed:
            end = self._plan.completion_between(start, end, quantile=self._random.random())
        self._learner.count(start, end, completed=completed)
        self._looks += 1
        self._looks_since_plan += 1
        if self._looks_since_plan >= max(4, min(256, self._looks // 16)):
            self._looks_since_plan = 0
            self._plan = _Plan(self._learner.hazards(), self._policy)

    def _stray(self) -> float:
        return 1.0 + self._policy.jitter * (2.0 * self._random.random() - 1.0)


class _Plan:
    """Where to look, given the hazard: steps of equal size along a curve over age.

    The curve's slope is the density of looks, proportional to the square root of the hazard and
    scaled so that the expected number of looks is the policy's.
    """

    def __init__(self, hazards: Sequence[float], policy: PollPolicy) -> None:
        self._shortest = policy.min_interval_seconds
        self._longest = policy.max_interval_seconds
        self._hazard = _Ramp(hazards)
        self._looks = _Ramp([math.sqrt(h * w) for h, w in zip(hazards, _WIDTHS, strict=True)])
        self._scale = 1.0
        self._fit_scale(policy.requests_per_task)

    def delay(self, age: float, *, steps: float) -> float:
        """Seconds from ``age`` until ``steps`` more looks are due."""
        done = max(_HEAD_START, self._scale * self._looks.at(age))
        due = self._looks.inverse((done + steps) / self._scale)
        return min(max(due - age, self._shortest), self._longest)

    def completion_between(self, start: float, end: float, *, quantile: float) -> float:
        """The age by which ``quantile`` of the completions between two ages have happened."""
        before = self._hazard.at(start)
        chance = -math.expm1(before - self._hazard.at(end))
        age = self._hazard.inverse(before - math.log1p(-chance * quantile))
        return min(max(age, start), end)

    def _fit_scale(self, requests: float) -> None:
        lowest, highest = -12.0, 12.0
        for _ in range(16):
            middle = (lowest + highest) / 2
            self._scale = math.exp(middle)
            if self._expects_at_least(requests):
                highest = middle
            else:
                lowest = middle

    def _expects_at_least(self, requests: float) -> bool:
        """Whether the mean number of looks after the first, detection included, is that large."""
        expected, age, pending = 0.0, 0.0, 1.0
        while pending > 2 * _STUCK and expected < requests:
            expected += pending
            age += self.delay(age, steps=1.0)
            pending = math.exp(-self._hazard.at(age))
        return expected >= requests


class _Ramp:
    """A continuous, strictly increasing, piecewise linear function of age, zero at age zero."""

    def __init__(self, rises: Sequence[float]) -> None:
        self._heights = [0.0, *accumulate(rises)]
        self._slopes = [rise / width for rise, width in zip(rises, _WIDTHS, strict=True)]

    def at(self, age: float) -> float:
        index = _bin_of(age)
        return self._heights[index] + (age - _EDGES[index]) * self._slopes[index]

    def inverse(self, height: float) -> float:
        index = min(bisect_right(self._heights, height), _BINS) - 1
        return _EDGES[index] + (height - self._heights[index]) / self._slopes[index]


class _HazardLearner:
    """Estimates, for every bin of ages, the hazard that a task accumulates on its way through it.

    Two layers. A grid of lognormal distributions is weighed by the likelihood of every look, which
    lets few completions, even if they are only the fastest of a large batch, speak for all ages.
    Above it each bin counts its completions and the passages through it (a look interval that
    covers half a bin is half a passage); the counts correct the lognormals where they are wrong,
    as with two kinds of work of different length. Both layers take a task that is still pending
    as evidence for the ages it has lived through, and for no more.
    """

    def __init__(self) -> None:
        self._evidence = [0.0] * len(_lognormals().log_priors)
        self._completions = [0.0] * _BINS
        self._passages = [0.0] * _BINS

    def weigh(self, start: float, end: float, *, completed: bool) -> None:
        """Weigh the lognormals by a look at ``end`` of a task that was pending at ``start``."""
        lognormals = _lognormals()
        survived = map(sub, lognormals.hazards_at(start), lognormals.hazards_at(end))
        likelihoods = map(_log_chance_of_end, survived) if completed else survived
        self._evidence = [
            _EVIDENCE_KEPT * old + new for old, new in zip(self._evidence, likelihoods, strict=True)
        ]

    def count(self, start: float, end: float, *, completed: bool) -> None:
        """Count a task that was pending from ``start`` to ``end``, and whether it ended there."""
        first, last = _bin_of(start), _bin_of(end)
        for index in range(first, last + 1):
            covered = min(end, _EDGES[index + 1]) - max(start, _EDGES[index])
            self._passages[index] += covered / _WIDTHS[index]
        if completed:
            self._completions[last] += 1.0

    def hazards(self) -> list[float]:
        """The cumulative hazard of each bin: a Gamma-Poisson posterior mean."""
        self._fade_old_counts()
        return [
            (completions + _PRIOR_PASSAGES * expected) / (passages + _PRIOR_PASSAGES)
            for completions, passages, expected in zip(
                self._completions, self._passages, self._lognormal_hazards(), strict=True
            )
        ]

    def _lognormal_hazards(self) -> list[float]:
        lognormals = _lognormals()
        logs = list(map(add, self._evidence, lognormals.log_priors))
        largest = max(logs)
        weights = [math.exp(log - largest) for log in logs]
        survival = [sum(map(mul, weights, row)) for row in lognormals.survival]
        return [math.log(before / after) for before, after in pairwise(survival)]

    def _fade_old_counts(self) -> None:
        for index, passages in enumerate(self._passages):
            if passages > _REMEMBERED_PASSAGES:
                self._passages[index] = _REMEMBERED_PASSAGES
                self._completions[index] *= _REMEMBERED_PASSAGES / passages


class _Lognormals(NamedTuple):
    """The grid of candidates: a column for each candidate, a row for each edge of the bins."""

    log_priors: list[float]
    survival: list[list[float]]
    hazards: list[list[float]]

    def hazards_at(self, age: float) -> list[float]:
        """The hazard that each candidate has accumulated at ``age``."""
        index = _bin_of(age)
        share = (age - _EDGES[index]) / _WIDTHS[index]
        rows = zip(self.hazards[index], self.hazards[index + 1], strict=True)
        return [low + share * (high - low) for low, high in rows]


@lru_cache(maxsize=1)
def _lognormals() -> _Lognormals:
    grid = [(octaves, shape) for octaves in _OCTAVES for shape in _SHAPES]
    survival = [
        [
            _survival(
                edge,
                median=ASSUMED_MEDIAN_SECONDS * 2**octaves,
                deviation=ASSUMED_LOG_DEVIATION * shape,
            )
            for octaves, shape in grid
        ]
        for edge in _EDGES
    ]
    return _Lognormals(
        log_priors=[_log_prior(octaves, shape) for octaves, shape in grid],
        survival=survival,
        hazards=[[-math.log(chance) for chance in row] for row in survival],
    )


def _log_prior(octaves: float, shape: float) -> float:
    """Trusts the assumed lognormal, distrusts others by distance, and an odd shape the most.

    The fastest tasks of a large batch tell little about the shape, so it must not follow them.
    """
    if octaves == 0 and shape == 1:
        return 0.0
    return -4.0 - 2.0 * abs(octaves) - 4.0 * abs(math.log(shape))


def _survival(age: float, *, median: float, deviation: float) -> float:
    """The chance that a task is pending at ``age``: lognormal, but for tasks that get stuck."""
    if age == 0:
        return 1.0
    lognormal = math.erfc(math.log(age / median) / deviation / math.sqrt(2)) / 2
    return (_STUCK + (1 - _STUCK) * lognormal) * math.exp(-_LEAST_HAZARD * age)


def _log_chance_of_end(log_chance_of_survival: float) -> float:
    return math.log(_LEAST_CHANCE - math.expm1(log_chance_of_survival))


def _bin_of(age: float) -> int:
    return min(bisect_right(_EDGES, age), _BINS) - 1


# Ages are cut into quarter octaves from a quarter of a second to a little over an hour.
_EDGES = [0.0, *(2 ** (quarter / 4) for quarter in range(-8, 49))]
_WIDTHS = [end - start for start, end in pairwise(_EDGES)]
_BINS = len(_WIDTHS)
_OLDEST = _EDGES[-1]

# Candidate medians in octaves from the assumed one, candidate deviations as a share of it.
_OCTAVES = [third / 3 for third in range(-12, 16)]
_SHAPES = [0.4, 0.63, 1.0, 1.6, 2.5]

# Share of tasks that may never finish: bounds what a stuck task can teach.
_STUCK = 0.001

# Per second; keeps every ramp strictly increasing.
_LEAST_HAZARD = 1e-6

# Keeps the logarithm finite where an interval is too short for floating point.
_LEAST_CHANCE = 1e-12

# The weight that evidence for the lognormals keeps from one look to the next.
_EVIDENCE_KEPT = 1 - 1 / 500

# Passages that the lognormals are worth against the counts of one bin.
_PRIOR_PASSAGES = 40.0

# Passages through one bin after which its older counts fade, so that a change shows.
_REMEMBERED_PASSAGES = 100.0

# The square root law is asymptotic. Where the first look comes this share of a step later, it is
# within 1 % of the exact optimum even at four looks (measured by benchmarks/polling.py).
_HEAD_START = 0.25
