"""What can be asked of the service's three submit endpoints, checked before anything is sent.

Fields and limits are those of the API's documentation; it does no I/O. Python's names and the API's
own (`num_images` and `numImages`) are both understood.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, PydanticKnownError

from nanobanana_blocks.api.forms import describe_briefly
from nanobanana_blocks.api.prices import PRICES, Credits, PriceTable
from nanobanana_blocks.errors import InvalidInput

NO_CALLBACK_URL = "https://no-callback.invalid/"
"""Sent where the API wants a callback address and there is none; `.invalid` never resolves."""

MAX_PROMPT_LENGTH = 20_000
MAX_URL_LENGTH = 8192

Resolution = Literal["1K", "2K", "4K"]
ImageSize = Literal["1:1", "9:16", "16:9", "3:4", "4:3", "3:2", "2:3", "5:4", "4:5", "21:9"]
ProAspectRatio = Literal[ImageSize, "auto"]
AspectRatio = Literal[ProAspectRatio, "1:4", "1:8", "4:1", "8:1"]
TaskType = Literal["TEXTTOIAMGE", "IMAGETOIAMGE"]
"""The API's own spelling."""

Prompt = Annotated[str, StringConstraints(pattern=r"\S")]


def is_url(image: str) -> bool:
    """Whether an image to work from is given by what the service itself can fetch."""
    return image[:8].lower().startswith(("http://", "https://"))


def _check_image(image: str) -> str:
    if is_url(image):
        if not re.fullmatch(r"(?i:https?)://[^\s/?#]+\S*", image):
            raise PydanticCustomError("image_url", "is no URL: it has no host, or spaces")
    elif image[:5].lower() == "data:":
        raise PydanticCustomError(
            "image_data", "is a data URL, which the service refuses: give the file itself"
        )
    elif not image.isprintable() or image != image.strip():
        raise PydanticCustomError(
            "image_source", "holds white space at an end, or a control character"
        )
    return image


ImageSource = Annotated[
    str,
    StringConstraints(pattern=r"\S", max_length=MAX_URL_LENGTH),
    AfterValidator(_check_image),
]
"""An image to work from: what the service can fetch (http, https), or where a file is.

A file is made reachable for the service before a request is sent; see `references`.
"""


def _refuse_text_and_booleans(value: object) -> object:
    if isinstance(value, (bool, str, bytes)):
        raise PydanticKnownError("int_type")
    return value


NumberOfImages = Annotated[int, Field(ge=1, le=4), BeforeValidator(_refuse_text_and_booleans)]
"""A JSON number without a fraction, such as ``2`` or ``2.0``."""

DEFAULT_RESOLUTION: Resolution = "1K"
"""The service's own, where a request gives none."""


class Endpoint(StrEnum):
    """The submit endpoints, as the last part of their paths."""

    GENERATE = "generate"
    GENERATE_PRO = "generate-pro"
    GENERATE_2 = "generate-2"


class _Request(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        json_schema_extra=describe_briefly,
    )

    wants_callback_url: ClassVar[bool]

    prompt: Prompt = Field(description="What the image is to show.")

    @property
    def images_asked_for(self) -> int:
        """How many images its generation task is to give."""
        return 1

    @property
    def estimated_credits(self) -> Credits:
        """About what it costs, by the price table of this version; see `api.prices`."""
        return self.cost(PRICES)

    @abstractmethod
    def cost(self, prices: PriceTable) -> Credits:
        """About what it costs by a price table, in credits."""

    def content(self) -> dict[str, Any]:
        """The request in the API's words, without a callback address."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"endpoint"})

    def body(self, callback_url: str | None = None) -> dict[str, Any]:
        """What is sent; where the API wants a callback address and there is none, a dead one.

        Raises:
            InvalidInput: `callback_url` cannot be one.
        """
        if callback_url is not None:
            address: str | None = check_callback_url(callback_url)
        else:
            address = NO_CALLBACK_URL if self.wants_callback_url else None
        return self.content() | ({"callBackUrl": address} if address else {})


class GenerateRequest(_Request):
    """A request to `/generate`; about 4 credits an image (observed)."""

    wants_callback_url: ClassVar[bool] = True

    endpoint: Literal[Endpoint.GENERATE] = Field(
        default=Endpoint.GENERATE, description="Where it is submitted."
    )

    image_urls: tuple[ImageSource, ...] | None = Field(
        default=None, description="Images to work from: URLs, paths or store-block/path."
    )
    type: TaskType = Field(
        default_factory=lambda data: "IMAGETOIAMGE" if data.get("image_urls") else "TEXTTOIAMGE",
        description="Text or images to image; unless given, as there are image URLs or not.",
    )
    num_images: NumberOfImages = Field(default=1, description="How many images to make.")
    watermark: str | None = Field(default=None, description="Text to mark the image with.")
    image_size: ImageSize | None = Field(
        default=None, alias="image_size", description="Width to height."
    )

    @field_validator("type")
    @classmethod
    def _images_to_work_from(cls, value: TaskType, info: ValidationInfo) -> TaskType:
        if value == "IMAGETOIAMGE" and not info.data.get("image_urls", ["invalid"]):
            raise PydanticCustomError("images_missing", "IMAGETOIAMGE needs imageUrls")
        return value

    @property
    def images_asked_for(self) -> int:
        return self.num_images

    def cost(self, prices: PriceTable) -> Credits:
        return prices.credits(self.endpoint, images=self.images_asked_for)


class GenerateProRequest(_Request):
    """A request to `/generate-pro`; about 24 credits at 2K (18 were observed, too)."""

    wants_callback_url: ClassVar[bool] = True

    endpoint: Literal[Endpoint.GENERATE_PRO] = Field(
        default=Endpoint.GENERATE_PRO, description="Where it is submitted."
    )

    image_urls: tuple[ImageSource, ...] | None = Field(
        default=None,
        max_length=8,
        description="Images to work from, 8 at most: URLs, paths or store-block/path.",
    )
    resolution: Resolution | None = Field(default=None, description="The service's default is 1K.")
    aspect_ratio: ProAspectRatio | None = Field(default=None, description="Width to height.")

    def cost(self, prices: PriceTable) -> Credits:
        return prices.credits(self.endpoint, self.resolution or DEFAULT_RESOLUTION)


class Generate2Request(_Request):
    """A request to `/generate-2`; about 8, 12 or 18 credits at 1K, 2K or 4K (observed)."""

    wants_callback_url: ClassVar[bool] = False

    endpoint: Literal[Endpoint.GENERATE_2] = Field(
        default=Endpoint.GENERATE_2, description="Where it is submitted."
    )

    prompt: Annotated[Prompt, StringConstraints(max_length=MAX_PROMPT_LENGTH)] = Field(
        description="What the image is to show, 20,000 characters at most."
    )
    image_urls: tuple[ImageSource, ...] | None = Field(
        default=None,
        max_length=14,
        description="Images to work from, 14 at most: URLs, paths or store-block/path.",
    )
    aspect_ratio: AspectRatio | None = Field(default=None, description="Width to height.")
    resolution: Resolution | None = Field(default=None, description="The service's default is 1K.")
    google_search: bool | None = Field(
        default=None,
        strict=True,
        description="Whether the service searches the web; it does not by default.",
    )
    output_format: Literal["png", "jpg"] | None = Field(
        default=None, description="The service's default is jpg."
    )

    def cost(self, prices: PriceTable) -> Credits:
        return prices.credits(self.endpoint, self.resolution or DEFAULT_RESOLUTION)


GenerationRequest = GenerateRequest | GenerateProRequest | Generate2Request

REQUESTS: dict[Endpoint, type[GenerationRequest]] = {
    Endpoint.GENERATE: GenerateRequest,
    Endpoint.GENERATE_PRO: GenerateProRequest,
    Endpoint.GENERATE_2: Generate2Request,
}


def check_callback_url(url: str) -> str:
    """Return `url` or raise an error that does not repeat it: such addresses hold tokens."""
    whole = re.fullmatch(r"(?i:https?)://[^\s/?#]+\S*", url)
    if not whole or not url.isprintable() or len(url) > MAX_URL_LENGTH:
        raise InvalidInput("the callback URL must be like https://example.com/callbacks/…")
    return url
