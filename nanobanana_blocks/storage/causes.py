"""What a storage backend's error means, told by names and codes so that no backend is imported."""

from __future__ import annotations

import errno
import re
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum
from typing import TypeVar

import anyio

from nanobanana_blocks.errors import DestinationError, NanoBananaError, StorageError

T = TypeVar("T")


class WrongSize(Exception):
    """Raised when the storage holds another number of bytes than was written."""

    def __str__(self) -> str:
        return "it holds another number of bytes than was written"


class CannotCreate(Exception):
    """Raised when the storage has no exclusive creation, although files can be written there."""


class OutOfTime(Exception):
    """Raised when an operation did not end within our own time limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"no answer within {seconds:g} s. Check the endpoint, the network and the disk"
        )


async def within(seconds: float, operation: Callable[[], Awaitable[T]]) -> T:
    with anyio.move_on_after(seconds):
        return await operation()
    raise OutOfTime(seconds)


class Cause(Enum):
    """Why a storage operation failed, with what to say about it; `transient` is worth a retry."""

    MISSING = "there is no such bucket, container or folder. Check the spelling, or make it first"
    DENIED = "the storage refuses access. Check the credentials and their right to read and write"
    NO_CREDENTIALS = "no credentials were found. Give storage_options, or set the environment up"
    FULL = "no space left. Free some, then run again"
    READ_ONLY = "it is read-only. Choose a folder that can be written"
    NOT_A_FOLDER = "a file stands where a folder should be. Choose another folder"
    NOT_TAKEN = "the backend does not take this. Check the URL and the storage_options"
    NOT_EXCLUSIVE = "files cannot be created exclusively there. Choose another storage"
    UNREACHABLE = "the storage is out of reach. Check the endpoint and the network"
    OTHER = "the storage failed"

    @property
    def transient(self) -> bool:
        return self in (Cause.UNREACHABLE, Cause.OTHER)

    @classmethod
    def of(cls, error: BaseException) -> Cause:
        """Judge by names and codes of the error and its causes, so that no backend is imported."""
        for link in _chain(error):
            signs = {base.__name__ for base in type(link).__mro__} | set(_codes(link))
            if type(link) is OSError and str(link).startswith("Forbidden"):  # gcsfs, for a 403
                return cls.DENIED
            for cause, known in _SIGNS.items():
                if signs & known:
                    return cause
        return cls.OTHER


_SIGNS: dict[Cause, frozenset[object]] = {
    Cause.FULL: frozenset(
        {errno.ENOSPC, errno.EDQUOT, "SFTPNoSpaceOnFilesystem", "SFTPQuotaExceeded"}
    ),
    Cause.READ_ONLY: frozenset({errno.EROFS, "SFTPWriteProtect"}),
    Cause.NO_CREDENTIALS: frozenset(
        {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
    ),
    Cause.DENIED: frozenset(
        {"PermissionError", "ClientAuthenticationError", "PermissionDenied", "RefreshError"}
        | {"SFTPPermissionDenied", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
        | {"ExpiredToken", "HTTP 401", "HTTP 403"}
    ),
    Cause.NOT_A_FOLDER: frozenset(
        {"FileExistsError", "NotADirectoryError", "IsADirectoryError", "SFTPNotADirectory"}
    ),
    Cause.MISSING: frozenset(
        {"FileNotFoundError", "ResourceNotFoundError", "NoSuchBucket", "NoSuchKey", "HTTP 404"}
        | {"InvalidBucketName", "ParamValidationError", "SFTPNoSuchFile", "SFTPNoSuchPath"}
    ),
    Cause.UNREACHABLE: frozenset(
        {"OutOfTime", "TimeoutError", "ConnectionError", "gaierror", "EndpointConnectionError"}
        | {"HTTPClientError", "ClientConnectionError", "ServiceRequestError"}
        | {"ServiceResponseError", "ConnectionLost", "SFTPConnectionLost"}
    ),
    Cause.NOT_EXCLUSIVE: frozenset({"CannotCreate"}),
    Cause.NOT_TAKEN: frozenset({"TypeError", "ValueError", "AttributeError", "KeyError"}),
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(8):
        if link is None:
            return
        yield link
        link = link.__cause__


def _codes(error: BaseException) -> Iterator[object]:
    """The error codes in it: an errno, a service's own code, ``HTTP <status>``."""
    if isinstance(error, OSError) and error.errno is not None:
        yield error.errno
    for attribute in ("code", "status_code", "status"):
        status = str(getattr(error, attribute, None))
        if re.fullmatch(r"[1-5][0-9][0-9]", status):
            yield f"HTTP {status}"
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code"))
        yield f"HTTP {response.get('ResponseMetadata', {}).get('HTTPStatusCode')}"


def refused_to_replace(error: BaseException) -> bool:
    signs = {"FileExistsError", "ResourceExistsError", "PreconditionFailed"}
    conflicts = {"ConditionalRequestConflict", "HTTP 412", "HTTP 409"}
    return any(
        type(link).__name__ in signs or (signs | conflicts) & set(map(str, _codes(link)))
        for link in _chain(error)
    )


def knows_no_exclusive_creation(error: BaseException) -> bool:
    """Whether a backend or a service says that it does not know what ``mode="create"`` asks for."""
    signs = {"NotImplementedError", "TypeError", "NotImplemented", "HTTP 501"}
    return any(
        type(link).__name__ in signs or signs & set(map(str, _codes(link)))
        for link in _chain(error)
    )


def _described(shown: str, doing: str, error: BaseException) -> str:
    if isinstance(error, (OutOfTime, WrongSize)):
        return f"{shown}: cannot {doing} it: {error}."
    # Never the error's own text: backends put account names, URLs and options there.
    name = next((str(code) for code in _codes(error) if not isinstance(code, int)), None)
    detail = type(error).__name__ if name is None else f"{type(error).__name__}, {name}"
    return f"{shown}: cannot {doing} it: {Cause.of(error).value} ({detail})."


def checking_error(shown: str, doing: str, error: Exception) -> NanoBananaError:
    if isinstance(error, NanoBananaError):
        return error
    kind = StorageError if Cause.of(error) is Cause.FULL else DestinationError
    return kind(_described(shown, doing, error))


def operation_error(shown: str, doing: str, error: Exception) -> NanoBananaError:
    if isinstance(error, NanoBananaError):
        return error
    cause = Cause.of(error)
    kind = StorageError if cause.transient or cause is Cause.FULL else DestinationError
    return kind(_described(shown, doing, error))
