"""The Prefect tasks for flows of your own; a run is named after its generation task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from prefect.runtime import task_run
from pydantic import BaseModel, ValidationError

from nanobanana_blocks.api.details import TaskDetails
from nanobanana_blocks.api.requests import Endpoint, GenerationRequest, GenericRequest, request_type
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.landing.provenance import Provenance
from nanobanana_blocks.landing.report import LandingOutcome
from nanobanana_blocks.orchestration.blocks.credentials import load_credentials
from nanobanana_blocks.orchestration.blocks.reachable_images import with_reachable_images
from nanobanana_blocks.orchestration.runs.landing_runs import opening_lander
from nanobanana_blocks.orchestration.runs.retries import RETRIES
from nanobanana_blocks.orchestration.runs.sync import async_task, sync_task

_Model = TypeVar("_Model", bound=BaseModel)


def _read(model: type[_Model], value: Any, name: str) -> _Model:
    """What a caller gave as an object or as JSON values.

    Raises:
        InvalidInput: It is invalid; every field at fault is named.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or name}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise InvalidInput(f"{name} is invalid: {faults}") from None


@async_task(task_run_name="poll {task_id}", **RETRIES)
async def get_task_details(task_id: str, credentials: str = "default") -> TaskDetails:
    """Ask record-info about one generation task, once.

    Args:
        task_id: The generation task.
        credentials: Name of a saved `NanoBananaCredentials` block.

    Raises:
        MissingCredentials: No such block is saved, nor is `NANOBANANA_API_KEY` set.
        APIError: One of its subclasses.
    """
    async with (await load_credentials(credentials)).get_client() as client:
        return await client.get_task_details(task_id)


@async_task(task_run_name="wait for {task_id}", **RETRIES)
async def wait_for_task(
    task_id: str,
    credentials: str = "default",
    timeout: float = 900.0,
    poll: PollPolicy | Mapping[str, Any] | None = None,
    just_submitted: bool = False,
) -> TaskDetails:
    """Wait until a generation task has succeeded.

    Args:
        task_id: The generation task.
        credentials: Name of a saved `NanoBananaCredentials` block.
        timeout: Seconds to wait at most.
        poll: When to ask.
        just_submitted: The id is what `submit_generation` has just given: it may be unknown to
            record-info for as long as it is waited for, and not for 15 s.

    Raises:
        GenerationFailed: It ended without an image.
        WaitTimedOut: It had not ended in time; Prefect shows the run as `TimedOut`.
        MissingCredentials: No such block is saved, nor is `NANOBANANA_API_KEY` set.
        APIError: A failure that waiting does not mend, or that outlasted its bound.
    """
    async with (await load_credentials(credentials)).get_client() as client:
        details = await client.wait_for_task(
            task_id,
            timeout,
            _read(PollPolicy, poll or PollPolicy(), "poll"),
            just_submitted=just_submitted,
        )
        return details.raise_for_status()


@async_task(task_run_name="land {task_id}", **RETRIES)
async def land_task(
    task_id: str,
    destination: str = "images",
    credentials: str = "default",
    timeout: float = 900.0,
    poll: PollPolicy | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    just_submitted: bool = False,
    request: GenerationRequest | Mapping[str, Any] | None = None,
) -> LandingOutcome:
    """Wait for one generation task and land its images; for flows of your own.

    Args:
        task_id: The generation task.
        destination: A path, an fsspec URL, or the name of a saved `ImageStore` block.
        credentials: Name of a saved `NanoBananaCredentials` block.
        timeout: Seconds to wait at most.
        poll: When to ask.
        overwrite: Land again what has a receipt already.
        just_submitted: The id is what `submit_generation` has just given; see `wait_for_task`.
        request: What `submit_generation` was given, so that the receipt tells what made it.

    Raises:
        NanoBananaError: The images did not land.
    """
    provenance = _provenance_of(request) if request is not None else None
    async with opening_lander(
        [task_id],
        destination,
        credentials,
        timeout=timeout,
        poll=_read(PollPolicy, poll or PollPolicy(), "poll"),
        overwrite=overwrite,
    ) as landing:
        outcome = await landing.land(
            task_id,
            just_submitted=just_submitted,
            provenance=provenance,
        )
        if task_id in landing.errors:
            raise landing.errors[task_id]
        return outcome


def _provenance_of(request: GenerationRequest | Mapping[str, Any]) -> Provenance:
    asked = _read_request(request)
    return Provenance.of(asked, credits_estimated=asked.estimated_credits)


def _read_request(request: GenerationRequest | Mapping[str, Any]) -> GenerationRequest:
    """The request that a caller gave, as an object or as its fields.

    Raises:
        InvalidInput: It is invalid; every field at fault is named.
    """
    if isinstance(request, GenerationRequest):
        return request
    if not isinstance(request, Mapping):
        raise InvalidInput("request is neither a GenerationRequest nor an object of its fields")
    fields = dict(request)
    name = fields.pop("endpoint", Endpoint.GENERATE)
    try:
        form = request_type(name, fields.get("credits"))
    except InvalidInput as error:
        raise InvalidInput(f"endpoint {name!r:.60}: {error.message}") from None
    named = {"endpoint": name} if form is GenericRequest else {}
    return _read(form, fields | named, "request")


def name_submit() -> str:
    """Name a task run after what it does: ``submit to generate-2``."""
    request = task_run.parameters["request"]
    if isinstance(request, GenerationRequest):
        return f"submit to {request.endpoint}"
    return "submit"


@async_task(task_run_name=name_submit, **RETRIES)
async def submit_generation(
    request: GenerationRequest | Mapping[str, Any],
    credentials: str = "default",
    callback_url: str | None = None,
    references: str | None = None,
) -> str:
    """Submit a generation task, which costs credits, and return its id; for flows of your own.

    Prefect retries it only where the service has certainly not taken it. A flow that runs again
    submits again: `run_batch` is what remembers.

    Args:
        request: What to generate: a `GenerationRequest`, or its fields as JSON callers have them,
            with its `endpoint` where that is not `generate`. For an endpoint newer than this
            release, `fields` and `credits`, as `GenericRequest` has them.
        credentials: Name of a saved `NanoBananaCredentials` block.
        callback_url: Where the service is to post the outcome.
        references: Name of a saved `ImageStore` block with a public URL, where copies of files
            to work from go; without it, their storage signs URLs, which live an hour.

    Raises:
        InvalidInput: The request is invalid; every field at fault is named.
        UnusableReference: The service would not get an image to work from; nothing was sent.
        UnconfirmedSubmit: It is not known whether a task was created, and billed.
        MissingCredentials: No such block is saved, nor is `NANOBANANA_API_KEY` set.
        APIError: Another of its subclasses: no task was created.
    """
    checked = _read_request(request)
    async with (await load_credentials(credentials)).get_client() as client:
        sent = await with_reachable_images(checked, client, references)
        return await client.submit(sent, callback_url=callback_url)


get_task_details_sync = sync_task(get_task_details, task_run_name="poll {task_id}", **RETRIES)
wait_for_task_sync = sync_task(wait_for_task, task_run_name="wait for {task_id}", **RETRIES)
land_task_sync = sync_task(land_task, task_run_name="land {task_id}", **RETRIES)
submit_generation_sync = sync_task(submit_generation, task_run_name=name_submit, **RETRIES)
