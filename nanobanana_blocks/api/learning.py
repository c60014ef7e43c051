"""One schedule for each kind of work, each borrowing from the others until it has seen enough.

What was learned can be taken out as a summary, merged with those of others, and put in again; this
module does no I/O.
"""

from __future__ import annotations

from nanobanana_blocks.api.schedule import PollPolicy, PollSchedule
from nanobanana_blocks.api.summary import MAX_KINDS, LearnedSummary


class KindSchedules:
    """The schedules of one waiter.

    Args:
        policy: What the user wants.
        seed: Makes the jitter and the learning repeatable.
    """

    def __init__(self, policy: PollPolicy, *, seed: int | None = None) -> None:
        self._policy = policy
        self._seed = seed
        self._pool = PollSchedule(policy, seed=seed)
        self._by_kind: dict[str, KindSchedule] = {}
        self._remembered = LearnedSummary()
        self._of_unknown = KindSchedule(None, self._pool)

    @property
    def polls(self) -> int:
        """Polls that were learned from."""
        return self._pool.polls

    def of(self, kind: str | None) -> KindSchedule:
        """The schedule of a kind, or, where that is not known, of all together."""
        if kind is None or self._policy.mode == "fixed":
            return self._of_unknown
        if kind not in self._by_kind:
            if len(self._by_kind) >= MAX_KINDS:
                return self._of_unknown
            own = PollSchedule(
                self._policy,
                seed=self._seed,
                pool=self._pool,
                remembered=self._remembered.kinds.get(kind),
            )
            self._by_kind[kind] = KindSchedule(own, self._pool)
        return self._by_kind[kind]

    def learned(self) -> LearnedSummary:
        """What was learned here since the start, or since `go_on_from`."""
        if not self._pool.polls:
            return LearnedSummary()
        return LearnedSummary(
            pool=self._pool.learned(),
            kinds={
                kind: schedule.own.learned()
                for kind, schedule in self._by_kind.items()
                if schedule.own and schedule.own.polls
            },
        )

    def go_on_from(self, together: LearnedSummary) -> None:
        """Go on from what was learned here, merged with what others have learned."""
        self._remembered = together
        self._pool.go_on_from(together.pool)
        for kind, schedule in self._by_kind.items():
            if schedule.own and kind in together.kinds:
                schedule.own.go_on_from(together.kinds[kind])


class KindSchedule:
    """The schedule of one kind; what it observes, it lets the pool of all kinds observe too."""

    def __init__(self, own: PollSchedule | None, pool: PollSchedule) -> None:
        self.own = own
        self._pool = pool
        self._plan = own or pool

    def next_delay(self, age: float) -> float:
        """As `PollSchedule.next_delay`."""
        return self._plan.next_delay(age)

    def hazard_at(self, age: float) -> float:
        """As `PollSchedule.hazard_at`."""
        return self._plan.hazard_at(age)

    def jittered(self, seconds: float) -> float:
        """As `PollSchedule.jittered`."""
        return self._plan.jittered(seconds)

    def observe_pending(self, previous_poll: float | None, this_poll: float) -> None:
        """As `PollSchedule.observe_pending`."""
        if self.own:
            self.own.observe_pending(previous_poll, this_poll)
        self._pool.observe_pending(previous_poll, this_poll)

    def observe_completion(self, previous_poll: float | None, this_poll: float) -> None:
        """As `PollSchedule.observe_completion`."""
        if self.own:
            self.own.observe_completion(previous_poll, this_poll)
        self._pool.observe_completion(previous_poll, this_poll)
