"""Everything that can go wrong, as one shallow tree of exceptions; nothing is raised here.

Prefect pickles and logs exceptions, so none of these holds a request, a response, a header or an
image URL. `retryable` says whether the same call may succeed later without anybody changing
anything; it is marked with an asterisk here::

    NanoBananaError
    ├── InvalidInput            before anything is asked or spent
    │   ├── InvalidManifest     with every problem of the file (in `batches.manifest`)
    │   └── UnusableReference   an image to work from that the service would not get
    ├── MissingCredentials
    ├── APIError                the API, or something on the way to it, refuses or fails
    │   ├── Unauthorized        the key is refused; ends a run
    │   ├── Forbidden *         403: an IP allow list, or a firewall
    │   ├── OutOfCredits
    │   ├── UnknownTask
    │   ├── BadRequest
    │   ├── RateLimited *
    │   ├── ServerError *
    │   ├── NetworkError *
    │   ├── ProtocolError
    │   └── UnconfirmedSubmit   it may have been paid for
    ├── GenerationFailed
    ├── RowBlocked *            a row builds on another that has not landed
    ├── CreditLimitReached *    other rows have used up what the user allows a run
    ├── WaitTimedOut *
    ├── ImageError              a finished image cannot be had
    │   ├── ImageUnavailable *
    │   │   └── ImageGone *
    │   ├── ImageRejected *
    │   └── ForbiddenAddress
    ├── StorageError *          the storage failed in use
    ├── DestinationError        the destination cannot be used at all
    └── IncompleteLanding *     the end of a run in which not everything landed
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "APIError",
    "BadRequest",
    "CreditLimitReached",
    "DestinationError",
    "Forbidden",
    "ForbiddenAddress",
    "GenerationFailed",
    "ImageError",
    "ImageGone",
    "ImageRejected",
    "ImageUnavailable",
    "IncompleteLanding",
    "InvalidInput",
    "MissingCredentials",
    "NanoBananaError",
    "NetworkError",
    "OutOfCredits",
    "ProtocolError",
    "RateLimited",
    "RowBlocked",
    "ServerError",
    "StorageError",
    "Unauthorized",
    "UnconfirmedSubmit",
    "UnknownTask",
    "UnusableReference",
    "WaitTimedOut",
]


class NanoBananaError(Exception):
    """Base of every error that this package raises.

    Attributes:
        task_id: The generation task that the error is about, where it is about one.
        retryable: Whether trying again later, unchanged, may succeed.
        is_fatal: Whether it ends every wait, not just one task's: a refused key, for one.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, task_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.is_fatal = False

    @property
    def message(self) -> str:
        """What happened, without the task id."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"task {self.task_id}: {self.message}" if self.task_id else self.message


class InvalidInput(NanoBananaError, ValueError):
    """Raised before anything is asked or spent: a parameter is invalid."""


class UnusableReference(InvalidInput):
    """Raised before anything is spent: an image to work from is missing, is no picture of a kind or
    size that the service takes, or cannot be made reachable for it."""


class MissingCredentials(NanoBananaError):
    """Raised when neither a credentials block nor `NANOBANANA_API_KEY` gives a key."""


class APIError(NanoBananaError):
    """Base of refusals and failures of the API, or of something on the way to it.

    Attributes:
        http_status: The HTTP status, where an answer came.
        code: The `code` of the answer's JSON envelope, where it had one.
        retry_after: Seconds that the service asked to wait, where it asked.
    """

    def __init__(
        self,
        message: str,
        *,
        task_id: str | None = None,
        http_status: int | None = None,
        code: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.http_status = http_status
        self.code = code
        self.retry_after = retry_after


class Unauthorized(APIError):
    """Raised when the API refuses the key (401), or the caller's address for this key."""


class OutOfCredits(APIError):
    """Raised when the account has too few credits (402)."""


class Forbidden(APIError):
    """Raised when a request is refused with 403: by the API, whose key has an IP allow list, or by
    a firewall on the way, which may dislike one request and let the next one pass."""

    retryable = True


class UnknownTask(APIError):
    """Raised when the API does not know the task id, after the grace given to new tasks."""


class BadRequest(APIError):
    """Raised when the API rejects the request (400, 413, 422 and other 4xx) or has the feature off
    (505)."""


class RateLimited(APIError):
    """Raised when the API asks for fewer requests (429)."""

    retryable = True


class ServerError(APIError):
    """Raised when the API fails (5xx) or is under maintenance (455)."""

    retryable = True


class NetworkError(APIError):
    """Raised when no complete answer came: name, connection, TLS or time limit.

    Attributes:
        sent: Whether the request may have reached the service; False: no connection was made.
    """

    retryable = True

    def __init__(self, message: str, *, task_id: str | None = None, sent: bool = True) -> None:
        super().__init__(message, task_id=task_id)
        self.sent = sent


class ProtocolError(APIError):
    """Raised when an answer is not what the API's documentation describes."""


class UnconfirmedSubmit(APIError):
    """Raised when it is not known whether a submit created, and billed, a generation task.

    Not retryable: the API's documentation knows neither an idempotency key nor a way to cancel, so
    submitting again may pay twice.
    """


class GenerationFailed(NanoBananaError):
    """Raised for a generation task that ended without an image.

    Attributes:
        status: The name of its `TaskStatus`.
        error_code: The API's `errorCode`, as it came.
        by_code: Whether only a code of the answer's envelope said so, not `successFlag`.
    """

    def __init__(
        self,
        message: str,
        *,
        task_id: str | None = None,
        status: str = "GENERATE_FAILED",
        error_code: Any = None,
        by_code: bool = False,
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.by_code = by_code
        self.status = status
        self.error_code = error_code


class RowBlocked(NanoBananaError):
    """Raised for a row of a batch that builds on another whose image has not landed; nothing was
    submitted for it.

    Attributes:
        by: The number of the row that did not land.
    """

    retryable = True

    def __init__(self, message: str, *, task_id: str | None = None, by: int = 0) -> None:
        super().__init__(message, task_id=task_id)
        self.by = by


class CreditLimitReached(NanoBananaError):
    """Raised for a row of a batch for which `max_credits` has nothing left; nothing was submitted
    for it."""

    retryable = True


class WaitTimedOut(NanoBananaError, TimeoutError):
    """Raised when a generation task was still running at the end of the time given.

    It is a `TimeoutError`, so Prefect shows the run as `TimedOut`. The service may still finish the
    image: running again picks it up.
    """

    retryable = True


class ImageError(NanoBananaError):
    """Base of what stops a finished image from being fetched."""


class ImageUnavailable(ImageError):
    """Raised when no URL of an image answers with it: expired, gone, refused or out of reach."""

    retryable = True


class ImageGone(ImageUnavailable):
    """Raised when the host answers that this URL does not give the image (any more): 403, 404, 410
    or another 4xx. A fresh URL from record-info may."""


class ImageRejected(ImageError):
    """Raised when what a URL answers with is not a whole, sound image within the limits."""

    retryable = True


class ForbiddenAddress(ImageError):
    """Raised when an image URL, or a redirect of it, leads where this product must not go."""


class StorageError(NanoBananaError):
    """Raised when the storage fails while in use; a full disk, for one."""

    retryable = True


class DestinationError(NanoBananaError):
    """Raised when a destination cannot be used at all: misspelt, missing, denied, or its fsspec
    backend is not installed."""


class IncompleteLanding(NanoBananaError):
    """Raised at the end of a flow in which not every image landed; what could be landed is.

    Attributes:
        report: The `LandingReport` of the run.
    """

    retryable = True

    def __init__(self, message: str, *, report: Any = None) -> None:
        super().__init__(message)
        self.report = report
