"""What can be asked of the service's submit endpoints, checked before anything is sent.

Fields and limits are those of the API's documentation; it does no I/O. Python's names and the API's
own (`num_images` and `numImages`) are both understood.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, PydanticKnownError

from nanobanana_blocks.api.forms import describe_briefly
from nanobanana_blocks.api.own_fields import (
    MAX_ENDPOINT_LENGTH,
    check_own_fields,
    name_problem,
    needs_credits,
    urls_in,
)
from nanobanana_blocks.api.prices import PRICES, Credits, PriceTable, total
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

ExpectedCredits = Annotated[
    float, Field(ge=0, strict=True, allow_inf_nan=False), AfterValidator(lambda n: total([n]))
]

DEFAULT_RESOLUTION: Resolution = "1K"
"""The service's own, where a request gives none."""


class Endpoint(StrEnum):
    """The submit endpoints that this version knows, as the last part of their paths."""

    GENERATE = "generate"
    GENERATE_PRO = "generate-pro"
    GENERATE_2 = "generate-2"


KNOWN_ENDPOINTS = [endpoint.value for endpoint in Endpoint]


def _check_endpoint_name(name: str) -> str:
    if problem := name_problem(name, KNOWN_ENDPOINTS):
        raise PydanticCustomError("endpoint_name", "{said}", {"said": problem})
    return str(name)


EndpointName = Annotated[
    str, StringConstraints(max_length=MAX_ENDPOINT_LENGTH), AfterValidator(_check_endpoint_name)
]
"""An endpoint that this version knows, or the safe name of another."""


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

    @property
    def images_asked_for(self) -> int:
        """How many images its generation task is to give."""
        return 1

    @property
    def estimated_credits(self) -> Credits:
        """About what it costs, by the price table of this version; see `api.prices`."""
        return self.cost(PRICES)

    @property
    def urls_in_own_fields(self) -> Iterable[tuple[str, str]]:
        """URLs in fields that this version does not know, each after its field's name."""
        return ()

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


class _KnownRequest(_Request):
    prompt: Prompt = Field(description="What the image is to show.")


class GenerateRequest(_KnownRequest):
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


class GenerateProRequest(_KnownRequest):
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


class Generate2Request(_KnownRequest):
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


_HOISTED = {"prompt": ("prompt",), "imageUrls": ("imageUrls", "image_urls")}
"""What a generic request has beside its fields, by its spelling among them."""


class GenericRequest(_Request):
    """A request to an endpoint newer than this release, in the service's own fields.

    Its fields are sent as they are; only the service knows them. `prompt` and `imageUrls` may stand
    among them or beside them.
    """

    wants_callback_url: ClassVar[bool] = True

    endpoint: EndpointName = Field(description="The last part of the endpoint's path.")
    credits: ExpectedCredits = Field(description="What you expect one submit to cost.")
    prompt: Prompt | None = Field(default=None, description="What the image is to show.")
    image_urls: tuple[ImageSource, ...] | None = Field(
        default=None, description="Images to work from: URLs, paths or store-block/path."
    )
    fields: dict[str, JsonValue] = Field(
        default_factory=dict, description="The service's own fields, as JSON."
    )

    @model_validator(mode="before")
    @classmethod
    def _prompt_and_images_among_fields(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("fields"), dict):
            return given
        made, rest = dict(given), dict(given["fields"])
        for name, spellings in _HOISTED.items():
            if name in rest and all(made.get(spelling) is None for spelling in spellings):
                for spelling in spellings:
                    made.pop(spelling, None)
                made[name] = rest.pop(name)
        return made | {"fields": rest}

    @field_validator("endpoint")
    @classmethod
    def _not_a_known_one(cls, value: str) -> str:
        if value in KNOWN_ENDPOINTS:
            raise PydanticCustomError(
                "endpoint_known", "is known to this version, whose request checks its fields"
            )
        return value

    @field_validator("fields")
    @classmethod
    def _checked_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_own_fields(value)

    @property
    def urls_in_own_fields(self) -> Iterable[tuple[str, str]]:
        return urls_in(self.fields)

    def cost(self, prices: PriceTable) -> Credits:  # noqa: ARG002  # no table has it
        return self.credits

    def content(self) -> dict[str, Any]:
        named = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, include={"prompt", "image_urls"}
        )
        return self.fields | named


KnownRequest = GenerateRequest | GenerateProRequest | Generate2Request
GenerationRequest = KnownRequest | GenericRequest


def _form_of(given: Any) -> str | None:
    found = given.get("endpoint") if isinstance(given, dict) else getattr(given, "endpoint", None)
    if found is None:
        return None
    return str(found) if found in KNOWN_ENDPOINTS else "other"


AnyRequest = Annotated[
    Annotated[GenerateRequest, Tag("generate")]
    | Annotated[GenerateProRequest, Tag("generate-pro")]
    | Annotated[Generate2Request, Tag("generate-2")]
    | Annotated[GenericRequest, Tag("other")],
    Discriminator(
        _form_of,
        custom_error_type="endpoint_missing",
        custom_error_message="endpoint is missing",
    ),
]
"""A request as a field of a model, told apart by its endpoint."""

REQUESTS: dict[Endpoint, type[KnownRequest]] = {
    Endpoint.GENERATE: GenerateRequest,
    Endpoint.GENERATE_PRO: GenerateProRequest,
    Endpoint.GENERATE_2: Generate2Request,
}


def request_type(endpoint: str, expected: object) -> type[GenerationRequest]:
    """What checks the fields of a request to an endpoint.

    Raises:
        InvalidInput: The name is none, or is not known and no credits are `expected`.
    """
    if endpoint in KNOWN_ENDPOINTS:
        return REQUESTS[Endpoint(endpoint)]
    if problem := name_problem(endpoint, KNOWN_ENDPOINTS):
        raise InvalidInput(problem)
    if expected is None:
        raise InvalidInput(needs_credits(endpoint, KNOWN_ENDPOINTS))
    return GenericRequest


def check_callback_url(url: str) -> str:
    """Return `url` or raise an error that does not repeat it: such addresses hold tokens."""
    whole = re.fullmatch(r"(?i:https?)://[^\s/?#]+\S*", url)
    if not whole or not url.isprintable() or len(url) > MAX_URL_LENGTH:
        raise InvalidInput("the callback URL must be like https://example.com/callbacks/…")
    return url
