"""What the API is sent and what it answers: any bytes give a value or one typed error.

It does no I/O. Only `successFlag` says that a generation task has ended.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from nanobanana_blocks.api.details import TaskDetails, TaskStatus, pair_urls
from nanobanana_blocks.api.envelope import message_of, read_envelope
from nanobanana_blocks.api.json_values import (
    as_integer,
    as_json,
    as_object,
    as_text,
    as_url,
    excerpt,
)
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.api.times import read_time
from nanobanana_blocks.errors import ProtocolError, UnknownTask

RECORD_INFO = "/api/v1/nanobanana/record-info"
CREDITS = "/api/v1/common/credit"

FAILURE_CODES = frozenset({408, 501})
"""Codes of record-info's envelope by which sister products end a task: the generation failed, or
gave no result in time."""

MAX_IMAGES = 100

_POLICY = re.compile(r"polic|flagged|prohibited|sensitive|nsfw", re.IGNORECASE)


def submission(request: GenerationRequest, callback_url: str | None) -> tuple[str, dict[str, Any]]:
    """Where a request is posted, and what."""
    path = f"/api/v1/nanobanana/{quote(request.endpoint, safe='')}"
    return path, request.body(callback_url)


def problem(request: GenerationRequest) -> str | None:
    """Why no request can be submitted to its endpoint, in words that follow `endpoint`."""
    if "/" in request.endpoint:
        return (
            f"must be the last part of a path, not {request.endpoint}: names with / are those of "
            "models, which credentials of the dialect `jobs` take"
        )
    return None


def read_record_info(http_status: int, body: bytes, *, task_id: str) -> TaskDetails:
    """Read record-info's answer about `task_id`.

    Where there is a `successFlag`, it is believed, whatever the envelope's code.

    Raises:
        UnknownTask: The id is not known; a sister product says so with null `data`.
        ProtocolError: The answer is not what is documented, or is about another task.
        APIError: Another of its subclasses, where the API refuses to answer.
    """
    payload = as_object(as_json(body))
    data = payload.get("data")
    if http_status == 200 and isinstance(data, dict) and data.get("successFlag") is not None:
        return read_task_details(data, task_id=task_id)
    if failure := failure_by_code(http_status, payload, task_id):
        return failure
    return read_task_details(read_envelope(http_status, body, task_id=task_id), task_id=task_id)


def failure_by_code(http_status: int, payload: dict[str, Any], task_id: str) -> TaskDetails | None:
    """The failure of a task that only the code of an envelope tells, as sister products do."""
    code, message = as_integer(payload.get("code")), message_of(payload)
    if payload.get("data") or http_status not in (200, code):
        return None
    if code in FAILURE_CODES or (code == 400 and _POLICY.search(message)):
        return TaskDetails(
            task_id=task_id,
            status=TaskStatus.GENERATE_FAILED,
            error_code=code,
            error_message=message or None,
            by_code=True,
        )
    return None


def read_task_details(data: Any, *, task_id: str) -> TaskDetails:
    """Read the `data` of record-info's answer about `task_id`.

    Raises:
        UnknownTask: `data` is null, as a sister product answers for an id it does not know.
        ProtocolError: `data` is not what is documented, or is about another task.
    """
    if data is None:
        raise UnknownTask("the API does not know this task id.", task_id=task_id, code=200)
    if not isinstance(data, dict):
        raise ProtocolError(f"`data` is not an object: {excerpt(data)!r}.", task_id=task_id)
    return _details(data, task_id=task_id)


def _details(data: dict[str, Any], *, task_id: str) -> TaskDetails:
    named = data.get("taskId")
    if named is not None and str(named) != task_id:
        raise ProtocolError(
            f"record-info answered about another task: {excerpt(named)!r}", task_id=task_id
        )
    flag = as_integer(data.get("successFlag"))
    if flag is None or flag not in list(TaskStatus):
        raise ProtocolError(
            f"`successFlag` is not documented: {excerpt(data.get('successFlag'))!r}",
            task_id=task_id,
        )
    status = TaskStatus(flag)
    error_code = data.get("errorCode")
    # Two clients read `info`, as in callbacks, for generate-pro.
    response = data.get("response") or data.get("info")
    return TaskDetails(
        task_id=task_id,
        status=status,
        **urls_of(response),
        error_code=error_code_of(error_code),
        error_message=as_text(data.get("errorMessage")),
        created_at=read_time(data.get("createTime")),
        completed_at=read_time(data.get("completeTime")),
        operation_type=as_text(data.get("operationType")),
        parameters=as_object(data.get("paramJson")),
    )


def error_code_of(raw: Any) -> int | str | None:
    """A failure's code, or None where there is none: null, 0 and blank."""
    if raw is None or isinstance(raw, bool) or raw in (0, "0", ""):
        return None
    number = as_integer(raw)
    return number if number is not None else as_text(raw)


def urls_of(response: Any) -> dict[str, tuple[Any, ...]]:
    """The fields of `TaskDetails` about URLs: those of each kind, and those of each image."""
    fields = as_object(response)
    result, origin = _positions(fields, "result"), _positions(fields, "origin")
    result_urls = tuple(url for url in result if url)
    origin_urls = tuple(url for url in origin if url)
    by_image = pair_urls(result, origin)
    told_by_order = by_image == pair_urls(result_urls, origin_urls)
    return {
        "result_urls": result_urls,
        "origin_urls": origin_urls,
        "urls_by_image": () if told_by_order else by_image,
    }


def _positions(fields: dict[str, Any], kind: str) -> list[str | None]:
    """The URLs of one kind by the position of their image, None where there is none.

    Public code defends against all of these spellings. Where several are there, the longest list
    gives the positions.
    """
    named = (fields.get(name) for name in (f"{kind}ImageUrl", f"{kind}ImageUrls", f"{kind}Urls"))
    listed = [value if isinstance(value, list) else [value] for value in named]
    urls: list[str | None] = []
    for values in sorted(listed, key=len, reverse=True):
        _merge(urls, [as_url(value) for value in values[:MAX_IMAGES]])
    return urls[:MAX_IMAGES]


def _merge(urls: list[str | None], more: list[str | None]) -> None:
    """Add the images of another field: at their position where that is free, else at the end."""
    known = {_unsigned(url) for url in urls if url}
    for position, found in enumerate(more):
        is_known = found is not None and (_unsigned(found) in known or found in urls)
        url = None if is_known else found
        if position >= len(urls):
            urls.append(url)
        elif url is not None and urls[position] is None:
            urls[position] = url
        elif url is not None:
            urls.append(url)


def _unsigned(url: str) -> str:
    """What identifies an image within an answer: two fields may sign its URL differently."""
    return re.split(r"[?#]", url, maxsplit=1)[0]
