"""Reads the API's answers and callbacks: any bytes give a value or one typed error.

It does no I/O. The service refuses in two ways, by HTTP status and, more often, by the `code` of a
JSON envelope under HTTP 200 (observed); only `successFlag` says that a generation task has ended.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any
from urllib.parse import quote

from nanobanana_blocks.api.details import TaskDetails, TaskStatus, check_task_id, pair_urls
from nanobanana_blocks.api.times import read_time
from nanobanana_blocks.errors import (
    APIError,
    BadRequest,
    Forbidden,
    InvalidInput,
    OutOfCredits,
    ProtocolError,
    RateLimited,
    ServerError,
    Unauthorized,
    UnknownTask,
)

RECORD_INFO = "/api/v1/nanobanana/record-info"
CREDITS = "/api/v1/common/credit"

FAILURE_CODES = frozenset({408, 501})
"""Codes of record-info's envelope by which sister products end a task: the generation failed, or
gave no result in time."""

MAX_IMAGES = 100
MAX_URL_LENGTH = 8192
MAX_TEXT_LENGTH = 300

_URL_QUERY = re.compile(r"(https?://[^\s?#\"'<>]+)[?#][^\s\"'<>]*", re.IGNORECASE)
_POLICY = re.compile(r"polic|flagged|prohibited|sensitive|nsfw", re.IGNORECASE)


def submit_path(endpoint: str) -> str:
    """Where a request to an endpoint is posted; its name has been checked."""
    return f"/api/v1/nanobanana/{quote(endpoint, safe='')}"


def read_record_info(
    http_status: int, body: bytes, *, task_id: str, server_time: float | None = None
) -> TaskDetails:
    """Read record-info's answer about `task_id`, given at `server_time` by the service's clock.

    Where there is a `successFlag`, it is believed, whatever the envelope's code.

    Raises:
        UnknownTask: The id is not known; a sister product says so with null `data`.
        ProtocolError: The answer is not what is documented, or is about another task.
        APIError: Another of its subclasses, where the API refuses to answer.
    """
    payload = _json(body)
    if not isinstance(payload, dict):
        payload = {}
    data = payload.get("data")
    if http_status == 200 and isinstance(data, dict) and data.get("successFlag") is not None:
        return _details(data, task_id=task_id)
    if failure := _failure_by_code(http_status, payload, task_id):
        return failure
    data = read_envelope(http_status, body, task_id=task_id)
    details = read_task_details(data, task_id=task_id)
    answered_at = read_time(server_time)
    return details.model_copy(update={"answered_at": answered_at}) if answered_at else details


def _failure_by_code(http_status: int, payload: dict[str, Any], task_id: str) -> TaskDetails | None:
    code, message = _integer(payload.get("code")), _message(payload)
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
        raise ProtocolError(f"`data` is not an object: {_excerpt(data)!r}.", task_id=task_id)
    return _details(data, task_id=task_id)


def read_submitted(data: Any) -> str:
    """Read the `data` of an accepted submit's answer: the id of the generation task.

    Raises:
        ProtocolError: It holds no `taskId` that can be asked about.
    """
    try:
        return check_task_id(data.get("taskId") if isinstance(data, dict) else None)
    except InvalidInput:
        raise ProtocolError(
            f"the answer to a submit holds no usable `taskId`: {_excerpt(data)!r}.", code=200
        ) from None


def read_credits(data: Any) -> int | float:
    """Read the `data` of an answer about the account's credits.

    A whole number is documented; sister products give decimals, as numbers or as text.

    Raises:
        ProtocolError: It is not a number.
    """
    whole = _integer(data)
    if whole is not None:
        return whole
    try:
        credits_left = float(data) if isinstance(data, (str, float)) else math.nan
    except ValueError:
        credits_left = math.nan
    if not math.isfinite(credits_left):
        raise ProtocolError(f"the credits are not a number: {_excerpt(data)!r}.", code=200)
    return credits_left


def read_callback(body: bytes) -> TaskDetails:
    """Read a callback, in either of the service's two shapes.

    Documented for `/generate`: the outcome is the top-level `code` (200, 400, 500, 501), the URL is
    `data.info.resultImageUrl`. Documented for `/generate-2`: record-info's envelope. Where a flag
    and a code are both there, the flag wins. Any other code is a failure of the task: callbacks are
    hints, which record-info confirms. The task's id is also taken from where it is not documented.

    Raises:
        ProtocolError: The body is neither shape, or names no task.
    """
    payload = _json(body)
    if not isinstance(payload, dict):
        raise ProtocolError("the callback is not a JSON object")
    data = _object(payload.get("data"))
    task_id = _callback_task_id(payload, data)
    if data.get("successFlag") is not None:
        return _details(data, task_id=task_id)
    code = _integer(payload.get("code"))
    if code is None or not (code == 200 or code >= 400):
        raise ProtocolError(
            f"the callback's `code` is neither 200 nor an error's: {_excerpt(code)}"
        )
    info = data.get("info") or data.get("response")
    return TaskDetails(
        task_id=task_id,
        status=TaskStatus.SUCCESS if code == 200 else TaskStatus.GENERATE_FAILED,
        **_urls(info),
        error_code=None if code == 200 else code,
        error_message=None if code == 200 else _text(payload.get("msg")),
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


def read_envelope(http_status: int, body: bytes, *, task_id: str | None = None) -> Any:
    """Return the `data` of an answer whose code is 200.

    Raises:
        APIError: One of its subclasses, for every other answer.
    """
    payload = _json(body)
    code = _integer(payload.get("code")) if isinstance(payload, dict) else None
    if http_status == 200 and code == 200:
        return payload.get("data")
    message = _message(payload) if isinstance(payload, dict) else ""
    if code is None and not _is_telling(http_status):
        raise ProtocolError(
            f"the answer (HTTP {http_status}) is not the API's: {_excerpt(body)!r}. "
            "Check the base URL.",
            task_id=task_id,
            http_status=http_status,
        )
    verdict = http_status if code in (None, 200) else code
    no_data = isinstance(payload, dict) and not payload.get("data")
    raise _refusal(
        int(verdict or 0),
        message,
        http_status=http_status,
        code=code,
        task_id=task_id,
        no_data=no_data,
    )


def _message(payload: dict[str, Any]) -> str:
    return _text(payload.get("msg")) or _text(payload.get("message")) or ""


def _is_telling(http_status: int) -> bool:
    return http_status in (401, 402, 403, 408, 413, 429) or http_status >= 500


def _refusal(
    verdict: int,
    message: str,
    *,
    http_status: int,
    code: int | None,
    task_id: str | None,
    no_data: bool,
) -> APIError:
    said = f"{verdict}: {message}" if message else str(verdict)
    where: dict[str, Any] = {"task_id": task_id, "http_status": http_status, "code": code}
    if verdict == 401:
        return Unauthorized(
            f"the API refused the key ({said}). Check the key, and the key's IP allow list at "
            "https://nanobananaapi.ai/api-key.",
            http_status=http_status,
            code=code,
        )
    if verdict == 403:
        return Forbidden(
            f"the request was refused ({said}). Check the key's IP allow list at "
            "https://nanobananaapi.ai/api-key, and whether a firewall or proxy is on the way.",
            **where,
        )
    if verdict == 402:
        return OutOfCredits(
            f"the account has too few credits ({said}). Top up, then run again.", **where
        )
    is_unknown = verdict == 404 or (verdict == 422 and "recordinfo is null" in message.lower())
    if is_unknown and task_id:
        return UnknownTask(
            f"the API does not know this task id ({said}). Check the id, and that the key belongs "
            "to the account that made it.",
            **where,
        )
    if verdict in (400, 404, 413, 422, 505):
        return BadRequest(f"the API rejects the request ({said}).", **where)
    if verdict == 429:
        return RateLimited(
            f"the API asks for fewer requests ({said}). Lower requests_per_second, or try again "
            "later.",
            **where,
        )
    if verdict in (408, 455) or 500 <= verdict < 600:
        return ServerError(f"the API failed ({said}).", **where)
    if 400 <= verdict < 500 and code is not None and no_data:
        return BadRequest(f"the API rejects the request ({said}).", **where)
    return ProtocolError(f"the API answered with an undocumented code ({said}).", **where)


def _details(data: dict[str, Any], *, task_id: str) -> TaskDetails:
    named = data.get("taskId")
    if named is not None and str(named) != task_id:
        raise ProtocolError(
            f"record-info answered about another task: {_excerpt(named)!r}", task_id=task_id
        )
    flag = _integer(data.get("successFlag"))
    if flag is None or flag not in list(TaskStatus):
        raise ProtocolError(
            f"`successFlag` is not documented: {_excerpt(data.get('successFlag'))!r}",
            task_id=task_id,
        )
    status = TaskStatus(flag)
    error_code = data.get("errorCode")
    # Two clients read `info`, as in callbacks, for generate-pro.
    response = data.get("response") or data.get("info")
    return TaskDetails(
        task_id=task_id,
        status=status,
        **_urls(response),
        error_code=_error_code(error_code),
        error_message=_text(data.get("errorMessage")),
        created_at=read_time(data.get("createTime")),
        completed_at=read_time(data.get("completeTime")),
        operation_type=_text(data.get("operationType")),
        parameters=_object(data.get("paramJson")),
    )


def _error_code(raw: Any) -> int | str | None:
    if raw is None or isinstance(raw, bool) or raw in (0, "0", ""):
        return None
    number = _integer(raw)
    return number if number is not None else _text(raw)


def _urls(response: Any) -> dict[str, tuple[Any, ...]]:
    """The fields of `TaskDetails` about URLs: those of each kind, and those of each image."""
    fields = _object(response)
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
        _merge(urls, [_url(value) for value in values[:MAX_IMAGES]])
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


def _url(value: Any) -> str | None:
    url = value.strip() if isinstance(value, str) else ""
    return url if 0 < len(url) <= MAX_URL_LENGTH else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _object(raw: Any) -> dict[str, Any]:
    value = _json(raw.encode("utf-8", "replace")) if isinstance(raw, str) else raw
    return value if isinstance(value, dict) else {}


def _integer(raw: Any) -> int | None:
    if isinstance(raw, bool):
        return None
    if isinstance(raw, int):
        return raw if abs(raw) < 2**63 else None
    if isinstance(raw, float):
        return int(raw) if raw.is_integer() and abs(raw) < 2**63 else None
    if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,18}", raw.strip()):
        return int(raw)
    return None


def _text(raw: Any) -> str | None:
    """A short printable text, the signed part of any URL in it cut off; None for nothing."""
    if raw is None or raw == "":
        return None
    text = raw if isinstance(raw, str) else json.dumps(raw, default=str)
    text = _URL_QUERY.sub(r"\1?…", text[: MAX_TEXT_LENGTH * 4])
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_TEXT_LENGTH] or None


def _excerpt(raw: Any) -> str:
    text = raw[:2000].decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return (_text(text) or "nothing")[:120]
