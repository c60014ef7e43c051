"""The envelope of all answers, `{code, msg, data}`, and what each code means; it does no I/O.

The service refuses in two ways, by HTTP status and, more often, by the `code` of an envelope under
HTTP 200 (observed).
"""

from __future__ import annotations

import math
from typing import Any

from nanobanana_blocks.api.details import check_task_id
from nanobanana_blocks.api.json_values import as_integer, as_json, as_text, excerpt
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


def read_envelope(http_status: int, body: bytes, *, task_id: str | None = None) -> Any:
    """Return the `data` of an answer whose code is 200.

    Raises:
        APIError: One of its subclasses, for every other answer.
    """
    payload = as_json(body)
    code = as_integer(payload.get("code")) if isinstance(payload, dict) else None
    if http_status == 200 and code == 200:
        return payload.get("data")
    message = message_of(payload) if isinstance(payload, dict) else ""
    if code is None and not _is_telling(http_status):
        raise ProtocolError(
            f"the answer (HTTP {http_status}) is not the API's: {excerpt(body)!r}. "
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


def message_of(payload: dict[str, Any]) -> str:
    """What an envelope says, in either of its spellings."""
    return as_text(payload.get("msg")) or as_text(payload.get("message")) or ""


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


def read_submitted(data: Any) -> str:
    """Read the `data` of an accepted submit's answer: the id of the generation task.

    Raises:
        ProtocolError: It holds no `taskId` that can be asked about.
    """
    try:
        return check_task_id(data.get("taskId") if isinstance(data, dict) else None)
    except InvalidInput:
        raise ProtocolError(
            f"the answer to a submit holds no usable `taskId`: {excerpt(data)!r}.", code=200
        ) from None


def read_credits(data: Any) -> int | float:
    """Read the `data` of an answer about the account's credits.

    A whole number is documented; sister products give decimals, as numbers or as text.

    Raises:
        ProtocolError: It is not a number.
    """
    whole = as_integer(data)
    if whole is not None:
        return whole
    try:
        credits_left = float(data) if isinstance(data, (str, float)) else math.nan
    except ValueError:
        credits_left = math.nan
    if not math.isfinite(credits_left):
        raise ProtocolError(f"the credits are not a number: {excerpt(data)!r}.", code=200)
    return credits_left
