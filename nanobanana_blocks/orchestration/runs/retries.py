"""When Prefect retries a task run of ours."""

from __future__ import annotations

from typing import Any

from prefect import State, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.tasks import exponential_backoff

from nanobanana_blocks.errors import ImageError, StorageError, WaitTimedOut


def may_succeed_later(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect should retry: the error says so, and nothing below has retried it already.

    Images are retried by the downloader, files by the destination, and a wait has its own time.
    """
    retried_below = (WaitTimedOut, ImageError, StorageError)
    return getattr(state.data, "retryable", False) and not isinstance(state.data, retried_below)


RETRIES: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_succeed_later,
}


def never(*_: object) -> bool:
    """What is retried has been retried below; whatever a profile's default says."""
    return False


RETURNS_ITS_STATE: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 1,
    "retry_condition_fn": never,
}
"""For tasks that return a failed state rather than raise, so that nothing keeps their frames.

Where Prefect counts no retry that is left, it logs such a state with the traceback that there is
none of, ``NoneType: None``; where one is left and not wanted, it logs the state's end only.
"""
