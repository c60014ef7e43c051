"""One waiter for any number of generation tasks; it asks through a function and sends nothing.

All tasks stand in one queue ordered by when each is to be asked about next. A few looks are in
flight at a time; the request budget is theirs, not the waiter's, to respect. Deadlines are on the
event loop's monotonic clock.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable

from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.schedule import PollPolicy, PollSchedule
from nanobanana_blocks.errors import (
    APIError,
    Forbidden,
    ImageUnavailable,
    InvalidInput,
    NanoBananaError,
    NetworkError,
    ProtocolError,
    ServerError,
    Unauthorized,
    UnknownTask,
    WaitTimedOut,
)

NEW_TASK_GRACE_SECONDS = 15.0
"""How long an id may be unknown: a task just created is not always visible at once."""

NEVER_HEARD_SECONDS = 30.0
"""How long the API may be out of reach when it never answered at all."""

SERVER_EXCEPTION_SECONDS, SERVER_EXCEPTION_LOOKS = 120.0, 6
"""How long "Server exception" (body code 500) is ridden out: it may be for good."""

FINAL_LOOK_SECONDS = 30.0
"""How long past its deadline a task's last look may take."""

CONFIRM_SECONDS = 5.0
"""When to ask again about a task whose end only a code of the envelope tells."""

AFTER_HINT_SECONDS = 2.0
"""When to look again at a task that was said to be done and is not: record-info may lag behind."""

MAX_BACKOFF_SECONDS = 30.0
SHORT_BACKOFF_SECONDS = 4.0
"""For what the service itself may not know yet."""

PROTOCOL_ERRORS_BORNE = 2
LOOKS_FOR_URLS = 5

Look = Callable[[str], Awaitable[TaskDetails]]


class Watch:
    """One generation task being waited for.

    Attributes:
        task_id: The generation task.
        polls: Looks taken so far.
        waited_seconds: From the start of the wait to its end, or 0 while it lasts.
    """

    def __init__(self, task_id: str, started: float, deadline: float) -> None:
        self.task_id = task_id
        self.polls = 0
        self.waited_seconds = 0.0
        self._started = started
        self._deadline = deadline
        self._due = started
        self._looking = False
        self._woken = False
        self._hinted = False
        self._ended_by_code = False
        self._last_look: float | None = None
        self._trouble: NanoBananaError | None = None
        self._trouble_since = started
        self._trouble_looks = 0
        self._future: asyncio.Future[TaskDetails] = asyncio.get_running_loop().create_future()
        self._expiry: asyncio.TimerHandle | None = None

    async def ended(self) -> TaskDetails:
        """The task's final details.

        Raises:
            NanoBananaError: What `NanoBananaClient.wait_for_task` raises.
        """
        return await self._future


class TaskWaiter:
    """Waits for many generation tasks at once.

    Args:
        look: Asks about one task, once; raises `APIError`.
        policy: When to ask.
        max_in_flight: Looks under way at most.
        seed: Makes the schedule's jitter repeatable.
    """

    def __init__(
        self,
        look: Look,
        policy: PollPolicy,
        *,
        max_in_flight: int = 8,
        seed: int | None = None,
    ) -> None:
        self._look = look
        self._schedule = PollSchedule(policy, seed=seed)
        self._slots = asyncio.Semaphore(max_in_flight)
        self._queue: list[tuple[float, int, Watch]] = []
        self._order = itertools.count()
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._changed = asyncio.Event()
        self._looks: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._heard = False

    @property
    def waiting(self) -> int:
        """How many waits are under way."""
        return sum(len(watches) for watches in self._watches.values())

    def watch(self, task_id: str, timeout: float) -> Watch:
        """Begin to wait for a task, `timeout` seconds at most; the first look is due at once."""
        check_timeout(timeout)
        loop = asyncio.get_running_loop()
        watch = Watch(task_id, loop.time(), loop.time() + timeout)
        watch._expiry = loop.call_at(watch._deadline + FINAL_LOOK_SECONDS, self._expire, watch)
        watch._future.add_done_callback(lambda _: self._forget(watch))
        self._watches[task_id].add(watch)
        self._enqueue(watch, loop.time())
        if self._dispatcher is None:
            self._dispatcher = loop.create_task(self._dispatch())
        return watch

    def wake(self, task_id: str) -> bool:
        """Have a task looked at now; whether anybody waits for it."""
        watches = self._watches.get(task_id, ())
        for watch in watches:
            watch._woken = True
            if not watch._looking:
                self._enqueue(watch, asyncio.get_running_loop().time())
        return bool(watches)

    async def aclose(self) -> None:
        """End all waits with an error, and leave nothing running."""
        running = [task for task in (self._dispatcher, *self._looks) if task]
        self._dispatcher = None
        for task in running:
            task.cancel()
        for watch in self._all_watches():
            self._fail(
                watch,
                NanoBananaError("the client was closed meanwhile.", task_id=watch.task_id),
            )
        await asyncio.gather(*running, return_exceptions=True)

    def _forget(self, watch: Watch) -> None:
        watch.waited_seconds = asyncio.get_running_loop().time() - watch._started
        if watch._expiry:
            watch._expiry.cancel()
        self._watches[watch.task_id].discard(watch)
        if not self._watches[watch.task_id]:
            del self._watches[watch.task_id]

    def _enqueue(self, watch: Watch, due: float) -> None:
        watch._due = due
        heapq.heappush(self._queue, (due, next(self._order), watch))
        if self._queue[0][2] is watch:
            self._changed.set()

    async def _dispatch(self) -> None:
        while True:
            await self._slots.acquire()
            watch = await self._next_due()
            watch._looking = True
            look = asyncio.get_running_loop().create_task(self._take_look(watch))
            self._looks.add(look)
            look.add_done_callback(self._looks.discard)

    def _all_watches(self) -> list[Watch]:
        return [watch for watches in self._watches.values() for watch in watches]

    async def _next_due(self) -> Watch:
        loop = asyncio.get_running_loop()
        while True:
            while self._queue and self._is_stale(*self._queue[0]):
                heapq.heappop(self._queue)
            if self._queue and self._queue[0][0] <= loop.time():
                return heapq.heappop(self._queue)[2]
            self._changed.clear()
            alarm = loop.call_at(self._queue[0][0], self._changed.set) if self._queue else None
            await self._changed.wait()
            if alarm:
                alarm.cancel()

    @staticmethod
    def _is_stale(due: float, _: int, watch: Watch) -> bool:
        return watch._looking or watch._future.done() or due != watch._due

    async def _take_look(self, watch: Watch) -> None:
        asked_at = asyncio.get_running_loop().time()
        watch._hinted = watch._woken
        watch._woken = False
        watch.polls += 1
        try:
            details = await self._look(watch.task_id)
        except NanoBananaError as error:
            due = self._after_trouble(watch, error)
        except Exception as error:
            self._fail(watch, error)
            due = None
        else:
            self._heard = True
            due = self._after_answer(watch, details, asked_at - watch._started)
        finally:
            watch._looking = False
            self._slots.release()
        if due is not None and not watch._future.done():
            self._enqueue_next(watch, due)

    def _enqueue_next(self, watch: Watch, due: float) -> None:
        now = asyncio.get_running_loop().time()
        if now >= watch._deadline:
            self._expire(watch)
        else:
            self._enqueue(watch, now if watch._woken else min(due, watch._deadline))

    def _after_answer(self, watch: Watch, details: TaskDetails, elapsed: float) -> float | None:
        """Settle the wait, or say when to look again."""
        if details.status is TaskStatus.GENERATING:
            watch._trouble, watch._ended_by_code = None, False
            self._learn(self._schedule.observe_pending, watch, elapsed)
            watch._last_look = elapsed
            now = asyncio.get_running_loop().time()
            delay = self._schedule.next_delay(now - watch._started)
            return now + (min(delay, AFTER_HINT_SECONDS) if watch._hinted else delay)
        if details.status is TaskStatus.SUCCESS and not details.image_count:
            error = ImageUnavailable(
                "the task is done, but the API gives no image URL.", task_id=watch.task_id
            )
            return self._after_trouble(watch, error)
        if details.by_code and not watch._ended_by_code:
            watch._ended_by_code = True
            return asyncio.get_running_loop().time() + CONFIRM_SECONDS
        self._learn(self._schedule.observe_completion, watch, elapsed)
        if not watch._future.done():
            watch._future.set_result(details)
        return None

    @staticmethod
    def _learn(observe: Callable[[float | None, float], None], watch: Watch, age: float) -> None:
        """Teach the schedule, but not by a look that a hint chose: those come when tasks end."""
        if not watch._hinted:
            observe(watch._last_look, age)

    def _after_trouble(self, watch: Watch, error: NanoBananaError) -> float | None:
        """Say when to look again if that may mend `error`; else settle the wait."""
        if isinstance(error, Unauthorized):
            self._fail_all(error)
        elif self._is_worth_another_look(watch, error):
            asked = error.retry_after if isinstance(error, APIError) else None
            soon = isinstance(error, (UnknownTask, ImageUnavailable))
            longest = SHORT_BACKOFF_SECONDS if soon else MAX_BACKOFF_SECONDS
            backoff = min(2.0 ** min(watch._trouble_looks - 1, 10), longest)
            now = asyncio.get_running_loop().time()
            return now + max(self._schedule.jittered(backoff), asked or 0.0)
        elif self._heard:
            self._fail(watch, error)
        else:
            self._fail_all(error)
        return None

    def _is_worth_another_look(self, watch: Watch, error: NanoBananaError) -> bool:
        now = asyncio.get_running_loop().time()
        if type(watch._trouble) is not type(error):
            watch._trouble_since, watch._trouble_looks = now, 0
        watch._trouble = error
        watch._trouble_looks += 1
        lasted = now - watch._trouble_since
        if isinstance(error, APIError) and not isinstance(error, (NetworkError, ProtocolError)):
            self._heard = True
        if isinstance(error, UnknownTask):
            return lasted < NEW_TASK_GRACE_SECONDS
        if isinstance(error, ProtocolError):
            return watch._trouble_looks <= PROTOCOL_ERRORS_BORNE
        if isinstance(error, NetworkError):
            return self._heard or lasted < NEVER_HEARD_SECONDS
        if isinstance(error, ImageUnavailable):
            return watch._trouble_looks < LOOKS_FOR_URLS
        if isinstance(error, Forbidden) or (isinstance(error, ServerError) and error.code == 500):
            few = watch._trouble_looks < SERVER_EXCEPTION_LOOKS
            return few or lasted < SERVER_EXCEPTION_SECONDS
        return error.retryable

    def _expire(self, watch: Watch) -> None:
        waited = asyncio.get_running_loop().time() - watch._started
        last = f" The last answer was: {watch._trouble.message}" if watch._trouble else ""
        known = "still generating" if watch._last_look is not None else "not known to have ended"
        self._fail(
            watch,
            WaitTimedOut(
                f"{known} after {waited:.0f} s and {watch.polls} polls.{last} "
                "Running again picks it up.",
                task_id=watch.task_id,
            ),
        )

    def _fail(self, watch: Watch, error: Exception) -> None:
        if not watch._future.done():
            watch._future.set_exception(error)
            watch._future.exception()  # nobody may be listening any more

    def _fail_all(self, error: NanoBananaError) -> None:
        """End every wait: `error` is about the key or the server, not about one task."""
        for watch in self._all_watches():
            own = copy.copy(error)
            own.task_id, own.is_fatal = None, True
            self._fail(watch, own)


def check_timeout(timeout: float) -> float:
    """Return `timeout`, or raise `InvalidInput` if it is not a positive number of seconds."""
    if not (math.isfinite(timeout) and timeout > 0):
        raise InvalidInput(f"timeout must be a positive number of seconds, not {timeout!r}")
    return timeout
