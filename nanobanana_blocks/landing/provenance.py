"""What made a picture, as its receipt records it: no key, no signed URL; this does no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nanobanana_blocks.api.details import TaskDetails
from nanobanana_blocks.api.requests import REQUESTS, GenerationRequest, GenericRequest, is_url
from nanobanana_blocks.storage.locations import redact

MAX_SOURCE_LENGTH = 500
"""Characters of a reference's source that are recorded at most."""

MAX_OPTION_LENGTH = 200
MAX_OPTION_NAME = 60
MAX_OWN_OPTION = 40
"""Characters of a text in a field of an endpoint that this version does not know."""

_TELLING = re.compile(r"prompt|text|secret|token|key|password|ur[li]", re.IGNORECASE)

_ROW = "row:"
_NOT_OPTIONS = frozenset({"prompt", "imageUrls", "endpoint"})
_OPTIONS = frozenset(
    field.alias or name
    for request in REQUESTS.values()
    for name, field in request.model_fields.items()
).difference(_NOT_OPTIONS)
"""The documented options of all endpoints, in the API's words."""


def encodable(value: Any) -> Any:
    """The value; text in it with U+FFFD for halves of surrogate pairs, which no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {name: encodable(each) for name, each in value.items()}
    return value


Text = Annotated[str, BeforeValidator(encodable)]


class Reference(BaseModel):
    """An image that a picture was made from.

    `source` is what the request named, without password, query and fragment: a path, a URL,
    ``store-block/path`` or ``row:name``. `sha256` is of its content, in hexadecimal digits; of a
    URL that the service fetched itself it is not known.
    """

    model_config = ConfigDict(frozen=True)

    source: Text
    sha256: str | None = None


class Provenance(BaseModel):
    """What made a picture; each field is there only where it is known.

    `options` are those of the request, in the API's words, and `credits_estimated` is about what
    one submit of it costs. `row` is the row's number in `manifest`, whose SHA-256 is
    `manifest_digest`, when it landed; `flow_run` is the id of the Prefect run that landed it.
    `alternative_prompt` tells that the row's prompt for content that was refused has made it.
    `prompt` is never written as a part of this: where prompts are kept, the receipt has it.
    """

    model_config = ConfigDict(frozen=True)

    endpoint: str | None = None
    options: Annotated[dict[str, Any] | None, BeforeValidator(encodable)] = None
    references: list[Reference] | None = None
    credits_estimated: int | float | None = None
    alternative_prompt: bool | None = None
    row: int | None = None
    manifest: Text | None = None
    manifest_digest: str | None = None
    flow_run: str | None = None
    prompt: str | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def of(
        cls, request: GenerationRequest, digests: Mapping[str, str] | None = None, **facts: Any
    ) -> Provenance:
        """What is known of a request that was submitted.

        Args:
            request: As the user gave it, not as it was sent.
            digests: The SHA-256 of reference images, by the texts that name them.
            facts: Other fields.
        """
        return cls(
            endpoint=str(request.endpoint),
            options=_options(request) or None,
            references=_references(request.image_urls or (), digests or {}),
            prompt=request.prompt,
            **facts,
        )

    def including(self, other: Provenance | None) -> Provenance:
        """The same, with what another tells instead of what it does not tell."""
        return self.model_copy(update={k: v for k, v in other or () if v is not None})

    def completed_by(self, details: TaskDetails) -> Provenance:
        """The same, with what only record-info tells: the options and URLs of an unknown request.

        Which endpoint it was is told by the operation type, as far as that is documented.
        """
        if self.endpoint is not None and (self.options or self.references):
            return self
        asked = details.parameters
        urls = asked.get("imageUrls")
        named = [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []
        return self.model_copy(
            update={
                "options": encodable(
                    {name: asked[name] for name in sorted(_OPTIONS) if _is_plain(asked.get(name))}
                )
                or None,
                "references": _references(filter(is_url, named), {}),
            }
        )


def _options(request: GenerationRequest) -> dict[str, Any]:
    """What a receipt may tell of a request: of fields that nobody here knows, no text as long or
    as telling as a prompt or a URL."""
    if not isinstance(request, GenericRequest):
        return {k: v for k, v in request.content().items() if k in _OPTIONS}
    return {
        name: value
        for name, value in request.fields.items()
        if len(name) <= MAX_OPTION_NAME
        and _is_plain(value)
        and not _TELLING.search(name)
        and not (isinstance(value, str) and (len(value) > MAX_OWN_OPTION or "://" in value))
    }


def _references(texts: Iterable[str], digests: Mapping[str, str]) -> list[Reference] | None:
    return [Reference(source=source_of(text), sha256=digests.get(text)) for text in texts] or None


def source_of(text: str) -> str:
    """What names a reference image, without what may be a secret in it."""
    if is_url(text):
        scheme, _, rest = text.partition("://")
        authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        shown = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    else:
        shown = text if text.startswith(_ROW) else redact(text)
    return shown[:MAX_SOURCE_LENGTH]


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return bool(value) and len(value) <= MAX_OPTION_LENGTH
    return isinstance(value, (bool, int, float))
