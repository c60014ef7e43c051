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
    """Answers looks from a script: by task id, when it is done and what goes wrong before."""

    def __init__(self, latency: float = 0.05) -> None:
        self.latency = latency
        self.done_at: dict[str, float] = {}
        self.trouble: Callable[[str, float], Exception | None] = lambda _, __: None
        self.looks: list[tuple[float, str]] = []
        self.in_flight = 0
        self.peak_in_flight = 0

    async def look(self, task_id: str) -> TaskDetails:
        now = asyncio.get_running_loop().time()
        self.looks.append((now, task_id))
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
    waiter = TaskWaiter(service.look, policy, seed=0)
    try:
        await waiter.watch("t", timeout).ended()
        return asyncio.get_running_loop().time()
    finally:
        await waiter.aclose()


def until(moment: float, error: Exception) -> Callable[[str, float], Exception | None]:
    return lambda _, now: error if now < moment else None


def test_looks_at_once_and_then_by_the_policy() -> None:
    """A task of unknown age is looked at at once, then as the policy says, until it is done."""
    service = Service()
    service.done_at["t"] = 65
    run_in_virtual_time(wait(service, policy=PollPolicy.documented()))
    assert [round(at) for at, _ in service.looks] == [0, 30, 60, 90]


def test_what_never_answered_is_not_told_to_be_generating() -> None:
    """Where no look was answered, the end of the time says nothing of the task."""
    service = Service()
    service.done_at["other"] = 0
    service.trouble = until(1e9, errors.RateLimited("slower (429).", task_id="t"))
    with pytest.raises(errors.WaitTimedOut, match="not known to have ended after"):
        run_in_virtual_time(wait(service, timeout=45))


def test_final_look_at_the_deadline() -> None:
    """A task that ends just before its deadline is found by a last look at the deadline."""
    service = Service()
    service.done_at["t"] = 40
    ended = run_in_virtual_time(wait(service, timeout=45, policy=PollPolicy.documented()))
    assert ended == pytest.approx(45.05)


def test_timeout_tells_what_was_seen() -> None:
    """A wait that runs out says how long it took and what the last trouble was."""
    service = Service()
    service.trouble = until(1e9, errors.ServerError("the API failed (502).", task_id="t"))
    with pytest.raises(errors.WaitTimedOut, match=r"after 60 s.*the API failed \(502\)") as caught:
        run_in_virtual_time(wait(service, timeout=60))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.task_id == "t"


def test_deadline_holds_when_the_api_hangs() -> None:
    """A look that never ends does not hold a wait much past its deadline."""
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
    """The service's own word on when to come back holds for the next look."""
    service = Service()
    service.done_at["t"] = 0
    service.trouble = until(1, errors.ServerError("503", http_status=503, retry_after=77))
    run_in_virtual_time(wait(service))
    assert [round(at) for at, _ in service.looks] == [0, 77]


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
def test_what_may_be_for_good_is_bounded(
    error: errors.NanoBananaError, first: float, last: float
) -> None:
    """What may pass or may be for good gets its time, and then ends the wait."""
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
    looks = 0

    async def look(_: str) -> TaskDetails:
        nonlocal looks
        looks += 1
        return bare if looks < 3 else bare.model_copy(update={"result_urls": ("https://h/i",)})

    service.look = look  # type: ignore[method-assign]  # the one case scripted by hand
    run_in_virtual_time(wait(service))
    assert looks == 3
    looks = -100
    with pytest.raises(errors.ImageUnavailable, match="gives no image URL"):
        run_in_virtual_time(wait(service))
    assert looks == -95


def test_refused_key_ends_every_wait_with_its_own_error() -> None:
    """A refused key concerns all: every wait ends at once, each with an error of its own."""
    service = Service()
    service.trouble = lambda task_id, _: errors.Unauthorized("401") if task_id == "7" else None

    async def scenario() -> None:
        waiter = TaskWaiter(service.look, EVERY_SECOND)
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
        waiter = TaskWaiter(service.look, EVERY_SECOND, max_in_flight=1)
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
        waiter = TaskWaiter(service.look, EVERY_SECOND)
        first, second = waiter.watch("a", 100), waiter.watch("b", 100)
        with pytest.raises(ZeroDivisionError):
            await first.ended()
        assert (await second.ended()).status is TaskStatus.SUCCESS
        await waiter.aclose()

    run_in_virtual_time(scenario())


def test_wake_looks_now() -> None:
    """A woken task is looked at at once, others are not; waking a stranger is no error."""
    service = Service()
    service.done_at |= {"a": 3, "b": 3}

    async def scenario() -> None:
        waiter = TaskWaiter(service.look, PollPolicy.documented())
        first, second = waiter.watch("a", 100), waiter.watch("b", 100)
        await asyncio.sleep(4)
        assert waiter.wake("a")
        assert not waiter.wake("stranger")
        await first.ended()
        assert asyncio.get_running_loop().time() == pytest.approx(4.05)
        await second.ended()
        await waiter.aclose()

    run_in_virtual_time(scenario())
    assert [(round(at), task_id) for at, task_id in service.looks] == [
        (0, "a"),
        (0, "b"),
        (4, "a"),
        (30, "b"),
    ]


def test_wake_during_a_look_looks_again() -> None:
    """A wake that comes while an older look is under way is not lost."""
    service = Service(latency=2)
    service.done_at["t"] = 1

    async def scenario() -> float:
        waiter = TaskWaiter(service.look, PollPolicy.documented())
        watch = waiter.watch("t", 100)
        await asyncio.sleep(1)
        waiter.wake("t")
        await watch.ended()
        await waiter.aclose()
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(scenario()) == pytest.approx(4)


def test_cancelled_wait_is_forgotten() -> None:
    """A cancelled wait is not looked at again, and closing leaves nothing running."""
    service = Service()

    async def scenario() -> None:
        waiter = TaskWaiter(service.look, EVERY_SECOND)
        waiting = asyncio.create_task(waiter.watch("t", 100).ended())
        await asyncio.sleep(2.5)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiter.waiting == 0
        await asyncio.sleep(10)
        assert len(service.looks) == 3
        other = waiter.watch("u", 100)
        await asyncio.sleep(0.01)
        await waiter.aclose()
        with pytest.raises(errors.NanoBananaError, match="closed"):
            await other.ended()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_virtual_time(scenario())
    assert service.in_flight == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeout_must_be_meant(timeout: float) -> None:
    """A timeout that is no positive number of seconds is refused before anything is asked."""
    service = Service()
    with pytest.raises(errors.InvalidInput, match="timeout"):
        run_in_virtual_time(wait(service, timeout=timeout))
    assert service.looks == []


def test_ten_thousand_tasks_keep_the_budget() -> None:
    """10,000 waits share one budget: no second sees more requests than it allows, all end."""
    service = Service(latency=0.2)
    generator = random.Random(1)
    service.done_at = {f"t{n}": generator.lognormvariate(2.9, 0.55) for n in range(10_000)}
    budget = RequestBudget(100)

    async def look(task_id: str) -> TaskDetails:
        await budget.acquire()
        return await service.look(task_id)

    async def scenario() -> None:
        waiter = TaskWaiter(look, PollPolicy(), max_in_flight=30, seed=0)
        watches = [waiter.watch(task_id, 3000) for task_id in service.done_at]
        await asyncio.gather(*(watch.ended() for watch in watches))
        await waiter.aclose()

    run_in_virtual_time(scenario())
    per_second = Counter(int(at) for at, _ in service.looks)
    assert max(per_second.values()) <= 101
    assert service.peak_in_flight <= 30
    assert len(service.looks) < 6 * len(service.done_at)


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
