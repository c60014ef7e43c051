"""One waiter for any number of generation tasks: a queue, and a few polls in flight.

What follows from an answer is decided in `wait_state`, when to poll in `schedule`; this module
polls through a function and sends nothing itself. The request budget is the function's to respect.
Times are on the event loop's monotonic clock.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from nanobanana_blocks.api.details import TaskDetails
from nanobanana_blocks.api.planner import PollPlanner
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.wait_state import (
    DEFAULT_PATIENCE,
    Ended,
    Failed,
    Patience,
    PollAgain,
    Verdict,
    Wait,
)
from nanobanana_blocks.errors import (
    APIError,
    InvalidInput,
    NanoBananaError,
    NetworkError,
    ProtocolError,
)

SILENCE_SECONDS = 150.0
"""Where no poll was answered for so long, waits past their deadline end without a final poll.

A pause that the service asks for lasts 120 s at most, and a request 30 s.
"""

CHECK_SECONDS = 10.0
"""How often such silence is looked for."""

ENDED_AT_ONCE = 200
"""After so many waits ended together, others have a turn on the event loop."""

HINTED_SHARE = 0.5
"""What polls after unconfirmed or repeated hints may take of the requests allowed."""

Poll = Callable[[str], Awaitable[TaskDetails]]


class Watch:
    """One generation task being waited for.

    Attributes:
        waited_seconds: From the start of the wait to its end, or 0 while it lasts.
    """

    __slots__ = ("due", "ending", "state", "waited_seconds")

    def __init__(self, state: Wait, ending: asyncio.Future[TaskDetails]) -> None:
        """For `TaskWaiter`, which alone uses `state`, `ending` and `due`."""
        self.state = state
        self.ending = ending
        self.due = state.started
        self.waited_seconds = 0.0

    @property
    def task_id(self) -> str:
        """The generation task."""
        return self.state.task_id

    @property
    def polls(self) -> int:
        """Polls taken so far."""
        return self.state.polls

    async def ended(self) -> TaskDetails:
        """The task's final details.

        Raises:
            NanoBananaError: What `NanoBananaClient.wait_for_task` raises.
        """
        return await self.ending


class TaskWaiter:
    """Waits for many generation tasks at once.

    Args:
        poll: Asks about one task, once; raises `APIError`.
        policy: When to poll.
        max_in_flight: Polls under way at most.
        patience: What errors are borne, and how long.
        seed: Makes the schedule's jitter repeatable.

    Attributes:
        planner: Plans the polls; it has what was learned.
    """

    def __init__(
        self,
        poll: Poll,
        policy: PollPolicy,
        *,
        max_in_flight: int = 8,
        patience: Patience = DEFAULT_PATIENCE,
        seed: int | None = None,
    ) -> None:
        self._poll = poll
        self._patience = patience
        self.planner = PollPlanner(policy, seed=seed)
        self._slots = asyncio.Semaphore(max_in_flight)
        self._queue = _PollQueue()
        self._watches: dict[str, list[Watch]] = {}
        self._polls: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._was_heard = False
        self._silence = _Silence(max(SILENCE_SECONDS, 10 / policy.requests_per_second))
        self._hinted_polls = _Allowance(HINTED_SHARE * policy.requests_per_second)
        self._endings = _Endings()
        self._check: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many waits are under way."""
        return sum(map(len, self._watches.values()))

    def watch(self, task_id: str, timeout: float, *, just_submitted: bool = False) -> Watch:
        """Begin to wait for a task; the first poll is due at once.

        Args:
            task_id: The generation task.
            timeout: Seconds to wait at most; one final poll follows.
            just_submitted: The service itself has just given this id. It may then be unknown to
                record-info for as long as it is waited for, and not for 15 s.
        """
        check_timeout(timeout)
        loop = asyncio.get_running_loop()
        state = Wait(
            task_id,
            started=loop.time(),
            timeout=timeout,
            just_submitted=just_submitted,
            patience=self._patience,
        )
        watch = Watch(state, loop.create_future())
        watch.ending.add_done_callback(lambda _: self._forget(watch))
        self._watches.setdefault(task_id, []).append(watch)
        self._queue.push(watch, state.started)
        if self._dispatcher is None:
            self._dispatcher = loop.create_task(self._dispatch())
        if self._check is None:
            self._silence.broken(state.started)
            self._check = loop.call_later(CHECK_SECONDS, self._check_for_silence)
        return watch

    def wake(self, task_id: str) -> bool:
        """Poll a task soon, since it is said to have ended; return whether anybody waits for it.

        A hint holds until record-info confirms it, or through a short series of polls. It only
        adds polls; all but the first of a wait share a part of the requests allowed.
        """
        watches = self._watches.get(task_id, ())
        now = _now()
        for watch in watches:
            is_first = not watch.state.is_hinted
            if again := watch.state.hint(now):
                due = self._due(again, now, is_spared=is_first)
                if due < watch.due:
                    self._queue.push(watch, due)
        return bool(watches)

    async def aclose(self) -> None:
        """End all waits with an error, and leave nothing running."""
        running = [task for task in (self._dispatcher, *self._polls) if task]
        self._dispatcher = None
        for task in running:
            task.cancel()
        for watch in self._all_watches():
            error = NanoBananaError("the client was closed meanwhile.", task_id=watch.task_id)
            _fail(watch, error)
        self._endings.drop()
        if self._check:
            self._check.cancel()
            self._check = None
        await asyncio.gather(*running, return_exceptions=True)

    def _forget(self, watch: Watch) -> None:
        watch.waited_seconds = _now() - watch.state.started
        self.planner.forget(watch.state)
        watches = self._watches[watch.task_id]
        watches.remove(watch)
        if not watches:
            del self._watches[watch.task_id]

    def _all_watches(self) -> list[Watch]:
        return list(itertools.chain.from_iterable(self._watches.values()))

    async def _dispatch(self) -> None:
        while True:
            await self._slots.acquire()
            watch = await self._queue.next_due()
            watch.state.begin_poll(_now())
            poll = asyncio.get_running_loop().create_task(self._poll_once(watch))
            self._polls.add(poll)
            poll.add_done_callback(self._polls.discard)

    async def _poll_once(self, watch: Watch) -> None:
        try:
            verdict = await self._ask(watch.state)
        except Exception as error:
            _fail(watch, error)
        else:
            self._settle(watch, verdict)
        finally:
            self._slots.release()

    async def _ask(self, state: Wait) -> Verdict:
        try:
            details = await self._poll(state.task_id)
        except NanoBananaError as error:
            if isinstance(error, APIError) and not isinstance(error, NetworkError):
                self._silence.broken(_now())
                self._was_heard |= not isinstance(error, ProtocolError)
            return self.planner.after_error(state, error, _now(), was_heard=self._was_heard)
        self._was_heard = True
        self._silence.broken(_now())
        verdict, others = self.planner.after_answer(state, details, _now())
        for other in others:
            self._plan_anew(other)
        return verdict

    def _plan_anew(self, state: Wait) -> None:
        """Poll a task at another time, since its turn has come, or there are no turns."""
        for watch in self._watches.get(state.task_id, ()):
            if watch.state is state and not state.is_polling:
                is_hinted = watch.due < state.scheduled
                due = min(self.planner.next_due(state, _now()), state.deadline)
                state.scheduled = max(due, _now())
                if state.scheduled < watch.due or not is_hinted:
                    self._queue.push(watch, state.scheduled)

    def _settle(self, watch: Watch, verdict: Verdict) -> None:
        if watch.ending.done():
            return
        match verdict:
            case Ended(details):
                watch.ending.set_result(details)
            case Failed(error, concerns_all=True):
                if not self._endings.is_busy:  # else the answer to another poll has ended all
                    self._endings.add(self._all_watches(), lambda _: _fatal(error))
                _fail(watch, _fatal(error))
            case Failed(error):
                _fail(watch, error)
            case PollAgain():
                self._queue.push(watch, self._due(verdict, _now()))

    def _due(self, again: PollAgain, now: float, *, is_spared: bool = False) -> float:
        """When the next poll is due; polls because of hints keep to their share."""
        if again.hinted is None or again.hinted >= again.scheduled:
            return again.scheduled
        if is_spared:
            return again.hinted
        return min(again.scheduled, self._hinted_polls.reserve(again.hinted, now))

    def _check_for_silence(self) -> None:
        """End the waits past their deadline where nothing is answered any more."""
        now = _now()
        if self._silence.lasts(now):
            overdue = [watch for watch in self._all_watches() if watch.state.is_overdue(now)]
            self._endings.add(overdue, lambda watch: watch.state.timed_out(now).error)
        self._check = None
        if self._watches:
            loop = asyncio.get_running_loop()
            self._check = loop.call_later(CHECK_SECONDS, self._check_for_silence)


class _PollQueue:
    """Waits in the order in which they are to be polled."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Watch]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()

    def push(self, watch: Watch, due: float) -> None:
        """Have a wait polled at `due`, whatever it was queued for before."""
        watch.due = due
        heapq.heappush(self._heap, (due, next(self._order), watch))
        if self._heap[0][2] is watch:
            self._changed.set()

    async def next_due(self) -> Watch:
        """The next wait to poll, once it is due."""
        loop = asyncio.get_running_loop()
        while True:
            while self._heap and _is_stale(*self._heap[0]):
                heapq.heappop(self._heap)
            if self._heap and self._heap[0][0] <= loop.time():
                return heapq.heappop(self._heap)[2]
            self._changed.clear()
            alarm = loop.call_at(self._heap[0][0], self._changed.set) if self._heap else None
            await self._changed.wait()
            if alarm:
                alarm.cancel()


class _Endings:
    """Waits that end together, a few at a time, so that others have a turn on the event loop."""

    def __init__(self) -> None:
        self._left: deque[tuple[Iterator[Watch], Callable[[Watch], Exception]]] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._left)

    def add(self, watches: list[Watch], error_of: Callable[[Watch], Exception]) -> None:
        was_busy = self.is_busy
        self._left.append((iter(watches), error_of))
        if not was_busy:
            self._end_some()

    def drop(self) -> None:
        self._left.clear()

    def _end_some(self) -> None:
        if not self._left:
            return
        watches, error_of = self._left[0]
        some = list(itertools.islice(watches, ENDED_AT_ONCE))
        for watch in some:
            _fail(watch, error_of(watch))
        if len(some) < ENDED_AT_ONCE:
            self._left.popleft()
        asyncio.get_running_loop().call_soon(self._end_some)


class _Silence:
    """For how long the API has said nothing at all."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since = -math.inf

    def broken(self, now: float) -> None:
        self._since = max(self._since, now)

    def lasts(self, now: float) -> bool:
        return now - self._since >= self._seconds


class _Allowance:
    """Lets so many polls a second be due, and those beyond them later."""

    def __init__(self, per_second: float) -> None:
        self._seconds_each = 1 / per_second
        self._spent_until = -math.inf

    def reserve(self, due: float, now: float) -> float:
        granted = max(due, self._spent_until)
        self._spent_until = max(self._spent_until, now) + self._seconds_each
        return granted


def check_timeout(timeout: float) -> float:
    """Return `timeout`, or raise `InvalidInput` if it is not a positive number of seconds."""
    if not (math.isfinite(timeout) and timeout > 0):
        raise InvalidInput(f"timeout must be a positive number of seconds, not {timeout!r}")
    return timeout


def _is_stale(due: float, _: int, watch: Watch) -> bool:
    return watch.state.is_polling or watch.ending.done() or due != watch.due


def _fail(watch: Watch, error: Exception) -> None:
    if not watch.ending.done():
        watch.ending.set_exception(error)
        watch.ending.exception()  # nobody may be listening any more


def _fatal(error: NanoBananaError) -> NanoBananaError:
    """A copy for one wait of an error that is about the key or the server, not about one task."""
    own = copy.copy(error)
    own.task_id, own.is_fatal = None, True
    return own


def _now() -> float:
    return asyncio.get_running_loop().time()
