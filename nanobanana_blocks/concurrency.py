"""Running coroutines together: many at once, or one in the background of a block of code."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any, TypeAlias, TypeVar

from nanobanana_blocks.errors import NanoBananaError

STARTED_AT_ONCE = 25
"""After so many coroutines begun, others have a turn on the event loop."""

RESTART_SECONDS = 10.0
"""The pause before background work that crashed is started again."""

MAPPED_AT_ONCE = 64
"""How many calls `map_concurrently` has under way."""

T = TypeVar("T")
R = TypeVar("R")

Log: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def background_task(
    coroutine: Coroutine[Any, Any, object], *, log: Log = _logger
) -> AsyncIterator[None]:
    """Run a coroutine for as long as the block lasts; what it raises is logged, once.

    The block goes on without it. Work that the block should not go without is given as
    `restarting(…)`.

    Args:
        coroutine: What to run.
        log: Where a crash is reported, such as the logger of a Prefect run.
    """
    name = getattr(coroutine, "__qualname__", "of this run")
    running = asyncio.create_task(coroutine)
    running.add_done_callback(lambda ended: _report_crash(ended, name, log))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def restarting(
    work: Callable[[], Coroutine[Any, Any, object]],
    *,
    pause: float = RESTART_SECONDS,
    log: Log = _logger,
) -> None:
    """Run background work to its end, starting it again when it crashes.

    Args:
        work: Makes the coroutine, each time anew.
        pause: Seconds before it is started again.
        log: Where crashes are reported: each kind of them when it first comes.
    """
    reported: set[str] = set()
    while True:
        try:
            await work()
        except Exception as error:  # whatever it is, what runs beside must not end with it
            crash = describe_crash(error)
            if crash not in reported:
                reported.add(crash)
                log.warning(
                    "Background work %s crashed (%s); starting it again in %g s",
                    getattr(work, "__qualname__", "of this run"),
                    crash,
                    pause,
                )
        else:
            return
        await asyncio.sleep(pause)


async def run_concurrently(
    coroutines: Iterable[Coroutine[Any, Any, object]], *, started_at_once: int = STARTED_AT_ONCE
) -> None:
    """Run many coroutines at the same time; when one raises, cancel the others and raise that.

    None of them is still running afterwards. `started_at_once` are begun before the event loop has
    a turn.
    """
    # Counted as they end: `asyncio.wait`, and gathering them, would hold the event loop up with all
    # of a hundred thousand tasks at once.
    running: set[asyncio.Task[object]] = set()
    changed = asyncio.Event()
    failures: list[BaseException] = []

    def note_end(task: asyncio.Task[object]) -> None:
        running.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error:
            failures.append(error)
        if not running or (error and not task.cancelled()):
            changed.set()

    try:
        for number, coroutine in enumerate(coroutines, start=1):
            task = asyncio.create_task(coroutine)
            running.add(task)
            task.add_done_callback(note_end)
            if number % started_at_once == 0:
                await asyncio.sleep(0)
        while running and not _first(failures):
            changed.clear()
            await changed.wait()
        if error := _first(failures) or next(iter(failures), None):
            raise error
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _first(failures: list[BaseException]) -> BaseException | None:
    return next(
        (error for error in failures if not isinstance(error, asyncio.CancelledError)), None
    )


async def map_concurrently(
    function: Callable[[T], Awaitable[R]], items: Iterable[T], *, at_once: int = MAPPED_AT_ONCE
) -> list[R]:
    """Call a function with each of many items, `at_once` at a time; the results are in their order.

    What a call raises is raised, and ends the others.
    """
    queue = list(enumerate(items))
    results: dict[int, R] = {}
    left = iter(queue)

    async def work() -> None:
        for number, item in left:
            results[number] = await function(item)
            await asyncio.sleep(0)  # a call that waits for nothing gives nobody a turn

    await run_concurrently(work() for _ in range(min(at_once, len(queue))))
    return [results[number] for number in range(len(queue))]


def describe_crash(error: BaseException) -> str:
    """What may be logged of an unexpected error: its class and place, and the text if it is ours.

    The text of a foreign error may hold a key or a signed URL.
    """
    text = f": {error}" if isinstance(error, NanoBananaError) else ""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}{text}"


def _report_crash(ended: asyncio.Task[object], name: str, log: Log) -> None:
    if ended.cancelled():
        return
    if error := ended.exception():
        log.error(
            "Background work %s crashed (%s); continuing without it", name, describe_crash(error)
        )
