"""What follows from an answer about one task for it and for others: schedules, kinds and turns.

This module computes; it reads no clock and holds no queue of polls.
"""

from __future__ import annotations

from dataclasses import replace

from nanobanana_blocks.api.details import TaskDetails
from nanobanana_blocks.api.kinds import kind_of
from nanobanana_blocks.api.learning import KindSchedule, KindSchedules
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.api.turns import Turns
from nanobanana_blocks.api.wait_state import Ended, Verdict, Wait
from nanobanana_blocks.errors import NanoBananaError


class PollPlanner:
    """Plans the polls of many waits from what is learned of all.

    Args:
        policy: What the user wants.
        seed: Makes the jitter and the learning repeatable.

    Attributes:
        schedules: What was learned of each kind of work.
    """

    def __init__(self, policy: PollPolicy, *, seed: int | None = None) -> None:
        self.schedules = KindSchedules(policy, seed=seed)
        self._turns = Turns(policy, seed=seed)
        self._is_adaptive = policy.mode == "adaptive"

    @property
    def is_serial(self) -> bool:
        """Whether the service is taken to work on one task after the other."""
        return self._turns.is_serial

    @property
    def polls(self) -> int:
        """Polls that were learned from."""
        return self.schedules.polls + self._turns.polls

    def after_answer(
        self, wait: Wait, details: TaskDetails, now: float
    ) -> tuple[Verdict, list[Wait]]:
        """What follows from record-info's answer.

        Also gives the other waits that are to be polled at another time because of it, such as
        that of the task whose turn it has become; `next_due` says when.
        """
        wait.kind = wait.kind or kind_of(details)
        schedule = self.schedules.of(wait.kind)
        if not self._is_adaptive:
            return wait.after_answer(details, now, schedule), []
        wait.learn_age(details, now)
        was_serial = self.is_serial
        if not details.status.is_final:
            self._turns.pending(wait, wait.sent_at)
        in_turn = _InTurn(self._turns, schedule, wait, now) if self.is_serial else schedule
        verdict = wait.after_answer(details, now, in_turn)
        changed = self._after_end(wait, details, now) if isinstance(verdict, Ended) else []
        if was_serial and not self.is_serial:
            return verdict, self._turns.in_order()
        if self.is_serial and not was_serial:
            changed = self._turns.in_order()
        return verdict, [other for other in changed if other is not wait]

    def after_error(
        self, wait: Wait, error: NanoBananaError, now: float, *, was_heard: bool
    ) -> Verdict:
        """What follows from a poll that failed; see `Wait.after_error`."""
        return wait.after_error(error, now, self.schedules.of(wait.kind), was_heard=was_heard)

    def next_due(self, wait: Wait, now: float) -> float:
        """When a wait is to be polled, by what is known now."""
        delay = self._turns.delay(wait, now) if self.is_serial else None
        if delay is None:
            delay = self.schedules.of(wait.kind).next_delay(now - wait.born)
        elif not self._turns.is_first(wait):
            delay = max(0.0, delay - (now - wait.sent_at))
        return now + delay

    def forget(self, wait: Wait) -> None:
        """Take note that a wait is over."""
        self._turns.forget(wait)

    def learned(self) -> LearnedSummary:
        """What was learned here since the start, or since `go_on_from`."""
        turn, serial = self._turns.learned()
        return replace(self.schedules.learned(), turn=turn, serial=serial)

    def go_on_from(self, together: LearnedSummary) -> None:
        """Go on from what was learned here, merged with what others have learned."""
        self.schedules.go_on_from(together)
        self._turns.go_on_from(together.turn, together.serial)

    def _after_end(self, wait: Wait, details: TaskDetails, now: float) -> list[Wait]:
        changed = self._turns.ended(
            wait,
            wait.sent_at,
            lambda other: self.schedules.of(other.kind).hazard_at(now - other.born),
            told=wait.told_end(details),
        )
        return changed if self.is_serial else []


class _InTurn:
    """The schedule of a task among others that are worked on one after the other."""

    def __init__(self, turns: Turns, schedule: KindSchedule, wait: Wait, now: float) -> None:
        self._turns = turns
        self._schedule = schedule
        self._wait = wait
        self._now = now

    def next_delay(self, age: float) -> float:
        delay = self._turns.delay(self._wait, self._now)
        return self._schedule.next_delay(age) if delay is None else delay

    def jittered(self, seconds: float) -> float:
        return self._schedule.jittered(seconds)

    def observe_pending(self, previous_poll: float | None, this_poll: float) -> None:
        """Teach the kind nothing: its tasks do not take as long as they wait for their turn."""

    def observe_completion(self, previous_poll: float | None, this_poll: float) -> None:
        """Teach the kind nothing."""
