"""Whether the service works on an account's tasks one after the other, and whose turn it is.

One client saw three tasks at once take three times as long (observed once). Then the age of a task
says little about its end, and how many are before it says much. This module computes; it reads no
clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable

from nanobanana_blocks.api.hazard import Evidence
from nanobanana_blocks.api.schedule import PollPolicy, PollSchedule
from nanobanana_blocks.api.wait_state import Wait

SURE = 2.0
"""Log odds from which on tasks are taken to be worked on in turn."""

_MAX_LOG_ODDS = 5.0
_KEPT = 0.97
_MAX_EVIDENCE = 3.0

_OUT_OF_TURN = 0.2
"""In a queue, the chance that a task ends before the one ahead of it."""

_PROBES = 3
"""So many of those that wait for their turn are polled as their age has it."""

_COMPARED = 32
"""With so many others at most, the first in the queue, a completion is compared."""


class Turns:
    """The tasks that are pending, in the order of their creation, and what their ends say.

    Evidence is in which order they end, as a partial likelihood: in a queue it is the first that
    ends; where tasks are independent, each may, as its age has it. Only tasks that were seen
    pending lately are compared, so that the order of the polls is not taken for that of the ends.

    Args:
        policy: What the user wants.
        seed: Makes the jitter repeatable.
    """

    def __init__(self, policy: PollPolicy, *, seed: int | None = None) -> None:
        self._policy = policy
        self._turn = PollSchedule(policy, seed=seed)
        self._order: list[tuple[float, int, Wait]] = []
        self._places: dict[Wait, tuple[float, int, Wait]] = {}
        self._seen_pending: dict[Wait, float] = {}
        self._number = 0
        self._log_odds = self._remembered_odds = 0.0
        self._turn_started = 0.0
        self._turn_age: float | None = None

    @property
    def is_serial(self) -> bool:
        """Whether tasks are taken to be worked on one after the other."""
        return self._log_odds >= SURE

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
        self._log_odds = self._remembered_odds = log_odds

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
        self._learn_order(wait, ended_at, hazard)
        was_first = self._order[0][2] is wait
        if was_first and self._turn_age is not None and self._turn_started < polled_at:
            self._turn.observe_completion(self._turn_age, polled_at - self._turn_started)
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
        return None if position <= _PROBES else self._policy.max_interval_seconds

    def in_order(self) -> list[Wait]:
        """The waits for pending tasks, in the order of their creation."""
        return [wait for _, _, wait in self._order]

    def _begin_turn(self, started: float) -> None:
        self._turn_started = started
        self._turn_age = 0.0

    def _remove(self, wait: Wait) -> None:
        place = self._places.pop(wait)
        del self._order[bisect_left(self._order, place)]
        del self._seen_pending[wait]

    def _learn_order(self, wait: Wait, ended_at: float, hazard: Callable[[Wait], float]) -> None:
        compared = [
            other
            for _, _, other in self._order[:_COMPARED]
            if other is wait or self._seen_pending[other] >= ended_at
        ]
        if wait not in compared:
            compared.append(wait)
        if len(compared) < 2:
            return
        position, count = compared.index(wait), len(compared)
        share = (1 - _OUT_OF_TURN) / (1 - _OUT_OF_TURN**count)
        hazards = [max(hazard(other), 1e-6) for other in compared]
        evidence = math.log(share * _OUT_OF_TURN**position + 1e-3) - math.log(
            hazards[position] / sum(hazards)
        )
        evidence = max(-_MAX_EVIDENCE, min(evidence, _MAX_EVIDENCE))
        odds = _KEPT * self._log_odds + evidence
        self._log_odds = max(-_MAX_LOG_ODDS, min(odds, _MAX_LOG_ODDS))
