"""One waiter waits for many tasks, rides out what passes, and ends what does not."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from nanobanana_blocks import PollPolicy, TaskDetails, TaskStatus, errors
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.waiting import TaskWaiter
from tests.support.virtual_time import run_in_virtual_time

EVERY_SECOND = PollPolicy.fixed(1)


class Service:
    """Answers polls from a script: by task id, when it is done and what goes wrong before."""

    def __init__(self, latency: float = 0.05) -> None:
        self.latency = latency
        self.done_at: dict[str, float] = {}
        self.trouble: Callable[[str, float], Exception | None] = lambda _, __: None
        self.polls: list[tuple[float, str]] = []
        self.in_flight = 0
        self.peak_in_flight = 0

    async def poll(self, task_id: str) -> TaskDetails:
        now = asyncio.get_running_loop().time()
        self.polls.append((now, task_id))
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        if error := self.trouble(task_id, now):
            raise error
        done = now >= self.done_at.get(task_id, float("inf"))
        return TaskDetails(
            task_id=task_id,
            status=TaskStatus.SUCCESS if done else TaskStatus.GENERATING,
            result_urls=("https://h/i.png",) if done else (),
        )


async def wait(service: Service, timeout: float = 100, policy: PollPolicy = EVERY_SECOND) -> float:
    """Wait for task `t`; return the virtual time at which it was seen to have ended."""
    waiter = TaskWaiter(service.poll, policy, seed=0)
    try:
        await waiter.watch("t", timeout).ended()
        return asyncio.get_running_loop().time()
    finally:
        await waiter.aclose()


def until(moment: float, error: Exception) -> Callable[[str, float], Exception | None]:
    return lambda _, now: error if now < moment else None


def test_polls_at_once_and_then_by_the_policy() -> None:
    """A task of unknown age is polled at once, then as the policy says, until it is done."""
    service = Service()
    service.done_at["t"] = 65
    run_in_virtual_time(wait(service, policy=PollPolicy.documented()))
    assert [round(at) for at, _ in service.polls] == [0, 30, 60, 90]


def test_what_never_answered_is_not_told_to_be_generating() -> None:
    """Where no poll was answered, the end of the time says nothing of the task."""
    service = Service()
    service.done_at["other"] = 0
    service.trouble = until(1e9, errors.RateLimited("slower (429).", task_id="t"))
    with pytest.raises(errors.WaitTimedOut, match="not known to have ended after"):
        run_in_virtual_time(wait(service, timeout=45))


def test_final_poll_at_the_deadline() -> None:
    """A task that ends just before its deadline is found by a last poll at the deadline."""
    service = Service()
    service.done_at["t"] = 40
    ended = run_in_virtual_time(wait(service, timeout=45, policy=PollPolicy.documented()))
    assert ended == pytest.approx(45.05)


def test_timeout_tells_what_was_seen() -> None:
    """A wait that runs out says how long it took and what the last trouble was."""
    service = Service()
    service.trouble = until(1e9, errors.ServerError("the API failed (502).", task_id="t"))
    with pytest.raises(errors.WaitTimedOut, match=r"after 6\d s.*the API failed \(502\)") as caught:
        run_in_virtual_time(wait(service, timeout=60))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.task_id == "t"


def test_deadline_holds_when_the_api_hangs() -> None:
    """A poll that never ends does not hold a wait much past its deadline."""
    service = Service(latency=10_000)
    with pytest.raises(errors.WaitTimedOut):
        run_in_virtual_time(wait(service, timeout=60))


@pytest.mark.parametrize(
    "error",
    [
        errors.ServerError("502", http_status=502),
        errors.RateLimited("429"),
        errors.NetworkError("reset"),
        errors.ServerError("maintenance", code=455),
    ],
)
def test_storms_are_ridden_out(error: errors.NanoBananaError) -> None:
    """What passes by itself does not end a wait, even after minutes, once the API was heard."""
    service = Service()
    service.done_at["t"] = 5
    service.trouble = lambda _, now: error if 1 < now < 300 else None
    assert 300 <= run_in_virtual_time(wait(service, timeout=900)) < 340


def test_retry_after_is_honoured() -> None:
    """The service's own word on when to come back holds for the next poll."""
    service = Service()
    service.done_at["t"] = 0
    service.trouble = until(1, errors.ServerError("503", http_status=503, retry_after=77))
    run_in_virtual_time(wait(service))
    assert [round(at) for at, _ in service.polls] == [0, 77]


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (errors.UnknownTask("?", task_id="t"), 15, 20),
        (errors.ServerError("Server exception", code=500, task_id="t"), 120, 151),
        (errors.ProtocolError("?", task_id="t"), 2, 5),
        (errors.BadRequest("?", task_id="t"), 0, 1),
        (errors.NetworkError("refused", task_id="t"), 30, 61),
    ],
)
def test_what_may_be_permanent_is_bounded(
    error: errors.NanoBananaError, first: float, last: float
) -> None:
    """What may pass or may be permanent gets its time, and then ends the wait."""
    service = Service()
    service.trouble = until(1e9, error)

    async def scenario() -> float:
        with pytest.raises(type(error)):
            await wait(service, timeout=900)
        return asyncio.get_running_loop().time()

    assert first <= run_in_virtual_time(scenario()) <= last


def test_new_task_may_be_invisible() -> None:
    """An id that is unknown at first is waited for."""
    service = Service()
    service.done_at["t"] = 20
    service.trouble = until(10, errors.UnknownTask("?", task_id="t"))
    assert run_in_virtual_time(wait(service)) < 22


def test_success_without_url_is_asked_again() -> None:
    """A success flag that runs ahead of its URL is asked again a few times, then an error."""
    service = Service()
    bare = TaskDetails(task_id="t", status=TaskStatus.SUCCESS)
    polls = 0

    async def poll(_: str) -> TaskDetails:
        nonlocal polls
        polls += 1
        return bare if polls < 3 else bare.model_copy(update={"result_urls": ("https://h/i",)})

    service.poll = poll  # type: ignore[method-assign]  # the one case scripted by hand
    run_in_virtual_time(wait(service))
    assert polls == 3
    polls = -100
    with pytest.raises(errors.ImageUnavailable, match="gives no image URL"):
        run_in_virtual_time(wait(service))
    assert polls == -95


def test_refused_key_ends_every_wait_with_its_own_error() -> None:
    """A refused key concerns all: every wait ends at once, each with an error of its own."""
    service = Service()
    service.trouble = lambda task_id, _: errors.Unauthorized("401") if task_id == "7" else None

    async def scenario() -> None:
        waiter = TaskWaiter(service.poll, EVERY_SECOND)
        watches = [waiter.watch(str(number), 100) for number in range(10)]
        found = await asyncio.gather(*(w.ended() for w in watches), return_exceptions=True)
        assert all(isinstance(error, errors.Unauthorized) for error in found)
        assert all(error.is_fatal for error in found if isinstance(error, errors.APIError))
        assert len({id(error) for error in found}) == 10
        assert waiter.waiting == 0
        await waiter.aclose()

    run_in_virtual_time(scenario())


def test_what_is_not_the_api_ends_every_wait() -> None:
    """A base URL that never answers like the API ends all waits; one odd answer later does not."""
    service = Service()
    service.done_at |= {"a": 3, "b": 30}

    async def scenario(odd: Callable[[str, float], Exception | None]) -> list[object]:
        service.trouble = odd
        waiter = TaskWaiter(service.poll, EVERY_SECOND, max_in_flight=1)
        watches = [waiter.watch(task_id, 100) for task_id in ("a", "b")]
        found = await asyncio.gather(*(w.ended() for w in watches), return_exceptions=True)
        await waiter.aclose()
        return [getattr(item, "is_fatal", None) for item in found]

    odd = errors.ProtocolError("<html>")
    assert run_in_virtual_time(scenario(until(1e9, odd))) == [True, True]
    later = run_in_virtual_time(
        scenario(lambda task_id, now: odd if task_id == "b" and now > 5 else None)
    )
    assert later == [None, False]


def test_a_bug_ends_only_its_own_wait() -> None:
    """An error that nobody foresaw reaches the one who waits, and no one else."""
    service = Service()
    service.done_at["b"] = 3
    service.trouble = lambda task_id, _: ZeroDivisionError() if task_id == "a" else None

    async def scenario() -> None:
        waiter = TaskWaiter(service.poll, EVERY_SECOND)
        first, second = waiter.watch("a", 100), waiter.watch("b", 100)
        with pytest.raises(ZeroDivisionError):
            await first.ended()
        assert (await second.ended()).status is TaskStatus.SUCCESS
        await waiter.aclose()

    run_in_virtual_time(scenario())


def test_wake_polls_now() -> None:
    """A woken task is polled at once, others are not; waking a stranger is no error."""
    service = Service()
    service.done_at |= {"a": 3, "b": 3}

    async def scenario() -> None:
        waiter = TaskWaiter(service.poll, PollPolicy.documented())
        first, second = waiter.watch("a", 100), waiter.watch("b", 100)
        await asyncio.sleep(4)
        assert waiter.wake("a")
        assert not waiter.wake("stranger")
        await first.ended()
        assert asyncio.get_running_loop().time() == pytest.approx(4.05)
        await second.ended()
        await waiter.aclose()

    run_in_virtual_time(scenario())
    assert [(round(at), task_id) for at, task_id in service.polls] == [
        (0, "a"),
        (0, "b"),
        (4, "a"),
        (30, "b"),
    ]


def test_wake_during_a_poll_polls_again() -> None:
    """A wake that comes while an older poll is under way is not lost."""
    service = Service(latency=2)
    service.done_at["t"] = 1

    async def scenario() -> float:
        waiter = TaskWaiter(service.poll, PollPolicy.documented())
        watch = waiter.watch("t", 100)
        await asyncio.sleep(1)
        waiter.wake("t")
        await watch.ended()
        await waiter.aclose()
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(scenario()) == pytest.approx(4)


def test_cancelled_wait_is_forgotten() -> None:
    """A cancelled wait is not polled again, and closing leaves nothing running."""
    service = Service()

    async def scenario() -> None:
        waiter = TaskWaiter(service.poll, EVERY_SECOND)
        waiting = asyncio.create_task(waiter.watch("t", 100).ended())
        await asyncio.sleep(2.5)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiter.waiting == 0
        await asyncio.sleep(10)
        assert len(service.polls) == 3
        other = waiter.watch("u", 100)
        await asyncio.sleep(0.01)
        await waiter.aclose()
        with pytest.raises(errors.NanoBananaError, match="closed"):
            await other.ended()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_virtual_time(scenario())
    assert service.in_flight == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_an_invalid_timeout_is_refused(timeout: float) -> None:
    """A timeout that is no positive number of seconds is refused before anything is asked."""
    service = Service()
    with pytest.raises(errors.InvalidInput, match="timeout"):
        run_in_virtual_time(wait(service, timeout=timeout))
    assert service.polls == []


def test_ten_thousand_tasks_keep_the_budget() -> None:
    """10,000 waits share one budget: no second sees more requests than it allows, all end."""
    service = Service(latency=0.2)
    generator = random.Random(1)
    service.done_at = {f"t{n}": generator.lognormvariate(2.9, 0.55) for n in range(10_000)}
    budget = RequestBudget(100)

    async def poll(task_id: str) -> TaskDetails:
        await budget.acquire()
        return await service.poll(task_id)

    async def scenario() -> None:
        waiter = TaskWaiter(poll, PollPolicy(), max_in_flight=30, seed=0)
        watches = [waiter.watch(task_id, 3000) for task_id in service.done_at]
        await asyncio.gather(*(watch.ended() for watch in watches))
        await waiter.aclose()

    run_in_virtual_time(scenario())
    per_second = Counter(int(at) for at, _ in service.polls)
    assert max(per_second.values()) <= 101
    assert service.peak_in_flight <= 30
    assert len(service.polls) < 6 * len(service.done_at)


def test_refusals_slow_the_budget_down() -> None:
    """After a refusal everybody pauses, then goes on more slowly, then wins the rate back."""

    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        budget = RequestBudget(10)
        await budget.acquire()
        budget.refused()
        budget.refused()
        assert budget.requests_per_second == 5
        await budget.acquire()
        assert clock() == pytest.approx(2)
        budget.refused(retry_after=30)
        await budget.acquire()
        assert clock() == pytest.approx(32)
        for _ in range(100):
            budget.answered()
        assert budget.requests_per_second == 10

    run_in_virtual_time(scenario())


def test_every_wait_has_its_final_poll() -> None:
    """4,000 waits at 20 requests/s, all done 50 s before the deadline: all are found, in budget."""
    service = Service()
    service.done_at = {f"t{n}": 550.0 for n in range(4000)}
    budget = RequestBudget(20)

    async def poll(task_id: str) -> TaskDetails:
        await budget.acquire()
        return await service.poll(task_id)

    async def scenario() -> list[object]:
        waiter = TaskWaiter(poll, PollPolicy(), seed=0)
        watches = [waiter.watch(task_id, 600) for task_id in service.done_at]
        found = await asyncio.gather(*(w.ended() for w in watches), return_exceptions=True)
        await waiter.aclose()
        return list(found)

    found = run_in_virtual_time(scenario())
    assert [error for error in found if isinstance(error, Exception)] == []
    assert max(Counter(int(at) for at, _ in service.polls).values()) <= 21


def test_a_final_poll_that_is_refused_is_tried_again() -> None:
    """A passing error at the deadline does not hide that the task has ended."""
    service = Service()
    service.done_at["t"] = 40
    service.trouble = lambda _, now: errors.RateLimited("429") if 44 < now < 45.5 else None
    ended = run_in_virtual_time(wait(service, timeout=45, policy=PollPolicy.documented()))
    assert 45.5 < ended < 50


def test_waits_end_where_nothing_is_answered() -> None:
    """Where the API is silent, waits do not queue for final polls that nobody would answer."""
    service = Service(latency=30)
    service.trouble = until(1e9, errors.NetworkError("no answer within 30 s"))

    async def scenario() -> float:
        waiter = TaskWaiter(service.poll, PollPolicy(), seed=0)
        waiter._was_heard = True  # the API answered before it fell silent
        watches = [waiter.watch(str(number), 200) for number in range(2000)]
        found = await asyncio.gather(*(w.ended() for w in watches), return_exceptions=True)
        assert all(isinstance(error, errors.WaitTimedOut) for error in found)
        await waiter.aclose()
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(scenario()) <= 245


class Wakes:
    """A wait for task `t` at 30 s intervals, hinted at the given times."""

    def __init__(self, service: Service, hints: list[float]) -> None:
        self.service = service
        self.hints = hints

    async def ended_at(self) -> float:
        waiter = TaskWaiter(self.service.poll, PollPolicy.documented(), seed=0)
        loop = asyncio.get_running_loop()
        watch = waiter.watch("t", 900)
        for at in self.hints:
            loop.call_at(at, waiter.wake, "t")
        try:
            await watch.ended()
            return loop.time()
        finally:
            await waiter.aclose()


def test_a_hint_ahead_of_record_info_holds() -> None:
    """A callback that comes before record-info knows has the task found soon, not a poll later."""
    service = Service()
    service.done_at["t"] = 12
    assert run_in_virtual_time(Wakes(service, [3]).ended_at()) < 15
    assert len(service.polls) <= 6


def test_a_true_hint_after_a_forged_one_counts() -> None:
    """A hint that was forged before the task ended does not use up the true one."""
    service = Service()
    service.done_at["t"] = 75
    ended = run_in_virtual_time(Wakes(service, [2, 75]).ended_at())
    assert ended == pytest.approx(75.05)


def test_unconfirmed_hints_end() -> None:
    """A hint that record-info never confirms costs a few polls, further and further apart."""
    service = Service()
    service.done_at["t"] = 150
    run_in_virtual_time(Wakes(service, [3]).ended_at())
    hinted = [round(at) for at, _ in service.polls if round(at) % 30]
    assert hinted == [3, 5, 8, 13, 21]


def test_forged_hints_delay_nothing() -> None:
    """The polls of the schedule stay where they are, however often a task is said to have ended."""
    service = Service()
    service.done_at["t"] = 119.5
    hints = [number / 10 for number in range(30, 1190)]
    ended = run_in_virtual_time(Wakes(service, hints).ended_at())
    assert ended <= 120.2
    moments = [at for at, _ in service.polls]
    assert all(any(abs(at - due) < 0.3 for at in moments) for due in (30, 60, 90, 120))
    assert len(moments) <= 120 / 2 + 5


def test_a_flood_of_forged_hints_leaves_room_for_others() -> None:
    """Polls because of repeated hints take their share of the requests, and no more."""
    service = Service()
    service.done_at["other"] = 95
    budget = RequestBudget(10)

    async def poll(task_id: str) -> TaskDetails:
        await budget.acquire()
        return await service.poll(task_id)

    async def flood(waiter: TaskWaiter) -> None:
        while True:
            await asyncio.sleep(0.5)
            for number in range(100):
                waiter.wake(str(number))

    async def scenario() -> float:
        policy = PollPolicy(mode="fixed", interval_seconds=30, requests_per_second=10)
        waiter = TaskWaiter(poll, policy, seed=0)
        for number in range(100):
            waiter.watch(str(number), 900)
        flooding = asyncio.create_task(flood(waiter))
        await asyncio.sleep(60)
        watch = waiter.watch("other", 900)
        await watch.ended()
        ended = asyncio.get_running_loop().time()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        await waiter.aclose()
        return ended

    assert run_in_virtual_time(scenario()) < 60 + 2 * 30 + 5


def test_a_hint_restarts_the_grace_of_an_unknown_task() -> None:
    """An id that somebody calls back about is given time again to become visible."""
    service = Service()
    service.done_at["t"] = 0
    service.trouble = until(24, errors.UnknownTask("?", task_id="t"))
    assert run_in_virtual_time(Wakes(service, [12]).ended_at()) < 30
    with pytest.raises(errors.UnknownTask):
        run_in_virtual_time(Wakes(service, []).ended_at())


def test_a_hint_waits_for_retry_after() -> None:
    """The service's own word on when to come back holds for what callbacks ask for as well."""
    service = Service()
    service.done_at["t"] = 0
    service.trouble = until(1, errors.ServerError("503", http_status=503, retry_after=20))
    run_in_virtual_time(Wakes(service, [2, 4]).ended_at())
    assert [round(at) for at, _ in service.polls] == [0, 20]


def test_a_task_just_submitted_is_not_unknown() -> None:
    """An id that the service has just given may be unknown for long; one from elsewhere may not."""
    service = Service()
    service.done_at["t"] = 0
    service.trouble = until(80, errors.UnknownTask("?", task_id="t"))

    async def scenario(just_submitted: bool, timeout: float) -> float:
        waiter = TaskWaiter(service.poll, EVERY_SECOND, seed=0)
        try:
            await waiter.watch("t", timeout, just_submitted=just_submitted).ended()
            return asyncio.get_running_loop().time()
        finally:
            await waiter.aclose()

    assert 80 <= run_in_virtual_time(scenario(True, 300)) < 86
    with pytest.raises(errors.UnknownTask):
        run_in_virtual_time(scenario(False, 300))
    with pytest.raises(errors.WaitTimedOut, match="not known to have ended"):
        run_in_virtual_time(scenario(True, 60))
