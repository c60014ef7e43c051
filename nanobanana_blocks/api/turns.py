"""Whether the service works on an account's tasks one after the other, and whose turn it is.

One client saw three tasks at once take three times as long (observed once). Then the age of a task
says little about its end, and how many are before it says much. This module computes; it reads no
clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable

from nanobanana_blocks.api.hazard import Evidence
from nanobanana_blocks.api.schedule import PollPolicy, PollSchedule
from nanobanana_blocks.api.wait_state import Wait

SURE = 2.5
"""Log odds from which on tasks are taken to be worked on in turn."""

_MAX_LOG_ODDS = 5.0
_KEPT = 0.97
_MAX_EVIDENCE = 3.0
_MAX_EVIDENCE_OF_TIME = 2.0
_LEAST_COMPARED = 4
"""With fewer others, that a task ended before them says too little for turns."""

_LEAST_TURN_SECONDS = 0.1

_OUT_OF_TURN = 0.2
"""In a queue, the chance that a task ends before the one ahead of it."""

_PROBES = 2
"""So many of those that wait for their turn are polled as their age has it."""

_HEAD_SHARE = 1.3
"""The task whose turn it is is polled so much more often, as the others are polled less."""

_PATIENT = 3.0
"""One far back is polled at the policy's longest interval, times this at most."""

_COMPARED = 32
"""With so many others at most, the first in the queue, a completion is compared."""

_OPEN_ENDS = 8
"""So many of the last completions are compared with others that are found pending later."""


class Turns:
    """The tasks that are pending, in the order of their creation, and what their ends say.

    Evidence is in which order they end, as a partial likelihood: in a queue it is the first that
    ends; where tasks are independent, each may, as its age has it. A completion is compared with
    those tasks only that were surely there before it and surely pending after it, so that the order
    of the polls is not taken for that of the ends. And it is how long they take: in a queue it is
    the time since the one before ended that is as long as a task takes which had nobody before it;
    else it is the age.

    Args:
        policy: What the user wants.
        seed: Makes the jitter repeatable.
    """

    def __init__(self, policy: PollPolicy, *, seed: int | None = None) -> None:
        self._policy = policy
        requests = min(policy.requests_per_task * _HEAD_SHARE, 100.0)
        turn_policy = policy.model_copy(update={"requests_per_task": requests})
        self._turn = PollSchedule(turn_policy, seed=seed)
        self._order: list[tuple[float, int, Wait]] = []
        self._places: dict[Wait, tuple[float, int, Wait]] = {}
        self._seen_pending: dict[Wait, float] = {}
        self._number = 0
        self._settled_odds = self._remembered_odds = 0.0
        self._ends: deque[_End] = deque()
        self._turn_started = 0.0
        self._turn_age: float | None = None
        self._seconds_alone: float | None = None

    @property
    def is_serial(self) -> bool:
        """Whether tasks are taken to be worked on one after the other."""
        return self._log_odds >= SURE

    @property
    def _log_odds(self) -> float:
        odds = self._settled_odds
        for end in self._ends:
            odds = _with_evidence(odds, end.evidence())
        return odds

    @property
    def polls(self) -> int:
        """Polls that were learned from."""
        return self._turn.polls

    def learned(self) -> tuple[Evidence, float]:
        """What was learned of turns, and of whether there are any, since `go_on_from`."""
        return self._turn.learned(), self._log_odds - self._remembered_odds

    def go_on_from(self, turn: Evidence, log_odds: float) -> None:
        """Go on from what was learned here, merged with what others have learned."""
        self._turn.go_on_from(turn)
        self._settled_odds = self._remembered_odds = log_odds
        self._ends.clear()

    def pending(self, wait: Wait, polled_at: float) -> None:
        """Take note that a task was pending at a poll."""
        if wait not in self._places:
            self._number += 1
            place = (wait.born, self._number, wait)
            insort(self._order, place)
            self._places[wait] = place
            if self._order[0] is place:
                self._begin_turn(wait.born)
        self._seen_pending[wait] = polled_at
        for end in self._ends:
            end.seen_pending(wait, polled_at)
        if self._order[0][2] is wait:
            age = polled_at - self._turn_started
            if self._turn_age is not None and age > self._turn_age:
                self._turn.observe_pending(self._turn_age, age)
            self._turn_age = max(age, self._turn_age or 0.0)

    def ended(
        self,
        wait: Wait,
        polled_at: float,
        hazard: Callable[[Wait], float],
        *,
        told: tuple[float, float] | None = None,
    ) -> list[Wait]:
        """Take note that a task has ended; the waits that `delay` now says something else of.

        Args:
            wait: The task's.
            polled_at: When it was found to have ended.
            hazard: The chance per second that a pending task ends, were they independent.
            told: Between which times it ended, where the service tells.
        """
        if wait not in self._places:
            return []
        earliest, latest = told or (self._seen_pending[wait], polled_at)
        ended_at = (earliest + latest) / 2
        was_first = self._order[0][2] is wait
        in_time = self._evidence_of_time(wait, earliest, latest, was_first=was_first)
        self._note_end(_End(self._places[wait], earliest, latest, in_time), hazard)
        if was_first and self._turn_age is not None and self._turn_started < polled_at:
            if told:
                self._turn.observe_pending(self._turn_age, earliest - self._turn_started)
            earliest = max(self._turn_age, earliest - self._turn_started)
            self._turn.observe_completion(earliest, latest - self._turn_started)
        self._remove(wait)
        changed = [wait for _, _, wait in self._order[_PROBES : _PROBES + 1]]
        if was_first and self._order:
            self._begin_turn(ended_at)
            changed.append(self._order[0][2])
        return changed

    def forget(self, wait: Wait) -> None:
        """Take a wait out that ended in another way."""
        if wait in self._places:
            was_first = self._order[0][2] is wait
            self._remove(wait)
            if was_first and self._order:
                self._begin_turn(self._seen_pending[self._order[0][2]])

    def delay(self, wait: Wait, now: float) -> float | None:
        """Seconds until the next poll of a pending task, where tasks are worked on in turn.

        None says that its age decides: a few of those that wait for their turn are polled as if
        there were no turns, so that it shows if there are none.
        """
        place = self._places.get(wait)
        position = bisect_left(self._order, place) if place else len(self._order)
        if position == 0:
            return self._turn.next_delay(max(0.0, now - self._turn_started))
        if position <= _PROBES:
            return None
        # By the pace at which tasks do end: should there be no queue, that shows soon.
        longest = _PATIENT * self._policy.max_interval_seconds
        return max(self._policy.min_interval_seconds, min(position * self._pace() / 2, longest))

    def is_first(self, wait: Wait) -> bool:
        """Whether it is a task's turn, if tasks are worked on one after the other."""
        return bool(self._order) and self._order[0][2] is wait

    def in_order(self) -> list[Wait]:
        """The waits for pending tasks, in the order of their creation."""
        return [wait for _, _, wait in self._order]

    def _pace(self) -> float:
        """Seconds from one end to the next, of late."""
        ends = [end.middle for end in self._ends]
        if len(ends) < 2:
            return self._turn.median
        return min(self._turn.median, (max(ends) - min(ends)) / (len(ends) - 1))

    def _begin_turn(self, started: float) -> None:
        self._turn_started = started
        self._turn_age = 0.0

    def _remove(self, wait: Wait) -> None:
        place = self._places.pop(wait)
        del self._order[bisect_left(self._order, place)]
        del self._seen_pending[wait]

    def _evidence_of_time(
        self, wait: Wait, earliest: float, latest: float, *, was_first: bool
    ) -> float:
        """What the time that a task took says for tasks being worked on in turn."""
        ended_at = (earliest + latest) / 2
        age = ended_at - wait.born
        if age <= 2 * (latest - earliest):  # it is not known well enough
            return 0.0
        if was_first and self._turn_started <= wait.born:
            self._seconds_alone = age
            return 0.0
        if self._seconds_alone is None:
            return 0.0
        gaps = [abs(ended_at - end.middle) for end in self._ends]
        if was_first:
            gaps.append(ended_at - self._turn_started)
        turn = max(min(gaps, default=age), _LEAST_TURN_SECONDS)
        unlike = abs(math.log(age / self._seconds_alone)) - abs(
            math.log(turn / self._seconds_alone)
        )
        most = _MAX_EVIDENCE_OF_TIME if was_first else 0.0
        return max(-_MAX_EVIDENCE_OF_TIME, min(unlike, most))

    def _note_end(self, end: _End, hazard: Callable[[Wait], float]) -> None:
        end.hazard = end.hazard_of_all = _hazard_of(end.wait, hazard)
        for earlier in self._ends:
            earlier.seen_pending(end.wait, end.earliest)
            end.compare(earlier)
        for place in self._order[:_COMPARED]:
            if place[2] is not end.wait:
                end.await_sight_of(place, _hazard_of(place[2], hazard))
                end.seen_pending(place[2], self._seen_pending[place[2]])
        self._ends.append(end)
        if len(self._ends) > _OPEN_ENDS:
            self._settled_odds = _with_evidence(self._settled_odds, self._ends.popleft().evidence())


class _End:
    """A task that has ended, and those of which it may turn out that they were pending then.

    It ended between `earliest` and `latest`; `hazard` is what it was then.
    """

    def __init__(
        self, place: tuple[float, int, Wait], earliest: float, latest: float, in_time: float
    ) -> None:
        self.earliest = earliest
        self.hazard = self.hazard_of_all = 0.0
        self._place = place
        self._latest = latest
        self._in_time = in_time
        self._unseen: dict[Wait, tuple[float, bool]] = {}
        self._ahead = 0
        self._compared = 1

    @property
    def wait(self) -> Wait:
        return self._place[2]

    @property
    def middle(self) -> float:
        return (self.earliest + self._latest) / 2

    def await_sight_of(self, other: tuple[float, int, Wait], hazard: float) -> None:
        """Compare with a task, if it was there before and is seen pending after the end."""
        if other[2].born < self.earliest:
            self._unseen[other[2]] = hazard, other < self._place

    def seen_pending(self, other: Wait, at: float) -> None:
        if at >= self._latest and other in self._unseen:
            self._count(*self._unseen.pop(other))

    def compare(self, other: _End) -> None:
        """Compare with a task that was found to have ended before, and ended after this one."""
        if other.earliest >= self._latest and other.wait.born < self.earliest:
            self._count(other.hazard, other._place < self._place)

    def _count(self, hazard: float, is_ahead: bool) -> None:
        self.hazard_of_all += hazard
        self._ahead += is_ahead
        self._compared += 1

    def evidence(self) -> float:
        """For tasks being worked on in turn, as log odds."""
        if self._compared < 2:
            return self._in_time
        share = (1 - _OUT_OF_TURN) / (1 - _OUT_OF_TURN**self._compared)
        in_turn = math.log(share * _OUT_OF_TURN**self._ahead + 1e-3)
        found = in_turn - math.log(self.hazard / self.hazard_of_all)
        if found > 0 and self._compared < _LEAST_COMPARED:
            return self._in_time
        return max(-_MAX_EVIDENCE, min(found, _MAX_EVIDENCE)) + self._in_time


def _with_evidence(odds: float, evidence: float) -> float:
    return max(-_MAX_LOG_ODDS, min(_KEPT * odds + evidence, _MAX_LOG_ODDS))


def _hazard_of(wait: Wait, hazard: Callable[[Wait], float]) -> float:
    return max(hazard(wait), 1e-6)
