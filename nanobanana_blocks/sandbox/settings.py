"""What a sandbox can be asked to do, and what it reports back: plain data, no behaviour.

Every model here travels as JSON to `/sandbox/…`, so the same words work from Python, from
curl and from another process. All durations are seconds.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

DEFAULT_API_KEY = "nanobanana-sandbox-key"
SIGNATURE_MARK = "nbsandboxsig"
"""Every signed image URL holds this text, so one search finds any leak of one."""

CONTENT_POLICY_MESSAGE = "Your prompt has been flagged for violating content policy"
GENERATION_FAILED_MESSAGE = "Image generation task failed"

Route = Literal["record-info", "generate", "generate-pro", "generate-2", "credit", "files"]
Target = Literal[
    "record-info", "generate", "generate-pro", "generate-2", "credit", "files", "submit", "api"
]
"""A route, or `submit` for the three POST endpoints, or `api` for all but the image host."""

MediaType = Literal["image/png", "image/jpeg", "image/webp"]
Death = Literal["never", "first-look", "always"]
TimeStyle = Literal["service", "24-oclock", "epoch-milliseconds", "garbage"]
UrlShape = Literal["string", "list", "resultImageUrls", "resultUrls", "info", "gaps"]
CallbackShape = Literal["generate", "record-info", "job"]

FaultKind = Literal[
    "http-status",
    "body-code",
    "latency",
    "drop",
    "drop-kept-alive",
    "redirect",
    "html",
    "not-json",
    "not-envelope",
    "huge-body",
    "truncated-image",
    "truncated-transfer",
    "truncated-chunked",
    "chunked-cut",
    "until-close",
    "endless",
    "bomb",
    "wrong-type",
    "drip",
    "empty",
]
API_ONLY_KINDS: frozenset[str] = frozenset(
    {"body-code", "drop-kept-alive", "not-json", "not-envelope", "huge-body"}
)
IMAGE_ONLY_KINDS: frozenset[str] = frozenset(
    {
        "truncated-image",
        "truncated-transfer",
        "truncated-chunked",
        "chunked-cut",
        "until-close",
        "endless",
        "bomb",
        "wrong-type",
        "drip",
        "empty",
    }
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CallbackWeather(_Frozen):
    """How unreliable callback delivery is; each number is a probability from 0 to 1.

    The draws depend only on the sandbox's seed and on how many tasks there were before, since it
    began or was reset.
    """

    duplicates: float = Field(default=0.0, ge=0, le=1)
    losses: float = Field(default=0.0, ge=0, le=1)
    forgeries: float = Field(default=0.0, ge=0, le=1)
    max_delay_seconds: float = Field(
        default=0.0, ge=0, description="Each callback is late by up to this, so order is lost."
    )


class TaskPlan(_Frozen):
    """How one generation task will behave; the defaults are a plain success."""

    task_id: str | None = Field(default=None, description="Made up from the seed when absent.")
    prompt: str = "A bowl of bananas at sunrise"
    seconds: float | Literal["drawn"] | None = Field(
        default="drawn",
        description="Real seconds until done; null is never; drawn is scaled by `speed`.",
    )
    invisible_seconds: float = Field(
        default=0.0, ge=0, description="record-info does not know the task for so long."
    )
    outcome: Literal["success", "create-failed", "generate-failed"] = "success"
    error_code: int | str | None = Field(
        default=None, description="Sent as given; a failure that leaves it out says 501."
    )
    error_message: str | None = None
    images: int = Field(default=1, ge=0, le=16)
    urls_as: UrlShape | None = Field(
        default=None,
        description="Absent: `string` for one image, `list` for several. "
        "`string` shows only the first image; `info` puts them there instead of under `response`; "
        "`gaps` gives null for every other one, and all origin URLs.",
    )
    origin_url: bool = Field(default=True, description="Whether originImageUrl is given.")
    dead_result_url: Death = "never"
    dead_origin_url: Death = "never"
    looks_without_url: int = Field(
        default=0, ge=0, description="Successful answers that hold no URL yet."
    )
    media_type: MediaType | None = Field(default=None, description="Chosen by id when absent.")
    content_type: str | None = Field(
        default=None, description="The Content-Type header, where it is to lie about the bytes."
    )
    url_extension: str | None = Field(
        default=None, description="The extension in the URL, where it is to lie about the bytes."
    )
    width: int | None = Field(default=None, ge=1, le=4096)
    height: int | None = Field(default=None, ge=1, le=4096)
    early_complete_time: bool = Field(
        default=False, description="completeTime is set while successFlag is still 0."
    )
    time_style: TimeStyle = "service"
    callback_url: str | None = None
    callback_shape: CallbackShape = "generate"
    callback_weather: CallbackWeather | None = Field(
        default=None, description="Absent: the sandbox's own weather."
    )


class Fault(_Frozen):
    """Something that goes wrong on demand, for `count` requests or with a `probability`.

    | kind | what the client sees | fields used |
    |---|---|---|
    | `http-status` | that HTTP status; a Spring Boot error body on the API | `status` (500), \
`retry_after` |
    | `body-code` | an envelope that refuses | `code`, `message`, `status` (200), `retry_after` |
    | `latency` | the ordinary answer (or the next fault), late | `seconds`, `takes_effect` |
    | `drop` | the connection closes without an answer | |
    | `drop-kept-alive` | likewise, unless the request is the first on its connection | |
    | `redirect` | 302 to `url`; the word `self` gives a loop | `url` |
    | `html` | an HTML page with HTTP 200 | |
    | `not-json`, `not-envelope` | text, or JSON of another shape | |
    | `huge-body` | an envelope padded to `size` bytes, chunked | `size` |
    | `truncated-image` | half an image, with the Content-Length of that half | |
    | `truncated-transfer` | the full Content-Length, half the bytes, then a closed connection | |
    | `truncated-chunked` | half an image in well-ended chunks | |
    | `chunked-cut` | half an image in chunks, closed before the last chunk | |
    | `until-close` | half an image with no length at all, ended by closing | |
    | `endless` | image bytes until the client leaves, at most `size` | `size` |
    | `bomb` | a small PNG of 400 million pixels | |
    | `wrong-type` | a PDF that says it is a PNG | |
    | `drip` | the image in 1 KiB pieces, `seconds` apart | `seconds` |
    | `empty` | HTTP 200 with no bytes | |

    `http-status`, `latency`, `drop`, `redirect` and `html` exist on the API and on the image
    host. `on` defaults to the image host for kinds that only exist there, else to the API.
    """

    kind: FaultKind
    on: Target | None = None
    task_id: str | None = None
    count: int | None = Field(default=None, ge=1, description="Absent: until cleared.")
    probability: float = Field(default=1.0, gt=0, le=1)
    takes_effect: bool = Field(
        default=False,
        description="The request is carried out (a submit creates and bills its task) "
        "before its answer is spoilt or delayed; otherwise a delayed request is carried out late.",
    )
    status: int | None = Field(default=None, ge=200, le=599)
    code: int = 500
    message: str | None = None
    retry_after: float | None = Field(default=None, ge=0)
    retry_after_as: Literal["seconds", "http-date"] = "seconds"
    seconds: float = Field(default=0.05, ge=0)
    size: int = Field(default=64 * 1024 * 1024, ge=1)
    url: str = "self"

    @model_validator(mode="after")
    def _kind_exists_there(self) -> Fault:
        if self.kind in IMAGE_ONLY_KINDS and self.target != "files":
            raise ValueError(f"{self.kind} exists only on files")
        if self.kind in API_ONLY_KINDS and self.target == "files":
            raise ValueError(f"{self.kind} does not exist on files")
        return self

    @property
    def target(self) -> Target:
        """Where the fault happens, with the default for its kind filled in."""
        return self.on or ("files" if self.kind in IMAGE_ONLY_KINDS else "api")


class RateLimit(_Frozen):
    """At most `requests` in `per_seconds`; more are answered with body code 429.

    A `sliding-window` counts the accepted requests of the last `per_seconds`; a `token-bucket`
    starts full and refills evenly.
    """

    on: Target = "record-info"
    requests: int = Field(ge=1)
    per_seconds: float = Field(default=1.0, gt=0)
    algorithm: Literal["sliding-window", "token-bucket"] = "sliding-window"
    status: int = Field(default=200, ge=200, le=599)
    retry_after: bool = False


class SandboxSettings(_Frozen):
    """How a whole sandbox behaves. `configure` changes any of it while it runs."""

    api_key: str = Field(default=DEFAULT_API_KEY, min_length=1)
    public_url: str | None = Field(
        default=None, description="How clients reach this server, when not by its own address."
    )
    seed: int = 0
    speed: float = Field(
        default=1.0,
        gt=0,
        description="How many times faster than the service: drawn generation times, URL "
        "lifetimes and callback pauses are divided by it.",
    )
    median_seconds: float = Field(default=18.0, gt=0)
    p99_seconds: float = Field(default=64.0, gt=0)
    credits: int = Field(default=10_000, ge=0)
    credits_as: Literal["integer", "decimal", "decimal-text"] = Field(
        default="integer", description="The form of the balance; sister products have decimals."
    )
    submitted_task: TaskPlan = Field(
        default=TaskPlan(), description="How tasks behave that were made by a submit."
    )
    flagged_words: tuple[str, ...] = Field(
        default=(),
        description="A submit whose prompt holds one makes a task that ends as flagged (400).",
    )
    refusals_as_http_status: bool = Field(
        default=False, description="A refusal's code is its HTTP status as well."
    )
    unknown_task: Literal["404", "422", "null"] = "404"
    origin_url_seconds: float = Field(default=600.0, gt=0)
    result_url_seconds: float = Field(default=14 * 86_400.0, gt=0)
    expired_url_status: Literal[403, 404, 410] = 403
    refused_user_agents: tuple[str, ...] = ("python-urllib",)
    image_edge: int = Field(default=768, ge=64, le=2048, description="The longer edge in pixels.")
    image_bytes: int | None = Field(
        default=None,
        ge=2_000,
        description="Every image is one cached JPEG of this size, marked with its task's id.",
    )
    fetch_references: bool = Field(
        default=False,
        description="Whether submits really fetch their imageUrls, and are refused where one "
        "cannot be had without a key.",
    )
    other_endpoints: dict[str, int] = Field(
        default_factory=dict,
        description="Submit endpoints that the service does not document, with the credits that "
        "one submit costs; they take any fields.",
    )
    max_body_bytes: int = Field(default=10 * 1024 * 1024, ge=1)
    rate_limits: tuple[RateLimit, ...] = ()
    callback_timeout_seconds: float = Field(default=15.0, gt=0)
    callback_retry_pauses: tuple[float, ...] = (10.0, 30.0, 60.0)
    callback_weather: CallbackWeather = CallbackWeather()


class Submit(_Frozen):
    """One request to a submit endpoint, as it was received and answered."""

    endpoint: str
    body: Any
    code: int
    task_id: str | None
    credits: int


SUBMITS = TypeAdapter(list[Submit])


class SandboxStats(BaseModel):
    """What a sandbox has seen since it started or was reset."""

    requests: dict[str, int] = Field(description="By route; `unknown` for any other path.")
    looks: dict[str, int] = Field(description="record-info requests by task id.")
    images_served: dict[str, int] = Field(
        description="Requests by task id that were answered with the whole image."
    )
    done_at: dict[str, float] = Field(
        description="Epoch seconds at which each task became done, by task id."
    )
    peak_in_flight: int
    rate_limited: int
    faults_fired: dict[str, int] = Field(description="By kind.")
    keys_on_image_host: int = Field(
        description="Image requests that carried the API key, or any Authorization header."
    )
    references_fetched: int = Field(
        description="Images to work from that were got, where they are fetched."
    )
    references_refused: int = Field(description="Likewise, that could not be had.")
    files_uploaded: int = Field(description="Files that were uploaded to the provider's place.")
    submits: int = Field(description="Submits that created a task.")
    submits_refused: int
    credits_spent: int
    credits_left: int
    callbacks_attempted: int = Field(description="Posts, forged ones included.")
    callbacks_delivered: int
    callbacks_given_up: int
    callbacks_lost: int
    callbacks_forged: int
    callbacks_skipped: int = Field(description="Tasks whose callback address is a dummy.")
    callbacks_pending: int
