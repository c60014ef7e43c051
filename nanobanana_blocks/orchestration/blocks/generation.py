"""A generation as Prefect's `JobBlock` and its task as a `JobRun`, for flows of people's own.

Nothing here lands an image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from prefect.blocks.abstract import JobBlock, JobRun
from pydantic import ConfigDict, Field, SecretStr, field_validator
from pydantic.config import JsonDict

from nanobanana_blocks.api.details import TaskDetails, check_task_id
from nanobanana_blocks.api.requests import AnyRequest, check_callback_url
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.orchestration.blocks.credentials import (
    DOCUMENTATION_URL,
    LOGO_URL,
    NanoBananaCredentials,
)
from nanobanana_blocks.orchestration.blocks.reachable_images import with_reachable_images

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
        just_submitted: The service itself has just given this id: it may be unknown to record-info
            for as long as it is waited for.

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
        just_submitted: bool = False,
    ) -> None:
        self.task_id = check_task_id(task_id)
        self._credentials = credentials
        self._timeout = timeout
        self._poll = poll
        self._just_submitted = just_submitted
        self._details: TaskDetails | None = None

    async def await_for_completion(self) -> None:
        """Wait until the generation task has ended, well or badly.

        Raises:
            NanoBananaError: What `NanoBananaClient.wait_for_task` raises.
        """
        async with self._credentials.get_client() as client:
            self._details = await client.wait_for_task(
                self.task_id, self._timeout, self._poll, just_submitted=self._just_submitted
            )
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


def _any_of(schema: JsonDict) -> None:
    """Prefect's forms offer the choices of `anyOf`, and know no `oneOf`."""
    schema["anyOf"] = schema.pop("oneOf")


class NanoBananaGeneration(JobBlock[TaskDetails]):
    """A request for images, to be submitted as often as it is triggered.

    Every trigger submits one generation task, which costs credits. A submit of which it is not
    known whether it was billed is never repeated; it raises `UnconfirmedSubmit`.

    Attributes:
        credentials: What reaches the API.
        request: What to generate.
        callback_url: Where the service is to post the outcome.
        references: Where copies of files to work from go.
        timeout: Seconds to wait at most for the generation task, once it is submitted.
        poll: When to ask about it.

    Example:
        Load a stored generation, submit it and wait for its image:
        ```python
        from nanobanana_blocks import NanoBananaGeneration

        generation = NanoBananaGeneration.load("BLOCK_NAME")
        job = generation.trigger()
        job.wait_for_completion()
        print(job.fetch_result().result_urls)
        ```
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "NanoBanana Generation"
    _block_type_slug = "nanobanana-generation"
    _description = "A request for images. Every trigger submits it once, which costs credits."
    _logo_url = LOGO_URL  # type: ignore[assignment]  # Prefect's own blocks give text here too
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]  # likewise

    credentials: NanoBananaCredentials = Field(
        title="Credentials", description="The key to the API, whose account pays."
    )
    request: AnyRequest = Field(
        title="Request",
        description="What to generate, in the words of one of the API's submit endpoints.",
        json_schema_extra=_any_of,
    )
    callback_url: SecretStr = Field(
        default=SecretStr(""),
        title="Callback URL",
        description="Where the service is to post the outcome, such as a callback receiver.",
        json_schema_extra={"pattern": r"^$|^\s*https?://\S+\s*$"},
    )
    references: str = Field(
        default="",
        title="References",
        description="Name of a saved ImageStore with a public URL, where copies of files to work "
        "from go; without it, their storage signs URLs.",
        json_schema_extra={"pattern": r"^[a-z0-9-]*$"},
    )
    timeout: float = Field(
        default=900.0,
        gt=0,
        allow_inf_nan=False,
        title="Timeout",
        description="Seconds to wait at most for the generation task, once it is submitted.",
    )
    poll: PollPolicy = Field(
        default_factory=PollPolicy,
        title="Poll Policy",
        description="When to ask whether the generation task has ended.",
    )

    @field_validator("callback_url")
    @classmethod
    def _check_callback_url(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value().strip():
            check_callback_url(value.get_secret_value())
        return value

    async def atrigger(self) -> NanoBananaTask:
        """Submit the request once and return its generation task, not waited for.

        Raises:
            NanoBananaError: What `NanoBananaClient.submit` raises.
        """
        async with self.credentials.get_client() as client:
            sent = await with_reachable_images(self.request, client, self.references, self.timeout)
            task_id = await client.submit(
                sent, callback_url=self.callback_url.get_secret_value() or None
            )
            self.logger.info(
                "Submitted generation task %s to %s for about %s credits",
                task_id,
                str(self.request.endpoint),
                self.request.estimated_credits,
            )
        return NanoBananaTask(
            task_id,
            self.credentials,
            timeout=self.timeout,
            poll=self.poll,
            just_submitted=True,
        )

    def trigger(self) -> NanoBananaTask:  # type: ignore[override]  # a true sync twin
        """Submit the request once and return its generation task; see `atrigger`."""
        return _run_without_loop(self.atrigger, "atrigger")


def _run_without_loop(method: Callable[[], Coroutine[Any, Any, T]], twin: str) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(method())
    raise NanoBananaError(f"an event loop is running here: use `await {twin}()` instead.")
