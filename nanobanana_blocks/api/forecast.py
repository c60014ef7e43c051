"""How long generation will take, by what was learned of it; for estimates, before anything is sent.

This module computes; it knows no task. Nothing that is learned here is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

from nanobanana_blocks.api.hazard import EDGES, WIDTHS, HazardLearner, Ramp
from nanobanana_blocks.api.kinds import kind_of_endpoint
from nanobanana_blocks.api.requests import (
    DEFAULT_RESOLUTION,
    Endpoint,
    GenerationRequest,
    GenericRequest,
)
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.api.turns import SURE

SLOWEST_SHARE = 0.99
"""The slowest of many tasks is reckoned no slower than this share of all."""


def kind_of_request(request: GenerationRequest) -> str:
    """The kind that its task will be of; as `kinds.kind_of` reads it from record-info."""
    if isinstance(request, GenericRequest):
        resolution = request.fields.get("resolution")
        known = [resolution] if resolution in ("1K", "2K", "4K") else []
        parts = [kind_of_endpoint(request.endpoint), *map(str, known)]
    else:
        parts = [request.endpoint.value]
    if request.endpoint in (Endpoint.GENERATE_PRO, Endpoint.GENERATE_2):
        parts.append(getattr(request, "resolution", None) or DEFAULT_RESOLUTION)
    if request.image_urls:
        parts.append("edit")
    return " ".join(parts)


class Forecast:
    """What is to be expected of generation times.

    Args:
        learned: What earlier runs have learned; an empty summary leaves what is assumed.

    Attributes:
        polls: How many polls it rests on; 0 where all is assumed.
    """

    def __init__(self, learned: LearnedSummary) -> None:
        self.polls = round(learned.pool.polls)
        self._learned = learned
        self._pool = HazardLearner(learned.pool).hazards()
        self._hazards: dict[str, list[float]] = {}

    def seconds(self, kind: str, timeout: float) -> float:
        """The mean time of a task of a kind, which is waited for no longer than `timeout`."""
        return _mean(self._of(kind), timeout)

    def slowest(self, kind: str, tasks: float, timeout: float) -> float:
        """About the time of the slowest among many tasks of a kind."""
        share = min(tasks / (tasks + 1), SLOWEST_SHARE)
        return min(Ramp(self._of(kind)).inverse(-math.log1p(-share)), timeout)

    @property
    def seconds_a_turn(self) -> float:
        """The mean time of a task whose turn it is, where the service works on one after another.

        0 where it is not known to.
        """
        if self._learned.serial < SURE:
            return 0.0
        return _mean(HazardLearner(self._learned.turn).hazards(), math.inf)

    def _of(self, kind: str) -> list[float]:
        if kind not in self._hazards:
            known = self._learned.kinds.get(kind)
            self._hazards[kind] = HazardLearner(known).hazards(self._pool) if known else self._pool
        return self._hazards[kind]


def expected_seconds(
    forecast: Forecast,
    submits: Mapping[str, int],
    resumed: int,
    *,
    depth: int,
    in_flight: int,
    poll: PollPolicy,
    timeout: float,
) -> float:
    """About how long a batch takes, without the fetching of its images.

    It is as slow as its narrowest place: the budget of requests, the rows under way at a time, the
    longest chain, or a service that works on one task after the other.

    Args:
        forecast: What is to be expected of one task.
        submits: How many tasks of each kind are to be submitted.
        resumed: Tasks that were submitted before, of whatever kind.
        depth: Rows of the longest chain of those that build on each other; 1 without any.
        in_flight: Tasks under way at a time, in all runs together.
        poll: When the API is asked, and how often in all.
        timeout: Seconds for which a task is waited for.
    """
    tasks = {**submits, "": resumed}
    count = sum(tasks.values())
    if not count:
        return 0.0
    means = {kind: forecast.seconds(kind, timeout) for kind, n in tasks.items() if n}
    work = sum(tasks[kind] * mean for kind, mean in means.items())
    polls = sum(tasks[kind] * _polls(mean, poll) for kind, mean in means.items())
    last = max(forecast.slowest(kind, tasks[kind], timeout) for kind in means)
    requests = sum(submits.values()) + polls
    begun = max(
        requests / poll.requests_per_second,
        work / in_flight - work / count,
        (count - 1) * forecast.seconds_a_turn,
        (depth - 1) * max(means.values()),
    )
    return max(0.0, begun) + last


def _polls(seconds: float, poll: PollPolicy) -> float:
    """How often a task is asked about, the first time included."""
    if poll.mode == "fixed":
        return 1 + seconds / poll.interval_seconds
    return 1 + poll.requests_per_task


def _mean(hazards: list[float], at_most: float) -> float:
    """The mean of an age at which a task ends, where none is waited for longer than `at_most`."""
    return sum(_areas(hazards, at_most))


def _areas(hazards: list[float], at_most: float) -> Iterator[float]:
    """The time that tasks spend in each bin of ages, by the share of them that reaches it."""
    reached = 1.0
    for (start, end), width, hazard in zip(pairwise(EDGES), WIDTHS, hazards, strict=True):
        if start >= at_most:
            return
        slope = hazard / width
        span = min(end, at_most) - start
        yield reached * -math.expm1(-slope * span) / slope
        reached *= math.exp(-hazard)
