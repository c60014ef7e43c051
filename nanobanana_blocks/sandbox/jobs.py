"""The jobs of a sister product: what creates one, and what is told of it.

From that product's documentation alone. A job is a generation task like any other; its models are
the sandbox's `other_endpoints`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nanobanana_blocks.sandbox.submits import RefusedSubmitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanobanana_blocks.sandbox.state import GenerationTask

CREATE = "createTask"
CREATE_PATH = "/api/v1/jobs/createTask"
TELL_PATH = "/api/v1/jobs/recordInfo"
CREDIT_PATH = "/api/v1/chat/credit"

IMAGE_FIELDS = ("image_input", "image_urls", "input_urls")


def read_submit(body: Any, models: Mapping[str, int]) -> tuple[str, dict[str, Any]]:
    """The model that a body names, and its input as the body of a submit to an endpoint."""
    if not isinstance(body, dict):
        raise RefusedSubmitError(400, "The request body is not a JSON object")
    model, given = body.get("model"), body.get("input")
    if not isinstance(model, str) or model not in models:
        raise RefusedSubmitError(422, "The model name you specified is not supported")
    if not isinstance(given, dict):
        raise RefusedSubmitError(422, "input can not be null")
    images = next((given[name] for name in IMAGE_FIELDS if given.get(name)), None)
    made = {"callBackUrl": body.get("callBackUrl")} | ({"imageUrls": images} if images else {})
    return model, given | made


def told(
    task: GenerationTask, now: float, urls: list[str], error: tuple[Any, Any]
) -> dict[str, Any]:
    """What is told of a job; `urls` and `error` count once it has ended."""
    given = {name: value for name, value in task.parameters.items() if name not in _NOT_INPUT}
    asked = {"model": task.operation_type, "input": given}
    has_ended = now >= task.done_at
    failed = has_ended and task.plan.outcome != "success"
    return {
        "taskId": task.task_id,
        "model": task.operation_type,
        "state": "fail" if failed else "success" if has_ended else _state(task, now),
        "param": json.dumps(asked, ensure_ascii=False),
        "resultJson": json.dumps({"resultUrls": urls}) if has_ended and not failed else "",
        "failCode": str(error[0]) if failed and error[0] is not None else "",
        "failMsg": error[1] or "" if failed else "",
        "costTime": int((task.done_at - task.created_at) * 1000) if has_ended else None,
        "completeTime": int(task.done_at * 1000) if has_ended else None,
        "createTime": int(task.created_at * 1000),
    }


_NOT_INPUT = ("callBackUrl", "imageUrls")


def _state(task: GenerationTask, now: float) -> str:
    """Waiting, queuing and generating follow each other, a third of the time each."""
    share = (now - task.created_at) / (task.done_at - task.created_at)
    return ("waiting", "queuing", "generating")[min(2, max(0, int(share * 3)))]
