"""What is known of how long generation takes: the hazard of each age, learned from every poll.

The hazard rate is the chance per second that a pending task ends. This module computes; it knows
no policy and plans no poll.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import add, mul, sub
from typing import NamedTuple

ASSUMED_MEDIAN_SECONDS = 18.0
"""Median generation time before anything is observed (assumed; p99 is then 64 s)."""

ASSUMED_LOG_DEVIATION = 0.5453
"""Standard deviation of the logarithm of generation times before anything is observed."""


@dataclass(slots=True)
class Evidence:
    """What polls have told of one kind of work; what two processes have learned can be added.

    Attributes:
        polls: How many polls it is worth.
        candidates: For each candidate distribution, the logarithm of its likelihood.
        pool: The same for "as all kinds of work together".
        completions: Tasks that ended, by bin of ages.
        passages: Tasks that passed through, by bin of ages.
    """

    polls: float = 0.0
    candidates: list[float] = field(default_factory=lambda: [0.0] * CANDIDATES)
    pool: float = 0.0
    completions: list[float] = field(default_factory=lambda: [0.0] * BINS)
    passages: list[float] = field(default_factory=lambda: [0.0] * BINS)

    def copy(self) -> Evidence:
        """An independent copy."""
        return self.scaled(1.0)

    def scaled(self, share: float) -> Evidence:
        """Evidence of the same kind that weighs `share` as much."""
        return Evidence(
            self.polls * share,
            [weight * share for weight in self.candidates],
            self.pool * share,
            [count * share for count in self.completions],
            [count * share for count in self.passages],
        )

    def plus(self, later: Evidence) -> Evidence:
        """Both together, where `later` was learned after this, or by somebody else."""
        kept = _EVIDENCE_KEPT**later.polls
        together = Evidence(
            self.polls * kept + later.polls,
            [kept * old + new for old, new in zip(self.candidates, later.candidates, strict=True)],
            kept * self.pool + later.pool,
            list(map(add, self.completions, later.completions)),
            list(map(add, self.passages, later.passages)),
        )
        together.fade_old_counts()
        return together

    def fade_old_counts(self) -> None:
        """Let no bin remember more passages than are needed, so that a change shows."""
        for index, passages in enumerate(self.passages):
            if passages > _REMEMBERED_PASSAGES:
                self.passages[index] = _REMEMBERED_PASSAGES
                self.completions[index] *= _REMEMBERED_PASSAGES / passages


class HazardLearner:
    """Estimates, for every bin of ages, the hazard that a task accumulates on its way through it.

    Two layers. A grid of lognormal distributions is weighed by the likelihood of every poll, which
    lets few completions, even if they are only the fastest of a large batch, speak for all ages.
    Above it each bin counts its completions and the passages through it (a poll interval that
    covers half a bin is half a passage); the counts correct the lognormals where they are wrong.
    Both layers take a task that is still pending as evidence for the ages it has lived through,
    and for no more.

    One kind of work among several has a further candidate, "as all kinds together". It is the most
    credible at first, so that a kind that was hardly seen is judged as all are; and it loses
    against the kind's own lognormal as soon as the kind's polls say so.

    Args:
        remembered: What was learned before.
    """

    def __init__(self, remembered: Evidence | None = None) -> None:
        self.evidence = remembered.copy() if remembered else Evidence()
        self._remembered = remembered.copy() if remembered else Evidence()
        self._fresh_polls = 0
        self._fresh_completions = [0.0] * BINS
        self._fresh_passages = [0.0] * BINS

    def weigh(self, start: float, end: float, *, completed: bool, pool: Ramp | None = None) -> None:
        """Weigh the candidates by a poll at `end` of a task that was pending at `start`.

        Args:
            start: An age in seconds.
            end: A later age.
            completed: Whether the task had ended.
            pool: What all kinds together have as the cumulative hazard of each age.
        """
        lognormals = _lognormals()
        survived = map(sub, lognormals.hazards_at(start), lognormals.hazards_at(end))
        likelihoods = map(_log_chance_of_end, survived) if completed else survived
        evidence = self.evidence
        evidence.candidates = [
            _EVIDENCE_KEPT * old + new
            for old, new in zip(evidence.candidates, likelihoods, strict=True)
        ]
        evidence.polls = _EVIDENCE_KEPT * evidence.polls + 1
        self._fresh_polls += 1
        if pool:
            passed = pool.at(start) - pool.at(end)
            evidence.pool *= _EVIDENCE_KEPT
            evidence.pool += _log_chance_of_end(passed) if completed else passed

    def count(self, start: float, end: float, *, completed: bool, weight: float = 1.0) -> None:
        """Count a task that was pending from `start` to `end`, and whether it ended there."""
        first, last = bin_of(start), bin_of(end)
        for index in range(first, last + 1):
            covered = min(end, EDGES[index + 1]) - max(start, EDGES[index])
            passage = weight * covered / WIDTHS[index]
            self.evidence.passages[index] += passage
            self._fresh_passages[index] += passage
        if completed:
            self.evidence.completions[last] += weight
            self._fresh_completions[last] += weight

    def hazards(self, pool: Sequence[float] | None = None) -> list[float]:
        """The cumulative hazard of each bin: a Gamma-Poisson posterior mean.

        `pool` is the same for all kinds together.
        """
        self.evidence.fade_old_counts()
        return [
            (completions + _PRIOR_PASSAGES * expected) / (passages + _PRIOR_PASSAGES)
            for completions, passages, expected in zip(
                self.evidence.completions,
                self.evidence.passages,
                self._expected_hazards(pool),
                strict=True,
            )
        ]

    def fresh(self) -> Evidence:
        """What was learned here since the start, or since `take`."""
        kept = _EVIDENCE_KEPT**self._fresh_polls
        old, now = self._remembered, self.evidence
        return Evidence(
            max(0.0, now.polls - kept * old.polls),
            [new - kept * was for new, was in zip(now.candidates, old.candidates, strict=True)],
            now.pool - kept * old.pool,
            list(self._fresh_completions),
            list(self._fresh_passages),
        )

    def take(self, together: Evidence) -> None:
        """Go on from `together`, into which others and `fresh` have been merged."""
        self.evidence, self._remembered = together.copy(), together.copy()
        self._fresh_polls = 0
        self._fresh_completions, self._fresh_passages = [0.0] * BINS, [0.0] * BINS

    def _expected_hazards(self, pool: Sequence[float] | None) -> list[float]:
        lognormals = _lognormals()
        logs = list(map(add, self.evidence.candidates, lognormals.log_priors))
        as_pool = self.evidence.pool + _LOG_PRIOR_OF_POOL if pool else -math.inf
        largest = max(as_pool, *logs)
        weights = [math.exp(log - largest) for log in logs]
        survival = [sum(map(mul, weights, row)) for row in lognormals.survival]
        if pool:
            weight = math.exp(as_pool - largest)
            passed = accumulate(pool, initial=0.0)
            survival = [
                own + weight * math.exp(-hazard)
                for own, hazard in zip(survival, passed, strict=True)
            ]
        return [math.log(before / after) for before, after in pairwise(survival)]


class Ramp:
    """A continuous, strictly increasing, piecewise linear function of age, zero at age zero."""

    def __init__(self, rises: Sequence[float]) -> None:
        self._heights = [0.0, *accumulate(rises)]
        self._slopes = [rise / width for rise, width in zip(rises, WIDTHS, strict=True)]

    def at(self, age: float) -> float:
        index = bin_of(age)
        return self._heights[index] + (age - EDGES[index]) * self._slopes[index]

    def slope_at(self, age: float) -> float:
        return self._slopes[bin_of(age)]

    def inverse(self, height: float) -> float:
        index = min(bisect_right(self._heights, height), BINS) - 1
        return EDGES[index] + (height - self._heights[index]) / self._slopes[index]


class _Lognormals(NamedTuple):
    """The grid of candidates: a column for each candidate, a row for each edge of the bins."""

    log_priors: list[float]
    survival: list[list[float]]
    hazards: list[list[float]]

    def hazards_at(self, age: float) -> list[float]:
        """The hazard that each candidate has accumulated at ``age``."""
        index = bin_of(age)
        share = (age - EDGES[index]) / WIDTHS[index]
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
        for edge in EDGES
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
    return (STUCK + (1 - STUCK) * lognormal) * math.exp(-_LEAST_HAZARD * age)


def _log_chance_of_end(log_chance_of_survival: float) -> float:
    return math.log(_LEAST_CHANCE - math.expm1(log_chance_of_survival))


def bin_of(age: float) -> int:
    return min(bisect_right(EDGES, age), BINS) - 1


# Ages are cut into quarter octaves from a quarter of a second to a little over an hour.
EDGES = [0.0, *(2 ** (quarter / 4) for quarter in range(-8, 49))]
WIDTHS = [end - start for start, end in pairwise(EDGES)]
BINS: int = len(WIDTHS)
OLDEST_SECONDS = EDGES[-1]

# Candidate medians in octaves from the assumed one, candidate deviations as a share of it.
_OCTAVES = [third / 3 for third in range(-12, 16)]
_SHAPES = [0.4, 0.63, 1.0, 1.6, 2.5]

CANDIDATES: int = len(_OCTAVES) * len(_SHAPES)

# The log of how much more credible "as all kinds of work together" is than the assumed lognormal.
_LOG_PRIOR_OF_POOL = 2.0

# Share of tasks that may never finish: bounds what a stuck task can teach.
STUCK = 0.001

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
