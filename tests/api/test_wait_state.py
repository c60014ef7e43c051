"""What follows from each answer about a task, without an event loop."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanobanana_blocks import PollPolicy, TaskDetails, TaskStatus, errors
from nanobanana_blocks.api.schedule import PollSchedule
from nanobanana_blocks.api.wait_state import Ended, Failed, PollAgain, Wait

GENERATING = TaskDetails(task_id="t", status=TaskStatus.GENERATING)
DONE = TaskDetails(task_id="t", status=TaskStatus.SUCCESS, result_urls=("https://h/i.png",))
EVERY_TEN = PollSchedule(PollPolicy.fixed(10), seed=0)


def begin(timeout: float = 100, *, just_submitted: bool = False) -> Wait:
    wait = Wait("t", started=0.0, timeout=timeout, just_submitted=just_submitted)
    wait.begin_poll(0.0)
    return wait


def test_a_task_that_has_ended_ends_the_wait() -> None:
    """The end that record-info tells is the end of the wait, well or badly."""
    assert begin().after_answer(DONE, 0.1, EVERY_TEN) == Ended(DONE)
    failed = GENERATING.model_copy(update={"status": TaskStatus.GENERATE_FAILED})
    assert begin().after_answer(failed, 0.1, EVERY_TEN) == Ended(failed)


def test_a_pending_task_is_polled_by_the_schedule_and_at_the_deadline() -> None:
    """While a task generates, polls follow the schedule; the last is at the deadline."""
    wait = begin(timeout=15)
    assert wait.after_answer(GENERATING, 0.5, EVERY_TEN) == PollAgain(10.5)
    wait.begin_poll(10.5)
    assert wait.after_answer(GENERATING, 11, EVERY_TEN) == PollAgain(15)
    wait.begin_poll(15)
    verdict = wait.after_answer(GENERATING, 15.5, EVERY_TEN)
    assert isinstance(verdict, Failed)
    assert isinstance(verdict.error, errors.WaitTimedOut)


def test_a_late_answer_to_an_early_poll_is_not_the_last_word() -> None:
    """An answer that comes after the deadline, to a poll before it, is followed by a final poll."""
    wait = begin(timeout=15)
    assert wait.after_answer(GENERATING, 30, EVERY_TEN) == PollAgain(30)


def test_a_refused_key_concerns_every_wait() -> None:
    """A refused key ends all waits; what is about one task ends that one."""
    verdict = begin().after_error(errors.Unauthorized("401"), 1, EVERY_TEN, was_heard=True)
    assert isinstance(verdict, Failed)
    assert verdict.concerns_all
    verdict = begin().after_error(errors.BadRequest("422"), 1, EVERY_TEN, was_heard=True)
    assert isinstance(verdict, Failed)
    assert not verdict.concerns_all


def test_an_end_told_by_a_code_is_believed_when_repeated() -> None:
    """What only sister products document ends a task when it is said twice."""
    by_code = TaskDetails(task_id="t", status=TaskStatus.GENERATE_FAILED, by_code=True)
    wait = begin()
    assert wait.after_answer(by_code, 1, EVERY_TEN) == PollAgain(6)
    wait.begin_poll(6)
    assert wait.after_answer(by_code, 7, EVERY_TEN) == Ended(by_code)
    wait = begin()
    wait.after_answer(by_code, 1, EVERY_TEN)
    wait.begin_poll(6)
    wait.after_answer(GENERATING, 7, EVERY_TEN)
    wait.begin_poll(17)
    assert isinstance(wait.after_answer(by_code, 18, EVERY_TEN), PollAgain)


def test_polls_that_a_hint_chose_teach_nothing() -> None:
    """Hints come when tasks end, so the moments they choose would mislead the schedule."""
    schedule = PollSchedule(PollPolicy(jitter=0), seed=0)
    before = schedule.next_delay(0.0)
    for _ in range(50):
        wait = begin()
        wait.after_answer(GENERATING, 0.1, schedule)
        assert wait.hint(1.0) is not None
        wait.begin_poll(1.0)
        wait.after_answer(DONE, 1.1, schedule)
    assert schedule.next_delay(0.0) == before


CREATED = datetime(2026, 1, 6, 0, 16, 56, tzinfo=UTC)


def aged(seconds: float, details: TaskDetails = GENERATING) -> TaskDetails:
    return details.model_copy(
        update={"created_at": CREATED, "answered_at": CREATED + timedelta(seconds=seconds)}
    )


class AgesAskedFor:
    """A schedule that notes which ages it is asked about and told of."""

    def __init__(self) -> None:
        self.ages: list[float] = []
        self.told: list[tuple[str, float | None, float]] = []

    def next_delay(self, age: float) -> float:
        self.ages.append(age)
        return 10.0

    def jittered(self, seconds: float) -> float:
        return seconds

    def observe_pending(self, previous: float | None, this: float) -> None:
        self.told.append(("pending", previous, this))

    def observe_completion(self, previous: float | None, this: float) -> None:
        self.told.append(("completion", previous, this))


@pytest.mark.parametrize(
    ("age", "counts_from"),
    [(40.0, 40.0), (1.0, 0.0), (-30.0, 0.0), (8 * 3600.0 + 40, 0.0), (0.0, 0.0)],
)
def test_a_reattached_task_is_polled_by_its_true_age(age: float, counts_from: float) -> None:
    """The age by the service's own clock counts where it is plausible, else that of the wait."""
    schedule = AgesAskedFor()
    wait = begin(timeout=500)
    wait.after_answer(aged(age), 0.0, schedule)
    wait.begin_poll(10.0)
    wait.after_answer(aged(age + 10), 10.0, schedule)
    assert schedule.ages == [counts_from, counts_from + 10]
    assert schedule.told[1:] == [("pending", counts_from, counts_from + 10)]


def test_an_age_is_learned_when_a_task_is_first_seen() -> None:
    """A task that record-info did not show at first is aged by its first answer."""
    schedule = AgesAskedFor()
    wait = begin(timeout=500)
    wait.after_error(errors.UnknownTask("404"), 0.0, schedule, was_heard=True)
    wait.begin_poll(5.0)
    wait.after_answer(aged(65), 5.0, schedule)
    assert schedule.ages == [65]


def test_a_hinted_end_teaches_what_the_service_tells() -> None:
    """A callback chooses when its task is polled; when it ended is told by the service's times."""
    schedule = AgesAskedFor()
    wait = begin(timeout=500)
    wait.after_answer(aged(0), 0.0, schedule)
    wait.hint(8.0)
    wait.begin_poll(8.0)
    done = DONE.model_copy(update={"completed_at": CREATED + timedelta(seconds=7)})
    wait.after_answer(aged(8, done), 8.0, schedule)
    assert schedule.told[1:] == [("pending", 0.0, 5.0), ("completion", 5.0, 8.0)]


answers = st.sampled_from(
    [
        GENERATING,
        DONE.model_copy(update={"result_urls": ()}),
        errors.RateLimited("429", retry_after=7),
        errors.RateLimited("429"),
        errors.ServerError("502"),
        errors.ServerError("500", code=500),
        errors.Forbidden("403"),
        errors.NetworkError("reset"),
        errors.UnknownTask("404", task_id="t"),
    ]
)


@given(
    script=st.lists(st.tuples(answers, st.floats(0, 40), st.booleans()), max_size=60),
    timeout=st.floats(0.1, 500),
    just_submitted=st.booleans(),
)
def test_every_wait_ends_after_a_final_poll(
    script: list[tuple[TaskDetails | errors.NanoBananaError, float, bool]],
    timeout: float,
    just_submitted: bool,
) -> None:
    """Whatever is answered, however late, polls are never in the past and the wait runs out.

    It runs out only by a poll that was sent at its deadline.
    """
    schedule = PollSchedule(PollPolicy(), seed=0)
    wait = Wait("t", started=0.0, timeout=timeout, just_submitted=just_submitted)
    now = sent_at = 0.0
    for answer, latency, is_hinted in [*script, *[(GENERATING, 1.0, False)] * 2000]:
        wait.begin_poll(now)
        sent_at = now
        now += latency
        if isinstance(answer, TaskDetails):
            verdict = wait.after_answer(answer, now, schedule)
        else:
            verdict = wait.after_error(answer, now, schedule, was_heard=True)
        if not isinstance(verdict, PollAgain):
            break
        assert math.isfinite(verdict.scheduled)
        assert now <= verdict.scheduled <= max(now, wait.deadline) + 45
        due = min(verdict.scheduled, verdict.hinted or math.inf)
        assert due >= now
        if is_hinted and (again := wait.hint(now)):
            due = min(due, again.hinted or math.inf)
        now = max(now, due)
    assert isinstance(verdict, Failed)
    if isinstance(verdict.error, errors.WaitTimedOut):
        assert sent_at >= 0.98 * timeout


@pytest.mark.parametrize(("just_submitted", "bears"), [(False, False), (True, True)])
def test_grace_of_a_new_task(just_submitted: bool, bears: bool) -> None:
    """An id that the service has just given is borne with for the whole wait, others for 15 s."""
    wait = begin(just_submitted=just_submitted)
    unknown = errors.UnknownTask("404", task_id="t")
    assert isinstance(wait.after_error(unknown, 0.1, EVERY_TEN, was_heard=True), PollAgain)
    wait.begin_poll(16)
    verdict = wait.after_error(unknown, 16.2, EVERY_TEN, was_heard=True)
    assert isinstance(verdict, PollAgain) is bears
