"""What the submit endpoints accept, and what they cost.

Judges a request body; creates nothing and takes no money.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanobanana_blocks.sandbox.settings import CONTENT_POLICY_MESSAGE, TaskPlan

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSIC_SIZES = ("1:1", "9:16", "16:9", "3:4", "4:3", "3:2", "2:3", "5:4", "4:5", "21:9")
PRO_RATIOS = (*CLASSIC_SIZES, "auto")
SECOND_RATIOS = (*PRO_RATIOS, "1:4", "1:8", "4:1", "8:1")
RESOLUTIONS = ("1K", "2K", "4K")
SECOND_CREDITS = {"1K": 8, "2K": 12, "4K": 18}
PRO_CREDITS = {"1K": 18, "2K": 24, "4K": 36}
GENERATE_CREDITS = 4
TASK_TYPES = ("TEXTTOIAMGE", "IMAGETOIAMGE")
OUTPUT_FORMATS = {"png": "image/png", "jpg": "image/jpeg"}


class RefusedSubmitError(ValueError):
    """The service would not accept this body; `code` is the envelope's code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def judge(endpoint: str, body: Any) -> None:
    """Raise `RefusedSubmitError` unless the endpoint accepts the body."""
    if not isinstance(body, dict):
        raise RefusedSubmitError(400, "The request body is not a JSON object")
    _text(body, "prompt", needed=endpoint in JUDGES)
    _text(body, "callBackUrl")
    if endpoint in JUDGES:
        JUDGES[endpoint](body)
    else:
        _image_urls(body, at_most=None)


def price(endpoint: str, body: dict[str, Any]) -> int:
    """The credits that an accepted body costs."""
    if endpoint == "generate":
        return GENERATE_CREDITS
    by_resolution = PRO_CREDITS if endpoint == "generate-pro" else SECOND_CREDITS
    return by_resolution[body.get("resolution") or "1K"]


def operation_type(endpoint: str, body: dict[str, Any]) -> str:
    """What record-info calls the operation."""
    if endpoint == "generate":
        return f"nanobanana_{body['type']}"
    if endpoint not in JUDGES:
        return endpoint
    name = "nano-banana-pro" if endpoint == "generate-pro" else "nano-banana-2"
    return f"{name}_{(body.get('resolution') or '1K').lower()}"


def plan_for(endpoint: str, body: dict[str, Any], template: TaskPlan, longer_edge: int) -> TaskPlan:
    """How the new task will behave: the template, with what the request asks for."""
    changes: dict[str, Any] = {
        "prompt": body.get("prompt") or template.prompt,
        "callback_url": body.get("callBackUrl"),
        "callback_shape": "record-info" if endpoint == "generate-2" else "generate",
    }
    if endpoint not in JUDGES:
        return template.model_copy(update=changes)
    if "images" not in template.model_fields_set:
        changes["images"] = body.get("numImages") or 1
    ratio = body.get("image_size") or body.get("aspectRatio") or "auto"
    if ratio != "auto" and template.width is None and template.height is None:
        across, down = (int(part) for part in ratio.split(":"))
        changes["width"] = max(longer_edge * across // max(across, down), 1)
        changes["height"] = max(longer_edge * down // max(across, down), 1)
    if endpoint == "generate-2" and template.media_type is None:
        changes["media_type"] = OUTPUT_FORMATS[body.get("outputFormat") or "jpg"]
    return template.model_copy(update=changes)


def flagged(plan: TaskPlan) -> TaskPlan:
    """The same task, ending because its prompt violates the content policy."""
    return plan.model_copy(
        update={
            "outcome": "generate-failed",
            "error_code": 400,
            "error_message": CONTENT_POLICY_MESSAGE,
        }
    )


def _judge_generate(body: dict[str, Any]) -> None:
    if not body.get("type"):
        raise RefusedSubmitError(422, "type can not be blank")
    if body["type"] not in TASK_TYPES:
        raise RefusedSubmitError(422, "Incorrect type")
    if body.get("callBackUrl") is None:
        raise RefusedSubmitError(422, "callBackUrl can not be null")
    number = body.get("numImages")
    whole = isinstance(number, int) and not isinstance(number, bool)
    if number is not None and not (whole and 1 <= number <= 4):
        raise RefusedSubmitError(422, "Incorrect numImages")
    _text(body, "watermark")
    _one_of(body, "image_size", CLASSIC_SIZES)
    _image_urls(body, at_most=None)
    if body["type"] == "IMAGETOIAMGE" and not body.get("imageUrls"):
        raise RefusedSubmitError(422, "imageUrls can not be blank")


def _judge_pro(body: dict[str, Any]) -> None:
    _one_of(body, "resolution", RESOLUTIONS)
    _one_of(body, "aspectRatio", PRO_RATIOS)
    _image_urls(body, at_most=8)


def _judge_second(body: dict[str, Any]) -> None:
    if len(body["prompt"]) > 20_000:
        raise RefusedSubmitError(422, "prompt is longer than 20000 characters")
    _one_of(body, "resolution", RESOLUTIONS)
    _one_of(body, "aspectRatio", SECOND_RATIOS)
    _one_of(body, "outputFormat", tuple(OUTPUT_FORMATS))
    if not isinstance(body.get("googleSearch", False), bool):
        raise RefusedSubmitError(422, "Incorrect googleSearch")
    _image_urls(body, at_most=14)


JUDGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "generate": _judge_generate,
    "generate-pro": _judge_pro,
    "generate-2": _judge_second,
}


def _text(body: dict[str, Any], name: str, *, needed: bool = False) -> None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise RefusedSubmitError(422, f"Incorrect {name}")
    if needed and not (value and value.strip()):
        raise RefusedSubmitError(422, f"{name} can not be blank")


def _one_of(body: dict[str, Any], name: str, allowed: tuple[str, ...]) -> None:
    value = body.get(name)
    if value is not None and value not in allowed:
        raise RefusedSubmitError(422, f"Incorrect {name}")


def _image_urls(body: dict[str, Any], *, at_most: int | None) -> None:
    urls = body.get("imageUrls")
    if urls is None:
        return
    if not isinstance(urls, list) or not all(
        isinstance(url, str) and url.lower().startswith(("http://", "https://")) for url in urls
    ):
        raise RefusedSubmitError(422, "Incorrect imageUrls")
    if at_most is not None and len(urls) > at_most:
        raise RefusedSubmitError(422, f"imageUrls can not hold more than {at_most}")
