"""Sync twins of async tasks and flows, and a clear error where the async ones cannot work.

An async task that is called in a sync flow gives a coroutine that nobody awaits: nothing is done,
and the run ends well. So our tasks refuse to be called there, and name their twin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, Task
from prefect.context import FlowRunContext

from nanobanana_blocks.errors import InvalidInput

P = ParamSpec("P")
R = TypeVar("R")

SUFFIX = "_sync"


class AsyncTask(Task[P, Coroutine[Any, Any, R]]):
    """An async Prefect task that raises where it is called in a sync flow."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = FlowRunContext.get()
        if run and run.flow and not run.flow.isasync and not _has_running_loop():
            name = self.fn.__name__
            raise InvalidInput(
                f"{name} is async and the flow {run.flow.name!r} is not, so nothing would be done. "
                f"Call {name}{SUFFIX}, or make the flow async and await {name}."
            )
        return super().__call__(*args, **kwargs)


def async_task(
    **options: Any,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Task[P, Coroutine[Any, Any, R]]]:
    """Make a function an `AsyncTask`; takes what `prefect.task` does."""

    def decorate(function: Callable[P, Coroutine[Any, Any, R]]) -> AsyncTask[P, R]:
        return AsyncTask(function, **options)

    return decorate


def sync_task(twin: Task[P, Coroutine[Any, Any, R]], **options: Any) -> Task[P, R]:
    """The sync twin of an async task: a Prefect task for sync flows and scripts.

    Args:
        twin: The async task.
        options: What the async task was made with.

    Raises:
        InvalidInput: When called where an event loop runs; the message names the async task.
    """
    function = run_to_end(twin.fn, twin.fn.__name__)
    return Task(function, name=twin.name, **options)


def sync_flow(twin: Flow[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The sync twin of an async flow: calling it is a run of that flow.

    Raises:
        InvalidInput: When called where an event loop runs; the message names the async flow.
    """

    @wraps(twin.fn)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        result: R = await twin(*args, **kwargs)
        return result

    return run_to_end(run, twin.fn.__name__)


def run_to_end(function: Callable[P, Coroutine[Any, Any, R]], name: str) -> Callable[P, R]:
    """Have an async function run to its end when called, in an event loop of its own."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if _has_running_loop():
            raise InvalidInput(
                f"an event loop is running here, where {name}{SUFFIX} would stop it. "
                f"Await {name} instead."
            )
        return asyncio.run(function(*args, **kwargs))

    run.__name__ = run.__qualname__ = f"{name}{SUFFIX}"
    return run


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
