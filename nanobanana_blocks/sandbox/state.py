"""Everything a sandbox remembers: its clock, generation tasks, credits and counts.

No HTTP and no pictures. Nothing is ever written to disk.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nanobanana_blocks.sandbox.settings import (
    Fault,
    RateLimit,
    SandboxSettings,
    SandboxStats,
    Submit,
    TaskPlan,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

NORMAL_P99 = 2.3263
OTHER_ROUTES = frozenset({"record-info", "credit", "files", "upload"})


class UnusableTaskIdError(ValueError):
    """A task was registered under an id that is taken."""


class Clock:
    """Epoch seconds that never run backwards and can be moved forward."""

    def __init__(self) -> None:
        self._base = time.time() - time.monotonic()

    def now(self) -> float:
        """The sandbox's present, in epoch seconds."""
        return self._base + time.monotonic()

    def advance(self, seconds: float) -> None:
        """Move the present forward at once."""
        self._base += seconds


@dataclass(slots=True)
class GenerationTask:
    """One generation task; times are epoch seconds, `done_at` is infinite for never.

    `number` counts from the start or the last reset; what is drawn for a task depends on it.
    """

    task_id: str
    number: int
    plan: TaskPlan
    created_at: float
    done_at: float
    file_name: str
    parameters: dict[str, Any]
    operation_type: str
    finished_looks: int = 0
    generating_answer: bytes | None = None
    finished_answer: bytes | None = None


class RateLimiter:
    """Counts the requests of one `RateLimit`."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._accepted: deque[float] = deque()
        self._tokens = float(limit.requests)
        self._filled_at = -math.inf

    def seconds_to_wait(self, now: float) -> float:
        """Take one request: 0 when it may pass, else the seconds until one more would."""
        if self.limit.algorithm == "token-bucket":
            return self._take_token(now)
        window = self._accepted
        while window and window[0] <= now - self.limit.per_seconds:
            window.popleft()
        if len(window) >= self.limit.requests:
            return window[0] + self.limit.per_seconds - now
        window.append(now)
        return 0.0

    def _take_token(self, now: float) -> float:
        rate = self.limit.requests / self.limit.per_seconds
        refill = (now - self._filled_at) * rate
        self._tokens = min(float(self.limit.requests), self._tokens + refill)
        self._filled_at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / rate
        self._tokens -= 1.0
        return 0.0


@dataclass(slots=True)
class ArmedFault:
    """A fault that waits for its requests, with how many are left and its own dice."""

    fault: Fault
    left: float
    dice: random.Random


@dataclass(slots=True)
class Counts:
    """The counters behind `SandboxStats`."""

    requests: Counter[str] = field(default_factory=Counter)
    looks: Counter[str] = field(default_factory=Counter)
    images_served: Counter[str] = field(default_factory=Counter)
    faults_fired: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    peak_in_flight: int = 0
    rate_limited: int = 0
    keys_on_image_host: int = 0
    references_fetched: int = 0
    references_refused: int = 0
    files_uploaded: int = 0
    callbacks_attempted: int = 0
    callbacks_delivered: int = 0
    callbacks_given_up: int = 0
    callbacks_lost: int = 0
    callbacks_forged: int = 0
    callbacks_skipped: int = 0


class SandboxState:
    """The memory of one sandbox; used from its event loop only."""

    def __init__(self, settings: SandboxSettings, base_url: str) -> None:
        self._first_settings = settings
        self.base_url = base_url
        self._ids_made = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything that happened and go back to the first settings.

        No id is given again: who still asks about an earlier task is not answered about another.
        """
        self.clock = Clock()
        self.tasks: dict[str, GenerationTask] = {}
        self.tasks_by_file: dict[str, GenerationTask] = {}
        self.submits: list[Submit] = []
        self.uploads: dict[str, tuple[bytes, str]] = {}
        self.credits_spent = 0
        self.counts = Counts()
        self._faults: list[ArmedFault] = []
        self._faults_added = 0
        self.configure(self._first_settings)

    def configure(self, settings: SandboxSettings) -> None:
        """Behave by other settings from now on; rate limits start counting anew."""
        self.settings = settings
        self._limiters = [RateLimiter(limit) for limit in settings.rate_limits]

    @property
    def credits_left(self) -> int:
        """What the account has left to spend."""
        return self.settings.credits - self.credits_spent

    def register(self, plans: Sequence[TaskPlan]) -> list[GenerationTask]:
        """Begin a generation task for each plan, all of them or none, at no cost.

        Raises `UnusableTaskIdError` when an id is taken or given twice.
        """
        given = [plan.task_id for plan in plans if plan.task_id is not None]
        taken = [task_id for task_id in given if task_id in self.tasks]
        if taken or len(set(given)) < len(given):
            example = taken[0] if taken else Counter(given).most_common(1)[0][0]
            raise UnusableTaskIdError(f"the task id {example!r} is taken")
        return [self.begin(plan, registered_parameters(plan)) for plan in plans]

    def begin(
        self,
        plan: TaskPlan,
        parameters: dict[str, Any],
        operation_type: str = "nanobanana_TEXTTOIAMGE",
    ) -> GenerationTask:
        """Begin one generation task now."""
        task_id = plan.task_id or self._new_id()
        now, number = self.clock.now(), len(self.tasks) + 1
        task = GenerationTask(
            task_id=task_id,
            number=number,
            plan=plan,
            created_at=now,
            done_at=now + self._generation_seconds(number, plan),
            file_name=hashlib.sha256(task_id.encode()).hexdigest()[:20],
            parameters=parameters,
            operation_type=operation_type,
        )
        self.tasks[task_id] = task
        self.tasks_by_file[task.file_name] = task
        return task

    def _new_id(self) -> str:
        self._ids_made += 1
        text = f"{self.settings.seed}/{self._ids_made}"
        task_id = hashlib.sha256(text.encode()).hexdigest()[:32]
        return task_id if task_id not in self.tasks else self._new_id()

    def dice(self, purpose: str) -> random.Random:
        """Random numbers that depend on the seed and the purpose alone."""
        return random.Random(f"{self.settings.seed}/{purpose}")  # noqa: S311 - repeatable, not secret

    def _generation_seconds(self, number: int, plan: TaskPlan) -> float:
        if plan.seconds is None:
            return math.inf
        if plan.seconds != "drawn":
            return plan.seconds
        settings = self.settings
        spread = math.log(settings.p99_seconds / settings.median_seconds) / NORMAL_P99
        drawn = self.dice(f"seconds/{number}").lognormvariate(
            math.log(settings.median_seconds), max(spread, 0.0)
        )
        return drawn / settings.speed

    def add_fault(self, fault: Fault) -> None:
        """Arm a fault; faults are tried in the order they were added."""
        self._faults_added += 1
        left = math.inf if fault.count is None else fault.count
        self._faults.append(ArmedFault(fault, left, self.dice(f"fault/{self._faults_added}")))

    def clear_faults(self) -> None:
        """Disarm every fault."""
        self._faults.clear()

    def strike(self, route: str, task_id: str | None) -> list[Fault]:
        """The faults that happen to this request: any latencies, then at most one other."""
        struck: list[Fault] = []
        for armed in list(self._faults):
            fault = armed.fault
            if fault.task_id is not None and fault.task_id != task_id:
                continue
            if not covers(fault.target, route) or armed.dice.random() >= fault.probability:
                continue
            armed.left -= 1
            if armed.left <= 0:
                self._faults.remove(armed)
            self.counts.faults_fired[fault.kind] += 1
            struck.append(fault)
            if fault.kind != "latency":
                break
        return struck

    def over_limit(self, route: str) -> tuple[RateLimit, float] | None:
        """The rate limit this request breaks, with the seconds to wait, or None."""
        for limiter in self._limiters:
            if not covers(limiter.limit.on, route):
                continue
            wait = limiter.seconds_to_wait(self.clock.now())
            if wait > 0:
                self.counts.rate_limited += 1
                return limiter.limit, wait
        return None

    def stats(self, callbacks_pending: int) -> SandboxStats:
        """What was seen so far."""
        counts, now = self.counts, self.clock.now()
        created = sum(1 for submit in self.submits if submit.task_id is not None)
        return SandboxStats(
            requests=counts.requests,
            looks=counts.looks,
            images_served=counts.images_served,
            done_at={
                task.task_id: task.done_at for task in self.tasks.values() if task.done_at <= now
            },
            peak_in_flight=counts.peak_in_flight,
            rate_limited=counts.rate_limited,
            faults_fired=counts.faults_fired,
            keys_on_image_host=counts.keys_on_image_host,
            references_fetched=counts.references_fetched,
            references_refused=counts.references_refused,
            files_uploaded=counts.files_uploaded,
            submits=created,
            submits_refused=len(self.submits) - created,
            credits_spent=self.credits_spent,
            credits_left=self.credits_left,
            callbacks_attempted=counts.callbacks_attempted,
            callbacks_delivered=counts.callbacks_delivered,
            callbacks_given_up=counts.callbacks_given_up,
            callbacks_lost=counts.callbacks_lost,
            callbacks_forged=counts.callbacks_forged,
            callbacks_skipped=counts.callbacks_skipped,
            callbacks_pending=callbacks_pending,
        )


def covers(target: str, route: str) -> bool:
    """Whether a fault's or a limit's target includes a route."""
    if target == "submit":
        return route not in OTHER_ROUTES
    return target == route or (target == "api" and route != "files")


def registered_parameters(plan: TaskPlan) -> dict[str, Any]:
    """The request that would have made a registered task."""
    return {"numImages": plan.images, "prompt": plan.prompt, "type": "TEXTTOIAMGE"}
