"""Carries callbacks from the spool to those who want them, for as long as it takes.

Each destination is served by a loop of its own, so that one that is down holds nobody else up. A
callback leaves the spool's outbox only after its destination has taken it: it is delivered at
least once, and always under the same event id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import anyio

from nanobanana_blocks.callbacks.spool import ReceivedCallback, Spool, Spooled, SpoolError
from nanobanana_blocks.errors import NanoBananaError

BATCH = 100
EVENTS_PER_SECOND = 200.0
DELIVERY_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
CONSUMED_AT_ONCE = 8
MAX_LOGGED = 10
"""Callbacks taken at once that get a line each in the log."""

Consumer = Callable[[ReceivedCallback], Awaitable[None]]
"""Called with each callback at least once; when it raises, it is called again later.

An outcome that comes again later is a callback of its own, with another `hint` and event id.
"""

logger = logging.getLogger(__name__)


class SinkDown(NanoBananaError):
    """Raised when a destination takes nothing at the moment, whatever it is offered."""

    retryable = True


class Delivery(NamedTuple):
    """The numbers of what a destination took, and why it did not take the rest."""

    taken: list[int]
    failure: str | None = None


class Sink(Protocol):
    """Where callbacks are forwarded to."""

    name: str

    @property
    def description(self) -> str:
        """Where it takes callbacks, in words, without secrets."""

    async def deliver(self, batch: Sequence[Spooled]) -> Delivery:
        """Deliver what can be delivered.

        Raises:
            SinkDown: Nothing was taken, and other callbacks would fare no better.
        """

    async def aclose(self) -> None:
        """Let go of connections."""


class ConsumerCalls:
    """A consumer of the embedding program's own, called for a few callbacks at a time.

    What it does is told in the words of its attribute `description`, if it has one.
    """

    name = "consumer"

    def __init__(self, consumer: Consumer) -> None:
        self.description = str(
            getattr(consumer, "description", "a consumer of the embedding program")
        )
        self._consumer = consumer
        self._slots = asyncio.Semaphore(CONSUMED_AT_ONCE)

    async def deliver(self, batch: Sequence[Spooled]) -> Delivery:
        failures = await asyncio.gather(*(self._call(callback) for _, callback in batch))
        told = zip(batch, failures, strict=True)
        return Delivery(
            [number for (number, _), failure in told if failure is None],
            next((f"the consumer failed ({failure})" for failure in failures if failure), None),
        )

    async def aclose(self) -> None:
        """Nothing is held open between calls."""

    async def _call(self, callback: ReceivedCallback) -> str | None:
        async with self._slots:
            try:
                with anyio.fail_after(DELIVERY_SECONDS):
                    await self._consumer(callback)
            except Exception as error:  # whatever it is, the consumer is called again
                return describe_failure(error)
        return None


class Forwarder:
    """Serves one destination from the spool, oldest first, until it is stopped.

    What was not taken is offered again after a pause that grows from 1 s to 30 s. What arrives
    meanwhile is offered at once, unless the destination is down altogether.
    """

    def __init__(self, spool: Spool, sink: Sink) -> None:
        self._spool = spool
        self._sink = sink
        self._awake = asyncio.Event()
        self._stopping = False
        self._offered = 0
        self._down = False
        self._in_trouble = False

    def wake(self) -> None:
        """Say that something has arrived."""
        self._awake.set()

    def stop(self) -> None:
        """Have `run` end after one last try."""
        self._stopping = True
        self._awake.set()

    async def run(self) -> None:
        """Forward until stopped."""
        pause = FIRST_PAUSE_SECONDS
        try:
            while True:
                self._awake.clear()
                failure = await self._offer(after=0)
                self._note(failure)
                if self._stopping:
                    return
                if failure is None:
                    pause = FIRST_PAUSE_SECONDS
                    await self._wait_for_more()
                else:
                    await self._rest(pause)
                    pause = min(2 * pause, MAX_PAUSE_SECONDS)
        finally:
            await self._sink.aclose()

    async def _offer(self, *, after: int) -> str | None:
        """Offer everything that waits; say why something was not taken, if it was not."""
        name, failure = self._sink.name, None
        self._offered, self._down = after, False
        try:
            while batch := await self._spool.waiting(
                name, after=self._offered, limit=BATCH, now=_now()
            ):
                delivery = await self._sink.deliver(batch)
                if delivery.taken:
                    await self._spool.forwarded(name, delivery.taken)
                    _log_taken(name, batch, delivery.taken)
                self._offered = batch[-1].number
                failure = delivery.failure or failure
        except Exception as trouble:
            # Whatever it is: a loop that ended here would keep everything for ever.
            self._down = True
            return describe_failure(trouble)
        return failure

    async def _wait_for_more(self) -> None:
        """Wait until something arrives, or what arrived before is due."""
        seconds = None
        with suppress(SpoolError):  # the next offer meets it too, and reports it
            seconds = await self._spool.next_due(self._sink.name, _now())
        with anyio.move_on_after(seconds):
            await self._awake.wait()

    async def _rest(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        while not self._stopping:
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return
            with anyio.move_on_after(left):
                await self._awake.wait()
            self._awake.clear()
            if not (self._down or self._stopping):
                await self._offer(after=self._offered)

    def _note(self, failure: str | None) -> None:
        """One line when trouble begins, one when it is over."""
        if failure and not self._in_trouble:
            logger.warning("Callbacks are kept and offered again later: %s.", failure)
        elif self._in_trouble and not failure:
            logger.info("Callbacks are forwarded to %s again.", self._sink.name)
        self._in_trouble = failure is not None


def _log_taken(name: str, batch: Sequence[Spooled], taken: Sequence[int]) -> None:
    """Say which callbacks came and where they went; of a burst, only how many."""
    if len(taken) > MAX_LOGGED:
        logger.info("%d callbacks were forwarded to %s.", len(taken), name)
        return
    for number, callback in batch:
        if number in taken:
            logger.info(
                "The callback of task %s (%s) was forwarded to %s.",
                callback.task_id,
                callback.status.name,
                name,
            )


def describe_failure(error: Exception) -> str:
    """What may be logged of an error; the text of a foreign one may hold a secret."""
    return str(error) if isinstance(error, NanoBananaError) else type(error).__name__


def _now() -> datetime:
    return datetime.now(UTC)
