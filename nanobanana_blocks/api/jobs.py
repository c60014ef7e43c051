"""A second dialect of the same provider: jobs, by the name of a model and with its own fields.

Documented for a sister product (`jobs/createTask`, `jobs/recordInfo`), and tested against that
documentation alone, never against the service itself. It does no I/O.
"""

from __future__ import annotations

from typing import Any

from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.envelope import read_envelope
from nanobanana_blocks.api.json_values import as_json, as_object, as_text, excerpt
from nanobanana_blocks.api.protocol import error_code_of, failure_by_code, urls_of
from nanobanana_blocks.api.requests import (
    GenerationRequest,
    GenericRequest,
    check_callback_url,
)
from nanobanana_blocks.api.times import read_time
from nanobanana_blocks.errors import ProtocolError, UnknownTask

CREATE_TASK = "/api/v1/jobs/createTask"
RECORD_INFO = "/api/v1/jobs/recordInfo"
CREDITS = "/api/v1/chat/credit"

STATES = {
    "waiting": TaskStatus.GENERATING,
    "queuing": TaskStatus.GENERATING,
    "generating": TaskStatus.GENERATING,
    "success": TaskStatus.SUCCESS,
    "fail": TaskStatus.GENERATE_FAILED,
}

IMAGE_FIELDS = {"nano-banana-pro": "image_input", "nano-banana-2": "image_input"}
"""What models call the images to work from, where it is not `OTHER_IMAGE_FIELD`."""

OTHER_IMAGE_FIELD = "image_urls"


def submission(request: GenerationRequest, callback_url: str | None) -> tuple[str, dict[str, Any]]:
    """Where a request is posted, and what; without an address, no callback is asked for."""
    fields = request.content()
    if images := fields.pop("imageUrls", None):
        fields[_image_field(request)] = images
    body: dict[str, Any] = {"model": str(request.endpoint), "input": fields}
    if callback_url is not None:
        body["callBackUrl"] = check_callback_url(callback_url)
    return CREATE_TASK, body


def problem(request: GenerationRequest) -> str | None:
    """Why no job can be made of a request, in words that follow `endpoint`."""
    if not isinstance(request, GenericRequest):
        return (
            f"must be the name of a model, such as google/nano-banana, with its own fields and "
            f"credits, not {request.endpoint}: the credentials are of the dialect `jobs`"
        )
    field = _image_field(request)
    if request.image_urls and field in request.fields:
        return f"has images to work from twice: in imageUrls, and in its own field {field}"
    return None


def _image_field(request: GenerationRequest) -> str:
    return IMAGE_FIELDS.get(str(request.endpoint), OTHER_IMAGE_FIELD)


def read_record_info(http_status: int, body: bytes, *, task_id: str) -> TaskDetails:
    """Read recordInfo's answer about `task_id`.

    Raises:
        UnknownTask: The id is not known.
        ProtocolError: The answer is not what is documented, or is about another task.
        APIError: Another of its subclasses, where the API refuses to answer.
    """
    payload = as_object(as_json(body))
    data = payload.get("data")
    # What became of a task counts more than the envelope's code, as in the first dialect.
    if http_status == 200 and isinstance(data, dict) and data.get("state") is not None:
        return read_task_details(data, task_id=task_id)
    if failure := failure_by_code(http_status, payload, task_id):
        return failure
    return read_task_details(read_envelope(http_status, body, task_id=task_id), task_id=task_id)


def read_task_details(data: Any, *, task_id: str) -> TaskDetails:
    """Read the `data` of recordInfo's answer about `task_id`.

    Raises:
        UnknownTask: `data` is null.
        ProtocolError: `data` is not what is documented, or is about another task.
    """
    if data is None:
        raise UnknownTask("the API does not know this task id.", task_id=task_id, code=200)
    fields = data if isinstance(data, dict) else {}
    named, state = fields.get("taskId"), fields.get("state")
    if named is not None and str(named) != task_id:
        raise ProtocolError(
            f"recordInfo answered about another task: {excerpt(named)!r}", task_id=task_id
        )
    status = STATES.get(state) if isinstance(state, str) else None
    if status is None:
        raise ProtocolError(f"`state` is not documented: {excerpt(state)!r}", task_id=task_id)
    return TaskDetails(
        task_id=task_id,
        status=status,
        **urls_of(fields.get("resultJson")),
        error_code=error_code_of(fields.get("failCode")),
        error_message=as_text(fields.get("failMsg")),
        created_at=read_time(fields.get("createTime")),
        completed_at=read_time(fields.get("completeTime")),
        operation_type=as_text(fields.get("model")),
        parameters=_parameters(fields.get("param")),
    )


def _parameters(param: Any) -> dict[str, Any]:
    """What a task was asked for, with the images that it works from by the name used elsewhere."""
    asked = as_object(as_object(param).get("input"))
    images = next((asked[name] for name in _ALL_IMAGE_FIELDS if asked.get(name)), None)
    return asked | ({"imageUrls": images} if images else {})


_ALL_IMAGE_FIELDS = sorted({*IMAGE_FIELDS.values(), OTHER_IMAGE_FIELD})
