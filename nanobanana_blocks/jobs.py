"""A generation task as Prefect's `JobRun`, for people who compose flows of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from prefect.blocks.abstract import JobRun

from nanobanana_blocks.credentials import NanoBananaCredentials
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.models import TaskDetails, check_task_id
from nanobanana_blocks.schedule import PollPolicy

T = TypeVar("T")


class NanoBananaTask(JobRun[TaskDetails]):
    """A generation task that runs at the service.

    Every method has an async twin with an `a` before its name; the plain ones are for code without
    an event loop.

    Args:
        task_id: The generation task.
        credentials: What reaches the API.
        timeout: Seconds to wait at most.
        poll: When to ask.

    Example:
        ```python
        job = NanoBananaTask("933259930a1fc855a4e3835b7c60a028", credentials)
        job.wait_for_completion()
        print(job.fetch_result().result_urls)
        ```
    """

    def __init__(
        self,
        task_id: str,
        credentials: NanoBananaCredentials,
        *,
        timeout: float = 900.0,
        poll: PollPolicy | None = None,
    ) -> None:
        self.task_id = check_task_id(task_id)
        self._credentials = credentials
        self._timeout = timeout
        self._poll = poll
        self._details: TaskDetails | None = None

    async def await_for_completion(self) -> None:
        """Wait until the generation task has ended, well or badly.

        Raises:
            NanoBananaError: What `NanoBananaClient.wait_for_task` raises.
        """
        async with self._credentials.get_client() as client:
            self._details = await client.wait_for_task(self.task_id, self._timeout, self._poll)
        self.logger.info("Generation task %s: %s", self.task_id, self._details.status.name)

    async def afetch_result(self) -> TaskDetails:
        """The details of the generation task, fresh, so that their URLs are as young as can be.

        Raises:
            GenerationFailed: It ended without an image.
            NanoBananaError: It has not been waited for; or what the API says no with.
        """
        if self._details is None:
            raise NanoBananaError(
                "wait for completion before fetching the result.", task_id=self.task_id
            )
        self._details.raise_for_status()
        async with self._credentials.get_client() as client:
            return (await client.get_task_details(self.task_id)).raise_for_status()

    def wait_for_completion(self) -> None:  # type: ignore[override]  # a true sync twin
        """Wait until the generation task has ended; see `await_for_completion`."""
        _run_without_loop(self.await_for_completion, "await_for_completion")

    def fetch_result(self) -> TaskDetails:  # type: ignore[override]  # a true sync twin
        """The details of the generation task; see `afetch_result`."""
        return _run_without_loop(self.afetch_result, "afetch_result")


def _run_without_loop(method: Callable[[], Coroutine[Any, Any, T]], twin: str) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(method())
    raise NanoBananaError(f"an event loop is running here: use `await {twin}()` instead.")
