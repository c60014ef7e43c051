"""One wait for a generation task as a state machine; it reads no clock, sends and awaits nothing.

After each answer, at a given time, it says: ended, failed, or poll again at … . All times are
seconds of one monotonic clock, which whoever drives it chooses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.schedule import Schedule
from nanobanana_blocks.errors import (
    APIError,
    Forbidden,
    ImageUnavailable,
    NanoBananaError,
    NetworkError,
    ProtocolError,
    ServerError,
    Unauthorized,
    UnknownTask,
    WaitTimedOut,
)


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long, and how many polls, what may pass or may be permanent is borne.

    Attributes:
        unknown_task_seconds: How long an id from elsewhere may be unknown. One that the service
            has just given to us may be for the whole wait (assumed; a sister product shows new
            tasks after up to 8 s).
        never_answered_seconds: How long the API may be out of reach when it never answered at all.
        server_exception_seconds: How long "Server exception" (body code 500) or a 403 is borne…
        server_exception_polls: …and for how many polls at least: it may be permanent.
        protocol_errors: So many answers in a row may not be the API's.
        polls_for_urls: So many polls may find a success without image URLs (observed).
        confirm_seconds: When to ask again about a task whose end only an envelope's code tells.
        max_backoff_seconds: The longest pause of our own choice after an error.
        short_backoff_seconds: The same for what the service itself may not know yet.
        final_poll_seconds: How long past its deadline the final poll is tried again.
        final_polls: So many final polls may end in an error that may pass.
        hint_pauses: The pauses between polls after a hint, until record-info confirms it.
        repeated_hint_seconds: A repeated hint has a task polled no sooner after its last poll.
        first_connect_pause_seconds: The pause before a submit is tried again for which no
            connection could be made; it doubles each time…
        max_connect_pause_seconds: …up to this.
    """

    unknown_task_seconds: float = 15.0
    never_answered_seconds: float = 30.0
    server_exception_seconds: float = 120.0
    server_exception_polls: int = 6
    protocol_errors: int = 2
    polls_for_urls: int = 5
    confirm_seconds: float = 5.0
    max_backoff_seconds: float = 30.0
    short_backoff_seconds: float = 4.0
    final_poll_seconds: float = 30.0
    final_polls: int = 3
    hint_pauses: tuple[float, ...] = (2.0, 3.0, 5.0, 8.0, 13.0)
    repeated_hint_seconds: float = 2.0
    first_connect_pause_seconds: float = 1.0
    max_connect_pause_seconds: float = 30.0


DEFAULT_PATIENCE = Patience()

FINAL_POLL_TOLERANCE = 0.01
"""A poll that is sent so near the deadline, as a share of the timeout, is the final one."""


CLOCK_SECONDS = 2.0
"""How exact ages by the service's clock are, whose times are whole seconds."""

MAX_AGE_SECONDS = 3600.0
"""A generating task that is said to be older was not made then: its time zone was misread."""


class PollAgain(NamedTuple):
    """The wait goes on: the next poll is due at `scheduled`, or earlier, at `hinted`."""

    scheduled: float
    hinted: float | None = None


class Ended(NamedTuple):
    """The generation task has ended, well or badly, as `details` says."""

    details: TaskDetails


class Failed(NamedTuple):
    """The wait ends with an error; `concerns_all`: it is about the key or the server."""

    error: NanoBananaError
    concerns_all: bool = False


Verdict = PollAgain | Ended | Failed


class Wait:
    """What is known of one wait, and what follows from each answer.

    A hint (somebody says that the task has ended) holds until record-info confirms it, or through
    a short series of polls with growing pauses, which a repeated hint starts anew. It only ever
    adds polls: those of the schedule stay where they are.

    Attributes:
        task_id: The generation task.
        started: When the wait began.
        born: When the task was created, as far as is known.
        scheduled: When the next poll is due, hints aside.
        sent_at: When the last poll was sent.
        deadline: When it is to end; a final poll follows.
        polls: Polls begun so far.
        is_polling: Whether one is under way.
        is_hinted: Whether anybody has said that the task has ended.
        kind: What kind of work it is, once an answer has said so.
    """

    __slots__ = (
        "_by_hint",
        "_ended_by_code",
        "_final_errors",
        "_hint_due",
        "_hint_step",
        "_last_age",
        "_no_sooner",
        "_patience",
        "_trouble",
        "born",
        "deadline",
        "is_hinted",
        "is_polling",
        "kind",
        "polls",
        "scheduled",
        "sent_at",
        "started",
        "task_id",
    )

    def __init__(
        self,
        task_id: str,
        *,
        started: float,
        timeout: float,
        just_submitted: bool = False,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        self.task_id = task_id
        self.started = started
        self.deadline = started + timeout
        self.polls = 0
        self.is_polling = False
        self.is_hinted = False
        self.kind: str | None = None
        self.born = started
        self._patience = patience
        self.scheduled = started
        self.sent_at = started
        self._no_sooner = started
        self._by_hint = False
        self._hint_due: float | None = None
        self._hint_step = len(patience.hint_pauses)
        self._last_age: float | None = None
        self._ended_by_code = False
        self._final_errors = 0
        self._trouble = _Trouble(patience, just_submitted=just_submitted)

    def hint(self, now: float) -> PollAgain | None:
        """Take note that the task is said to have ended; when to poll, if not one is under way.

        The first hint has it polled at once.
        """
        pause = self._patience.repeated_hint_seconds if self.is_hinted else 0.0
        due = max(now, self.sent_at + pause, self._no_sooner)
        self.is_hinted = True
        self._hint_step = 0
        self._trouble.hinted(now)
        if self.is_polling:
            self._hint_due = due
            return None
        return PollAgain(self.scheduled, due)

    def begin_poll(self, now: float) -> None:
        """Take note that a poll is sent."""
        self.polls += 1
        self.is_polling = True
        self._hint_due = None
        self._by_hint = now < self.scheduled
        self.sent_at = now

    def learn_age(self, details: TaskDetails, now: float) -> None:
        """Take note of when the task was created, where its first answer tells that."""
        if self._last_age is None:
            self.born = _born(details, self.started, now)

    def after_answer(self, details: TaskDetails, now: float, schedule: Schedule) -> Verdict:
        """What follows from record-info's answer; the schedule learns from it."""
        self.is_polling = False
        self.learn_age(details, now)
        if details.status is TaskStatus.SUCCESS and not details.image_count:
            missing = ImageUnavailable(
                "the task is done, but the API gives no image URL.", task_id=self.task_id
            )
            return self._after_error(missing, now, schedule, was_heard=True)
        if details.status is TaskStatus.GENERATING:
            return self._after_generating(now, schedule)
        if details.by_code and not self._ended_by_code:
            self._ended_by_code = True
            return self._again(now + self._patience.confirm_seconds, now)
        if not self._by_hint:
            schedule.observe_completion(self._last_age, self.sent_at - self.born)
        elif told := self.told_end(details):
            earliest, latest = told[0] - self.born, told[1] - self.born
            schedule.observe_pending(self._last_age, earliest)
            schedule.observe_completion(earliest, latest)
        return Ended(details)

    def after_error(
        self, error: NanoBananaError, now: float, schedule: Schedule, *, was_heard: bool
    ) -> Verdict:
        """What follows from a poll that failed.

        Args:
            error: Why it failed.
            now: The time.
            schedule: Gives the jitter.
            was_heard: Whether the API has answered anybody before; if not, what does not pass
                concerns every wait.
        """
        self.is_polling = False
        return self._after_error(error, now, schedule, was_heard=was_heard)

    def is_overdue(self, now: float) -> bool:
        """Whether the final poll, too, has had its time."""
        return now >= self.deadline + self._patience.final_poll_seconds

    def timed_out(self, now: float) -> Failed:
        """The end of a wait whose task was not seen to end in time."""
        error = self._trouble.error
        last = f" The last answer was: {error.message}" if error else ""
        known = "still generating" if self._last_age is not None else "not known to have ended"
        return Failed(
            WaitTimedOut(
                f"{known} after {now - self.started:.0f} s and {self.polls} polls.{last} "
                "Running again picks it up.",
                task_id=self.task_id,
            )
        )

    def told_end(self, details: TaskDetails) -> tuple[float, float] | None:
        """Between which times the task ended by the service's own word, if that is plausible."""
        created, completed = details.created_at, details.completed_at
        if self._last_age is None or created is None or completed is None:
            return None
        age = (completed - created).total_seconds()
        earliest = self.born + max(self._last_age, age - CLOCK_SECONDS)
        latest = min(self.sent_at, self.born + age + CLOCK_SECONDS)
        return (earliest, latest) if earliest < latest else None

    def _after_generating(self, now: float, schedule: Schedule) -> Verdict:
        age = self.sent_at - self.born
        self._trouble.error, self._ended_by_code = None, False
        if not self._by_hint:  # a hint chooses the moment at which a task ends: that would mislead
            schedule.observe_pending(self._last_age, age)
        self._last_age = age
        if self._was_final():
            return self.timed_out(now)
        if self._by_hint and self.scheduled > now:
            return self._again(self.scheduled, now)
        return self._again(now + schedule.next_delay(now - self.born), now)

    def _after_error(
        self, error: NanoBananaError, now: float, schedule: Schedule, *, was_heard: bool
    ) -> Verdict:
        if isinstance(error, Unauthorized):
            return Failed(error, concerns_all=True)
        if not self._trouble.may_pass(error, now, was_heard=was_heard):
            return Failed(error, concerns_all=not was_heard)
        asked = (error.retry_after if isinstance(error, APIError) else None) or 0.0
        self._no_sooner = now + asked
        due = max(now + schedule.jittered(self._trouble.backoff()), self._no_sooner)
        if self._was_final():
            self._final_errors += 1
            is_answer = isinstance(error, (UnknownTask, ImageUnavailable))
            last = self._final_errors >= self._patience.final_polls
            if is_answer or last or self.is_overdue(due):
                return self.timed_out(now)
            self.scheduled = due
            return PollAgain(due)
        return self._again(due, now)

    def _again(self, due: float, now: float) -> PollAgain:
        """Poll when due, or at the deadline, or earlier because of a hint."""
        self.scheduled = max(now, min(due, self.deadline))
        pauses = self._patience.hint_pauses
        if self._hint_due is not None:
            return PollAgain(self.scheduled, max(now, self._hint_due, self._no_sooner))
        if self._hint_step >= len(pauses):
            return PollAgain(self.scheduled)
        self._hint_step += 1
        return PollAgain(self.scheduled, max(now + pauses[self._hint_step - 1], self._no_sooner))

    def _was_final(self) -> bool:
        tolerance = min(1.0, FINAL_POLL_TOLERANCE * (self.deadline - self.started))
        return self.sent_at >= self.deadline - tolerance


class _Trouble:
    """What has gone wrong in a row with the polls of one wait, and whether it may still pass."""

    __slots__ = ("error", "patience", "polls", "since", "unknown_seconds")

    def __init__(self, patience: Patience, *, just_submitted: bool) -> None:
        self.patience = patience
        # The deadline ends the wait for an id that the service has given itself.
        self.unknown_seconds = math.inf if just_submitted else patience.unknown_task_seconds
        self.error: NanoBananaError | None = None
        self.since = 0.0
        self.polls = 0

    def hinted(self, now: float) -> None:
        """Give a task that is unknown, but said to have ended, time to become visible."""
        if isinstance(self.error, UnknownTask):
            self.since = now

    def backoff(self) -> float:
        """The pause of our own choice before the next poll, in seconds."""
        soon = isinstance(self.error, (UnknownTask, ImageUnavailable))
        longest = self.patience.short_backoff_seconds if soon else self.patience.max_backoff_seconds
        return min(2.0 ** min(self.polls - 1, 10), longest)

    def may_pass(self, error: NanoBananaError, now: float, *, was_heard: bool) -> bool:
        """Take note of an error, and say whether another poll may help."""
        if type(self.error) is not type(error):
            self.since, self.polls = now, 0
        self.error = error
        self.polls += 1
        lasted = now - self.since
        if isinstance(error, UnknownTask):
            return lasted < self.unknown_seconds
        if isinstance(error, ProtocolError):
            return self.polls <= self.patience.protocol_errors
        if isinstance(error, NetworkError):
            return was_heard or lasted < self.patience.never_answered_seconds
        if isinstance(error, ImageUnavailable):
            return self.polls < self.patience.polls_for_urls
        if isinstance(error, Forbidden) or (isinstance(error, ServerError) and error.code == 500):
            few = self.polls < self.patience.server_exception_polls
            return few or lasted < self.patience.server_exception_seconds
        return error.retryable


def _born(details: TaskDetails, started: float, now: float) -> float:
    """When a task was created, where its own clock shows that it was well before the wait began."""
    if details.created_at is None or details.answered_at is None:
        return started
    age = (details.answered_at - details.created_at).total_seconds()
    head_start = age - (now - started)
    is_plausible = head_start > CLOCK_SECONDS and age <= MAX_AGE_SECONDS
    return started - head_start if is_plausible else started
