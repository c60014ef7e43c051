"""The fields that rows of a manifest may have, which endpoint knows which, and their defaults.

What a row gives for them is checked elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from nanobanana_blocks.api.forms import describe_briefly
from nanobanana_blocks.api.requests import (
    REQUESTS,
    AspectRatio,
    Endpoint,
    EndpointName,
    ExpectedCredits,
    GenericRequest,
    ImageSize,
    ImageSource,
    NumberOfImages,
    Resolution,
)
from nanobanana_blocks.batches.manifest.problems import MAX_SHOWN_LENGTH

ALTERNATIVE_PROMPT = "prompt_on_content_policy"

ROW_FIELDS = ("task_id", "endpoint", "name", "key", ALTERNATIVE_PROMPT)
"""What a row may have that is not sent to an endpoint."""


def _options(request: type[BaseModel]) -> dict[str, str]:
    return {
        name: field.alias or name
        for name, field in request.model_fields.items()
        if name not in ROW_FIELDS
    }


OPTIONS: Mapping[str, Mapping[str, str]] = {
    endpoint.value: _options(request) for endpoint, request in REQUESTS.items()
}
"""The fields of each known endpoint, by Python's names, in the API's words."""

OTHER_OPTIONS: Mapping[str, str] = _options(GenericRequest)
"""The fields of rows for any other endpoint, in the same way."""

ALIASES: Mapping[str, str] = {
    **{name: to_camel(name) for name in ROW_FIELDS},
    **{name: alias for options in OPTIONS.values() for name, alias in options.items()},
    **OTHER_OPTIONS,
}
"""All fields, by Python's names, in the API's words."""

NAMES: Mapping[str, str] = {
    **{alias: name for name, alias in ALIASES.items()},
    **{name: name for name in ALIASES},
}
"""Python's name of each field, by both of its spellings."""


class RowDefaults(BaseModel):
    """What rows ask for where they do not say so themselves.

    A default holds for every row whose endpoint knows the field; one that holds for no row at all
    is refused as a mistake.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
        json_schema_extra=describe_briefly,
    )

    endpoint: EndpointName = Field(
        default=Endpoint.GENERATE.value,
        description="The endpoint of rows that name none: generate, generate-pro, generate-2, or "
        "the name of a newer one.",
    )
    num_images: NumberOfImages | None = Field(
        default=None, description="How many images to make; generate only."
    )
    image_size: ImageSize | None = Field(
        default=None,
        alias="image_size",
        description="Width to height, such as 16:9; generate only.",
    )
    watermark: str | None = Field(
        default=None, description="Text to mark the images with; generate only."
    )
    image_urls: tuple[ImageSource, ...] | None = Field(
        default=None,
        title="Images to work from",
        description="URLs, paths or store-block/path of images to work from.",
    )
    aspect_ratio: AspectRatio | None = Field(
        default=None, description="Width to height, such as 16:9; generate-pro and generate-2."
    )
    resolution: Resolution | None = Field(
        default=None, description="1K, 2K or 4K; generate-pro and generate-2."
    )
    google_search: bool | None = Field(
        default=None,
        strict=True,
        description="Have the service look things up; generate-2 only.",
    )
    output_format: Literal["png", "jpg"] | None = Field(
        default=None, description="png or jpg; generate-2 only."
    )
    fields: dict[str, JsonValue] | None = Field(
        default=None,
        description="The service's own fields; endpoints newer than this release only.",
    )
    credits: ExpectedCredits | None = Field(
        default=None,
        description="What you expect one submit to cost; endpoints newer than this release only.",
    )


def having(name: str) -> str:
    """The endpoints that know a field, in words."""
    found = [endpoint for endpoint, known in OPTIONS.items() if name in known]
    return " and ".join(found) or "an endpoint that this version does not know"


def unknown(spelling: str) -> str:
    """What to say of a field that no row may have."""
    return _unknown(spelling[: MAX_SHOWN_LENGTH + 1])


@lru_cache(maxsize=256)
def _unknown(spelling: str) -> str:
    letters = _letters(spelling)
    if letters == "callbackurl":
        return "is not for rows: the batch makes the callback addresses"
    if len(spelling) <= MAX_SHOWN_LENGTH and (
        close := get_close_matches(letters, _BY_LETTERS, n=1)
    ):
        return f"unknown field; did you mean {_BY_LETTERS[close[0]]}?"
    return f"unknown field; known are {', '.join(ALIASES.values())}"


def _letters(spelling: str) -> str:
    return re.sub(r"[\W_]", "", spelling).lower()


_BY_LETTERS = {_letters(alias): alias for alias in ALIASES.values()}
