"""Reads what the service posts to callback addresses, whichever of its products does; no I/O."""

from __future__ import annotations

from typing import Any

from nanobanana_blocks.api import jobs, protocol
from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.json_values import as_integer, as_json, as_object, as_text, excerpt
from nanobanana_blocks.errors import ProtocolError


def read_callback(body: bytes) -> TaskDetails:
    """Read a callback, in any of the shapes that are documented.

    Documented for `/generate`: the outcome is the top-level `code` (200, 400, 500, 501), the URL is
    `data.info.resultImageUrl`. Documented for `/generate-2`, and for the jobs of a sister product:
    record-info's envelope. A flag or a state counts more than a code beside it. Any other code is a
    failure of the task: callbacks are hints, which record-info confirms. The task's id is also
    taken from where it is not documented.

    Raises:
        ProtocolError: The body has none of these shapes, or names no task.
    """
    payload = as_json(body)
    if not isinstance(payload, dict):
        raise ProtocolError("the callback is not a JSON object")
    data = as_object(payload.get("data"))
    task_id = _callback_task_id(payload, data)
    if data.get("successFlag") is not None:
        return protocol.read_task_details(data, task_id=task_id)
    if data.get("state") is not None:
        return jobs.read_task_details(data, task_id=task_id)
    code = as_integer(payload.get("code"))
    if code is None or not (code == 200 or code >= 400):
        raise ProtocolError(f"the callback's `code` is neither 200 nor an error's: {excerpt(code)}")
    info = data.get("info") or data.get("response")
    return TaskDetails(
        task_id=task_id,
        status=TaskStatus.SUCCESS if code == 200 else TaskStatus.GENERATE_FAILED,
        **protocol.urls_of(info),
        error_code=None if code == 200 else code,
        error_message=None if code == 200 else as_text(payload.get("msg")),
    )


def _callback_task_id(payload: dict[str, Any], data: dict[str, Any]) -> str:
    for place in (data, payload):
        for name in ("taskId", "task_id"):
            found = place.get(name)
            if isinstance(found, int) and not isinstance(found, bool):
                return str(found)
            if isinstance(found, str) and found:
                return found
    raise ProtocolError("the callback names no `data.taskId`")
