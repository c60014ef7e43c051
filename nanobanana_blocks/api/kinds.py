"""The kinds of work whose generation times differ, read from what record-info says of a task."""

from __future__ import annotations

import re

from nanobanana_blocks.api.details import TaskDetails

MAX_KIND_LENGTH = 60

_RESOLUTION = re.compile(r"(?<![0-9])([124])k(?![a-z0-9])", re.IGNORECASE)


def kind_of(details: TaskDetails) -> str | None:
    """The kind of a task: endpoint, resolution, and `edit` where it has reference images.

    None where record-info does not say. Documented for generate-2: ``nano-banana-2_1k`` as
    `operationType`; observed for generate: ``nanobanana_TEXTTOIAMGE``; of others it is not known,
    so that an unknown text names a kind of its own.
    """
    parameters = details.parameters
    operation = (details.operation_type or "").lower()
    if not operation and not parameters:
        return None
    resolution = str(parameters.get("resolution") or "")
    found = _RESOLUTION.search(resolution) or _RESOLUTION.search(operation)
    is_edit = bool(parameters.get("imageUrls")) or (
        "imagetoiamge" in f"{operation} {parameters.get('type', '')}".lower()
    )
    parts = [_endpoint(operation)]
    if found:
        parts.append(f"{found[1]}K")
    if is_edit:
        parts.append("edit")
    return " ".join(parts)[:MAX_KIND_LENGTH]


def _endpoint(operation: str) -> str:
    if re.search(r"(banana|generate)[-_ ]?pro(?![a-z0-9])", operation):
        return "generate-pro"
    if re.search(r"banana[-_ ]?2|generate[-_ ]?2", operation):
        return "generate-2"
    if re.search(r"(text|image)toiamge", operation) or not operation:
        return "generate"
    return kind_of_endpoint(_RESOLUTION.sub("", operation))


def kind_of_endpoint(name: str) -> str:
    """What the kinds of an endpoint that this version does not know begin with."""
    bare = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return bare[: MAX_KIND_LENGTH // 2] or "other"
