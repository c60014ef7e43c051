"""Posts callbacks the way the service does, and as unreliably as configured.

Decides when to post and how often to try again; what is posted is built elsewhere.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import httpx

from nanobanana_blocks.sandbox.envelopes import callback, encode, forged_callback
from nanobanana_blocks.tls import trusted_authorities

if TYPE_CHECKING:
    from nanobanana_blocks.sandbox.state import GenerationTask, SandboxState

AT_ONCE = 16


@dataclass(order=True, slots=True)
class Post:
    """One callback that is due at an epoch time; `forged` holds a body that is a lie."""

    due: float
    order: int
    task: GenerationTask = field(compare=False)
    forged: dict[str, Any] | None = field(default=None, compare=False)
    failures: int = field(default=0, compare=False)


class CallbackPoster:
    """Delivers callbacks in the background of the sandbox's event loop."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state
        self._queue: list[Post] = []
        self._order = count()
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._deliveries: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Callbacks that are waiting for their time or are being posted."""
        return len(self._queue) + len(self._deliveries)

    def start(self) -> None:
        """Begin to deliver."""
        self._loop_task = asyncio.get_running_loop().create_task(self._deliver_in_time())

    async def stop(self) -> None:
        """Abandon what is pending and what is under way."""
        running = [*self._deliveries, *([self._loop_task] if self._loop_task else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def forget(self) -> None:
        """Abandon what is pending."""
        self._queue.clear()

    def hurry(self) -> None:
        """Look at the clock again."""
        self._changed.set()

    def expect(self, task: GenerationTask) -> None:
        """Schedule the callbacks of a new task, if it has an address that can exist."""
        url = task.plan.callback_url
        if url is None:
            return
        counts = self._state.counts
        if not is_deliverable(url):
            counts.callbacks_skipped += 1
            return
        if math.isinf(task.done_at):
            return
        weather = task.plan.callback_weather or self._state.settings.callback_weather
        dice = self._state.dice(f"callback/{task.number}")
        if dice.random() < weather.forgeries:
            counts.callbacks_forged += 2
            moment = dice.uniform(task.created_at, task.done_at)
            invented = f"{dice.getrandbits(128):032x}"
            self._add(moment, task, forged_callback(task.task_id))
            self._add(moment, task, forged_callback(invented))
        if dice.random() < weather.losses:
            counts.callbacks_lost += 1
            return
        copies = 2 if dice.random() < weather.duplicates else 1
        for _ in range(copies):
            self._add(task.done_at + dice.uniform(0, weather.max_delay_seconds), task)

    def _add(self, due: float, task: GenerationTask, forged: dict[str, Any] | None = None) -> None:
        heapq.heappush(self._queue, Post(due, next(self._order), task, forged))
        self._changed.set()

    async def _deliver_in_time(self) -> None:
        # Most sandboxes never post, and to read the authorities takes a while.
        await self._next_due()
        async with httpx.AsyncClient(
            limits=httpx.Limits(max_connections=AT_ONCE),
            trust_env=False,
            verify=trusted_authorities(),
        ) as client:
            while True:
                await self._slots.acquire()
                await self._next_due()
                delivery = asyncio.create_task(self._deliver(client, heapq.heappop(self._queue)))
                self._deliveries.add(delivery)
                delivery.add_done_callback(self._finish)

    def _finish(self, delivery: asyncio.Task[None]) -> None:
        self._deliveries.discard(delivery)
        self._slots.release()

    async def _next_due(self) -> None:
        while True:
            self._changed.clear()
            wait = self._queue[0].due - self._state.clock.now() if self._queue else None
            if wait is not None and wait <= 0:
                return
            with anyio.move_on_after(wait):
                await self._changed.wait()

    async def _deliver(self, client: httpx.AsyncClient, post: Post) -> None:
        state, counts = self._state, self._state.counts
        counts.callbacks_attempted += 1
        body = post.forged or callback(state, post.task)
        timeout = state.settings.callback_timeout_seconds
        if await _accepted(client, str(post.task.plan.callback_url), encode(body), timeout):
            counts.callbacks_delivered += 1
            return
        pauses = state.settings.callback_retry_pauses
        was_reset = state.tasks.get(post.task.task_id) is not post.task
        if post.failures >= len(pauses) or was_reset:
            counts.callbacks_given_up += 1
            return
        post.due = state.clock.now() + pauses[post.failures] / state.settings.speed
        post.failures += 1
        heapq.heappush(self._queue, post)
        self._changed.set()


def is_deliverable(url: str) -> bool:
    """Whether a callback address is more than a dummy."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(host)
        and not (host == "invalid" or host.endswith(".invalid"))
    )


async def _accepted(client: httpx.AsyncClient, url: str, body: bytes, timeout: float) -> bool:
    headers = {"content-type": "application/json"}
    try:
        response = await client.post(url, content=body, headers=headers, timeout=timeout)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
        return False
    return response.status_code == 200
