"""The JSON that the service would send: record-info, refusals and callbacks.

Builds bodies from the sandbox's memory; sends nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import time
from typing import TYPE_CHECKING, Any, Literal

from nanobanana_blocks.sandbox import jobs
from nanobanana_blocks.sandbox.settings import (
    CONTENT_POLICY_MESSAGE,
    GENERATION_FAILED_MESSAGE,
    SIGNATURE_MARK,
    TimeStyle,
)

if TYPE_CHECKING:
    from nanobanana_blocks.sandbox.state import GenerationTask, SandboxState

UTC_PLUS_8_SECONDS = 8 * 3600
SUCCESS_FLAGS = {"success": 1, "create-failed": 2, "generate-failed": 3}
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}

MESSAGES = {
    400: "Parameter error",
    401: "You do not have access permissions",
    402: "The current credits are insufficient. Please top up.",
    404: "Task not found",
    413: "Request body too large",
    422: "recordInfo is null",
    429: "The call frequency is too high. Please try again later.",
    455: "The service is under maintenance. Please try again later.",
    500: "Server exception, please check the parameters and try again",
    505: "This feature is currently disabled",
}
CALLBACK_MESSAGES = {
    200: "Image generated successfully.",
    400: CONTENT_POLICY_MESSAGE,
    500: "Internal error, please try again later",
    501: GENERATION_FAILED_MESSAGE,
}


def encode(value: object) -> bytes:
    """JSON as the service writes it: compact, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def refusal(code: int, message: str | None = None, *, message_key: str = "msg") -> bytes:
    """An envelope that refuses."""
    text = MESSAGES.get(code, "Error") if message is None else message
    return encode({"code": code, message_key: text, "data": None})


def spring_error(status: int, path: str) -> bytes:
    """The framework's own error body, which is not the envelope."""
    reasons = {404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000+00:00", time.gmtime())
    reason = reasons.get(status, "Error")
    return encode({"timestamp": moment, "status": status, "error": reason, "path": path})


def service_time(moment: float, style: TimeStyle) -> str | int:
    """A moment (epoch seconds) in one of the ways it was seen written."""
    if style == "epoch-milliseconds":
        return int(moment * 1000)
    if style == "garbage":
        return "not a time"
    there = time.gmtime(moment + UTC_PLUS_8_SECONDS)
    clock = "24:00:00" if style == "24-oclock" else time.strftime("%H:%M:%S", there)
    return f"{time.strftime('%Y-%m-%d', there)} {clock}"


def record_info(state: SandboxState, task: GenerationTask) -> bytes:
    """The record-info answer for a visible task, as of now."""
    if state.clock.now() < task.done_at:
        if task.generating_answer is None:
            task.generating_answer = encode(_envelope(_generating(task)))
        return task.generating_answer
    task.finished_looks += 1
    if task.finished_answer is None:
        answer = encode(_envelope(_finished(state, task)))
        if not _still_changes(task):
            task.finished_answer = answer
        return answer
    return task.finished_answer


def job_info(state: SandboxState, task: GenerationTask) -> bytes:
    """The answer about a visible task in the form of a job, as of now."""
    if state.clock.now() >= task.done_at:
        task.finished_looks += 1
    return encode(_envelope(_job(state, task)))


def _job(state: SandboxState, task: GenerationTask) -> dict[str, Any]:
    without_url = task.finished_looks <= task.plan.looks_without_url
    urls = [] if without_url and task.plan.looks_without_url else _result_urls(state, task)
    return jobs.told(task, state.clock.now(), urls, _error(task))


def callback(state: SandboxState, task: GenerationTask) -> dict[str, Any]:
    """What the service posts to the callback address of a finished task."""
    if task.plan.callback_shape == "record-info":
        return _envelope(_finished(state, task))
    if task.plan.callback_shape == "job":
        return _envelope(_job(state, task))
    code = _callback_code(task)
    url: str | list[str] = ""
    if code == 200:
        urls = _result_urls(state, task)
        several = len(urls) > 1 and task.plan.urls_as != "string"
        url = urls if several else next(iter(urls), "")
    return _generate_callback(task.task_id, code, url)


def forged_callback(task_id: str) -> dict[str, Any]:
    """A success that the service never sent, pointing to a host that does not exist."""
    return _generate_callback(task_id, 200, f"https://forged.invalid/{task_id[:8]}.png")


def _callback_code(task: GenerationTask) -> int:
    if task.plan.outcome == "success":
        return 200
    code = _error(task)[0]
    return code if isinstance(code, int) and code in CALLBACK_MESSAGES else 501


def _generate_callback(task_id: str, code: int, url: str | list[str]) -> dict[str, Any]:
    data = {"taskId": task_id, "info": {"resultImageUrl": url}}
    return {"code": code, "msg": CALLBACK_MESSAGES[code], "data": data}


def _envelope(data: dict[str, Any]) -> dict[str, Any]:
    return {"code": 200, "msg": "success", "data": data}


def _record(task: GenerationTask) -> dict[str, Any]:
    return {
        "taskId": task.task_id,
        "paramJson": json.dumps(task.parameters, ensure_ascii=False, separators=(",", ":")),
        "completeTime": None,
        "response": None,
        "successFlag": 0,
        "errorCode": None,
        "errorMessage": None,
        "operationType": task.operation_type,
        "createTime": service_time(task.created_at, task.plan.time_style),
    }


def _generating(task: GenerationTask) -> dict[str, Any]:
    record = _record(task)
    if task.plan.early_complete_time:
        moment = task.created_at if math.isinf(task.done_at) else task.done_at
        record["completeTime"] = service_time(moment, task.plan.time_style)
    return record


def _finished(state: SandboxState, task: GenerationTask) -> dict[str, Any]:
    record = _record(task)
    record["completeTime"] = service_time(task.done_at, task.plan.time_style)
    record["successFlag"] = SUCCESS_FLAGS[task.plan.outcome]
    record["errorCode"], record["errorMessage"] = _error(task)
    if task.plan.outcome == "success":
        place = "info" if task.plan.urls_as == "info" else "response"
        record[place] = _response(state, task)
    return record


def _error(task: GenerationTask) -> tuple[int | str | None, str | None]:
    plan = task.plan
    code, message = plan.error_code, plan.error_message
    if plan.outcome != "success":
        if "error_code" not in plan.model_fields_set:
            code = 501
        if "error_message" not in plan.model_fields_set:
            message = GENERATION_FAILED_MESSAGE
    return code, message


def _still_changes(task: GenerationTask) -> bool:
    plan = task.plan
    dies_young = "first-look" in (plan.dead_result_url, plan.dead_origin_url)
    return task.finished_looks <= plan.looks_without_url or (
        dies_young and task.finished_looks <= plan.looks_without_url + 1
    )


def _response(state: SandboxState, task: GenerationTask) -> dict[str, Any]:
    plan = task.plan
    response: dict[str, Any] = {"originImageUrl": None, "resultImageUrl": None}
    if plan.looks_without_url and task.finished_looks <= plan.looks_without_url:
        return response
    urls = _result_urls(state, task)
    if plan.origin_url and urls:
        response["originImageUrl"] = _url(state, task, "origin", 1)
    shape = plan.urls_as or ("string" if plan.images == 1 else "list")
    if shape == "string":
        response["resultImageUrl"] = next(iter(urls), None)
    elif shape == "list":
        response["resultImageUrl"] = urls
    elif shape == "gaps":
        response["resultImageUrls"] = [None if n % 2 == 0 else url for n, url in enumerate(urls)]
        response["originImageUrls"] = [
            _url(state, task, "origin", number) for number in range(1, len(urls) + 1)
        ]
    elif shape == "info":
        response["resultImageUrl"] = urls if len(urls) > 1 else next(iter(urls), None)
    else:
        response[shape] = urls
    return response


def _result_urls(state: SandboxState, task: GenerationTask) -> list[str]:
    return [_url(state, task, "result", number) for number in range(1, task.plan.images + 1)]


def _url(
    state: SandboxState, task: GenerationTask, kind: Literal["origin", "result"], number: int
) -> str:
    settings, plan = state.settings, task.plan
    if kind == "origin":
        lifetime, death = settings.origin_url_seconds, plan.dead_origin_url
    else:
        lifetime, death = settings.result_url_seconds, plan.dead_result_url
    first_look = task.finished_looks <= plan.looks_without_url + 1
    dead = death == "always" or (death == "first-look" and first_look)
    expires = int((task.done_at + (-1.0 if dead else lifetime / settings.speed)) * 1000)
    extension = plan.url_extension or EXTENSIONS[media_type(state, task)]
    path = f"/files/{kind}/{task.file_name}_{number}.{extension}"
    return f"{state.base_url}{path}?Expires={expires}&Signature={sign(state, path, expires)}"


def sign(state: SandboxState, path: str, expires: int) -> str:
    """The signature under which an image path may be fetched until `expires` (epoch ms)."""
    secret = f"sandbox/{state.settings.seed}".encode()
    digest = hmac.new(secret, f"{path}/{expires}".encode(), hashlib.sha256).hexdigest()
    return SIGNATURE_MARK + digest[:32]


def media_type(state: SandboxState, task: GenerationTask) -> str:
    """What a task's images really are."""
    if state.settings.image_bytes is not None:
        return "image/jpeg"
    names = list(EXTENSIONS)
    return task.plan.media_type or names[int(task.file_name[:4], 16) % len(names)]
