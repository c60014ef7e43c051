"""One wait for a generation task as a state machine; it reads no clock, sends and awaits nothing.

After each answer, at a given time, it says: ended, failed, or poll again at … . All times are
seconds of one monotonic clock, which whoever drives it chooses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.schedule import PollSchedule
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
    """For how long, and how many polls, a wait bears what may pass or may be permanent.

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


DEFAULT_PATIENCE = Patience()

FINAL_POLL_TOLERANCE = 0.01
"""A poll that is sent so near the deadline, as a share of the timeout, is the final one."""


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
        deadline: When it is to end; a final poll follows.
        polls: Polls begun so far.
        is_polling: Whether one is under way.
        is_hinted: Whether anybody has said that the task has ended.
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
        "_scheduled",
        "_sent_at",
        "_trouble",
        "_trouble_polls",
        "_trouble_since",
        "_unknown_seconds",
        "deadline",
        "is_hinted",
        "is_polling",
        "polls",
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
        self._patience = patience
        # The deadline ends the wait for an id that the service has given itself.
        self._unknown_seconds = math.inf if just_submitted else patience.unknown_task_seconds
        self._scheduled = started
        self._sent_at = started
        self._no_sooner = started
        self._by_hint = False
        self._hint_due: float | None = None
        self._hint_step = len(patience.hint_pauses)
        self._last_age: float | None = None
        self._ended_by_code = False
        self._final_errors = 0
        self._trouble: NanoBananaError | None = None
        self._trouble_since = started
        self._trouble_polls = 0

    def hint(self, now: float) -> PollAgain | None:
        """Take note that the task is said to have ended; when to poll, if not one is under way.

        The first hint has it polled at once.
        """
        pause = self._patience.repeated_hint_seconds if self.is_hinted else 0.0
        due = max(now, self._sent_at + pause, self._no_sooner)
        self.is_hinted = True
        self._hint_step = 0
        if isinstance(self._trouble, UnknownTask):
            self._trouble_since = now
        if self.is_polling:
            self._hint_due = due
            return None
        return PollAgain(self._scheduled, due)

    def begin_poll(self, now: float) -> None:
        """Take note that a poll is sent."""
        self.polls += 1
        self.is_polling = True
        self._hint_due = None
        self._by_hint = now < self._scheduled
        self._sent_at = now

    def after_answer(self, details: TaskDetails, now: float, schedule: PollSchedule) -> Verdict:
        """What follows from record-info's answer; the schedule learns from it."""
        self.is_polling = False
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
            schedule.observe_completion(self._last_age, self._sent_at - self.started)
        return Ended(details)

    def after_error(
        self, error: NanoBananaError, now: float, schedule: PollSchedule, *, was_heard: bool
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
        last = f" The last answer was: {self._trouble.message}" if self._trouble else ""
        known = "still generating" if self._last_age is not None else "not known to have ended"
        return Failed(
            WaitTimedOut(
                f"{known} after {now - self.started:.0f} s and {self.polls} polls.{last} "
                "Running again picks it up.",
                task_id=self.task_id,
            )
        )

    def _after_generating(self, now: float, schedule: PollSchedule) -> Verdict:
        age = self._sent_at - self.started
        self._trouble, self._ended_by_code = None, False
        if not self._by_hint:  # a hint chooses the moment at which a task ends: that would mislead
            schedule.observe_pending(self._last_age, age)
        self._last_age = age
        if self._was_final():
            return self.timed_out(now)
        if self._by_hint and self._scheduled > now:
            return self._again(self._scheduled, now)
        return self._again(now + schedule.next_delay(now - self.started), now)

    def _after_error(
        self, error: NanoBananaError, now: float, schedule: PollSchedule, *, was_heard: bool
    ) -> Verdict:
        if isinstance(error, Unauthorized):
            return Failed(error, concerns_all=True)
        if not self._may_pass(error, now, was_heard=was_heard):
            return Failed(error, concerns_all=not was_heard)
        soon = isinstance(error, (UnknownTask, ImageUnavailable))
        patience = self._patience
        longest = patience.short_backoff_seconds if soon else patience.max_backoff_seconds
        backoff = min(2.0 ** min(self._trouble_polls - 1, 10), longest)
        asked = (error.retry_after if isinstance(error, APIError) else None) or 0.0
        self._no_sooner = now + asked
        due = max(now + schedule.jittered(backoff), self._no_sooner)
        if self._was_final():
            self._final_errors += 1
            out_of_time = due > self.deadline + patience.final_poll_seconds
            if soon or out_of_time or self._final_errors >= patience.final_polls:
                return self.timed_out(now)
            self._scheduled = due
            return PollAgain(due)
        return self._again(due, now)

    def _again(self, due: float, now: float) -> PollAgain:
        """Poll when due, or at the deadline, or earlier because of a hint."""
        self._scheduled = max(now, min(due, self.deadline))
        pauses = self._patience.hint_pauses
        if self._hint_due is not None:
            return PollAgain(self._scheduled, max(now, self._hint_due, self._no_sooner))
        if self._hint_step >= len(pauses):
            return PollAgain(self._scheduled)
        self._hint_step += 1
        return PollAgain(self._scheduled, max(now + pauses[self._hint_step - 1], self._no_sooner))

    def _was_final(self) -> bool:
        tolerance = min(1.0, FINAL_POLL_TOLERANCE * (self.deadline - self.started))
        return self._sent_at >= self.deadline - tolerance

    def _may_pass(self, error: NanoBananaError, now: float, *, was_heard: bool) -> bool:
        if type(self._trouble) is not type(error):
            self._trouble_since, self._trouble_polls = now, 0
        self._trouble = error
        self._trouble_polls += 1
        lasted = now - self._trouble_since
        patience = self._patience
        if isinstance(error, UnknownTask):
            return lasted < self._unknown_seconds
        if isinstance(error, ProtocolError):
            return self._trouble_polls <= patience.protocol_errors
        if isinstance(error, NetworkError):
            return was_heard or lasted < patience.never_answered_seconds
        if isinstance(error, ImageUnavailable):
            return self._trouble_polls < patience.polls_for_urls
        if isinstance(error, Forbidden) or (isinstance(error, ServerError) and error.code == 500):
            few = self._trouble_polls < patience.server_exception_polls
            return few or lasted < patience.server_exception_seconds
        return error.retryable
