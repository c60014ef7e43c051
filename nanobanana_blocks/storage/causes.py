"""What a storage backend's error means, by tables of names and codes; no backend is imported."""

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


class Unsettled(Exception):
    """Raised when the storage misses what is there by all else that it said."""

    def __str__(self) -> str:
        return "it does not show what is there. Somebody else may be replacing or deleting it"


class CannotCreate(Exception):
    """Raised when the storage has no exclusive creation, although files can be written there."""


class OutOfTime(Exception):
    """Raised when an operation did not end within our own time limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"no answer within {seconds:g} s. Check the endpoint, the network and the disk"
        )


async def within(seconds: float, operation: Callable[[], Awaitable[T]]) -> T:
    """Run `operation`, or raise `OutOfTime` after `seconds`."""
    with anyio.move_on_after(seconds):
        return await operation()
    raise OutOfTime(seconds)


class Cause(Enum):
    """Why a storage operation failed, with what to say about it; `transient` is worth a retry."""

    MISSING = "there is no such bucket, container or folder. Check the spelling, or make it first"
    CLOCK = "this machine's clock and the storage's differ too much. Set the clock"
    REGION = "the bucket is in another region. Give its region or endpoint in storage_options"
    EXPIRED = "the credentials have expired. Renew them"
    WRONG_CREDENTIALS = "the storage refuses access: it does not know these credentials. Check them"
    DENIED = "the storage refuses access. Check the credentials and their right to read and write"
    NO_CREDENTIALS = "no credentials were found. Give storage_options, or set the environment up"
    FULL = "no space left. Free some, then run again"
    QUOTA = "the quota is used up. Raise it or free some space, then run again"
    READ_ONLY = "it is read-only. Choose a folder that can be written"
    HOST_KEY = (
        "the host's key is not in known_hosts. Add it (ssh-keyscan, then compare), or give "
        "known_hosts in storage_options"
    )
    NOT_A_FOLDER = "a file stands where a folder should be. Choose another folder"
    NOT_ACCEPTED = "the backend does not accept this. Check the URL and the storage_options"
    NOT_EXCLUSIVE = "files cannot be created exclusively there. Choose another storage"
    BUSY = "the storage asks for fewer requests. Run fewer at a time"
    NO_SUCH_HOST = "no such host is known. Check the endpoint's spelling and the DNS"
    UNREACHABLE = "the storage is out of reach. Check the endpoint and the network"
    OTHER = "the storage failed"

    @property
    def transient(self) -> bool:
        """Whether another try may help."""
        return self in (Cause.BUSY, Cause.NO_SUCH_HOST, Cause.UNREACHABLE, Cause.OTHER)

    @property
    def is_full(self) -> bool:
        """Whether space is what is missing."""
        return self in (Cause.FULL, Cause.QUOTA)

    @classmethod
    def of(cls, error: BaseException) -> Cause:
        """Judge by names and codes of the error and all its causes.

        A service's own code, wherever in the chain, says more than the name of what wraps it.
        """
        links = list(_chain(error))
        codes = {code for link in links for code in _codes(link)}
        for cause, known in _SERVICE_CODES.items():
            if codes & known:
                return cause
        for link in links:
            signs = _signs_of(link)
            if type(link) is OSError and str(link).startswith("Forbidden"):  # gcsfs, for a 403
                return cls.DENIED
            for cause, names in _SIGNS.items():
                if signs & names:
                    return cause
        return cls.OTHER


_SERVICE_CODES: dict[Cause, frozenset[object]] = {
    Cause.FULL: frozenset(
        # errno; MinIO; SFTP 5 and 6; WebDAV's and Ceph's 507
        {errno.ENOSPC, "XMinioStorageFull", "SFTPNoSpaceOnFilesystem", "HTTP 507", "FTP 452"}
    ),
    Cause.QUOTA: frozenset(
        {errno.EDQUOT, "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "SFTPQuotaExceeded"}
        | {"AccountLimitExceeded", "storage_cap_exceeded", "FTP 552"}
    ),
    Cause.CLOCK: frozenset({"RequestTimeTooSkewed"}),
    Cause.REGION: frozenset(
        {"PermanentRedirect", "AuthorizationHeaderMalformed", "InvalidRegion"}
        | {"IllegalLocationConstraintException"}
    ),
    Cause.EXPIRED: frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}),
    Cause.WRONG_CREDENTIALS: frozenset(
        {
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "UnrecognizedClientException",
        }
        | {"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"}
        | {"HTTP 401", "FTP 530"}
    ),
    Cause.BUSY: frozenset({"SlowDown", "ServerBusy", "TooManyRequests", "HTTP 429"}),
    Cause.READ_ONLY: frozenset({errno.EROFS, "SFTPWriteProtect"}),
    Cause.DENIED: frozenset(
        {
            "AccessDenied",
            "AuthorizationFailure",
            "AuthorizationPermissionMismatch",
            "AllAccessDisabled",
        }
        | {"AuthorizationSourceIPMismatch", "InsufficientAccountPermissions", "AccountIsDisabled"}
        # FTP has one code for what is missing and what is denied; the first is asked for apart.
        | {"FTP 550", "FTP 553", "FTP 532"}
    ),
    Cause.MISSING: frozenset(
        {"NoSuchBucket", "NoSuchKey", "ContainerNotFound", "BlobNotFound", "InvalidBucketName"}
        | {"ContainerBeingDeleted", "InvalidResourceName"}
    ),
}
"""What services say themselves: codes of S3 and its imitations, Azure, SFTP, FTP, errno.

Google's reasons are not among them: gcsfs keeps no more of a 403 than that it is one.

Where each is documented, `tests/storage/test_causes.py` says.
"""

_SIGNS: dict[Cause, frozenset[object]] = {
    Cause.FULL: frozenset({"InsufficientStorage"}),  # webdav4, for a 507
    Cause.NO_CREDENTIALS: frozenset(
        {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
    ),
    Cause.HOST_KEY: frozenset({"HostKeyNotVerifiable"}),
    Cause.DENIED: frozenset(
        {"PermissionError", "ClientAuthenticationError", "PermissionDenied", "RefreshError"}
        | {"SFTPPermissionDenied", "HTTP 403"}
    ),
    Cause.NOT_A_FOLDER: frozenset(
        {"FileExistsError", "NotADirectoryError", "IsADirectoryError", "SFTPNotADirectory"}
    ),
    Cause.MISSING: frozenset(
        {"FileNotFoundError", "ResourceNotFoundError", "ParamValidationError", "HTTP 404"}
        | {"SFTPNoSuchFile", "SFTPNoSuchPath"}
    ),
    Cause.NO_SUCH_HOST: frozenset({"gaierror", "ClientConnectorDNSError"}),
    Cause.UNREACHABLE: frozenset(
        {"OutOfTime", "TimeoutError", "ConnectionError", "EndpointConnectionError"}
        | {"HTTPClientError", "ClientConnectionError", "ServiceRequestError", "TransportError"}
        | {"ServiceResponseError", "ConnectionLost", "SFTPConnectionLost", "SFTPNoConnection"}
    ),
    Cause.NOT_EXCLUSIVE: frozenset({"CannotCreate"}),
    Cause.NOT_ACCEPTED: frozenset({"TypeError", "ValueError", "AttributeError", "KeyError"}),
}
"""The names of exceptions, where no code says more."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it says that it came from."""
    link: BaseException | None = error
    for _ in range(8):
        if link is None:
            return
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _signs_of(link: BaseException) -> set[object]:
    return {base.__name__ for base in type(link).__mro__} | set(_codes(link))


def has_sign(error: BaseException, *signs: object) -> bool:
    """Whether the error, or what it came from, has one of these names or codes."""
    return any(_signs_of(link) & set(signs) for link in _chain(error))


_SERVICE_CODE = re.compile(r"[A-Za-z][A-Za-z_]{2,63}")


def _codes(error: BaseException) -> Iterator[object]:
    """The error codes in it: a service's own code, ``HTTP <status>``, ``FTP <reply>``, an errno."""
    response = getattr(error, "response", None)
    answered = response if isinstance(response, dict) else {}
    own = [answered.get("Error", {}).get("Code"), getattr(error, "error_code", None)]
    for code in own:
        text = str(getattr(code, "value", code))
        if code is not None and _SERVICE_CODE.fullmatch(text):
            yield text
    if type(error).__name__.startswith("SFTP"):
        yield type(error).__name__
    if type(error).__module__ == "ftplib" and re.match(r"[45][0-9][0-9]\b", str(error)):
        yield f"FTP {str(error)[:3]}"
    status = answered.get("ResponseMetadata", {}).get("HTTPStatusCode")
    more = (getattr(error, name, None) for name in ("code", "status_code", "status"))
    carried = getattr(response, "status_code", None)
    # botocore gives the status as the code, where the answer has no body
    for number in (own[0], status, *more, carried):
        if re.fullmatch(r"[1-5][0-9][0-9]", str(number)):
            yield f"HTTP {number}"
    if isinstance(error, OSError) and error.errno is not None:
        yield error.errno


def refused_to_replace(error: BaseException) -> bool:
    """Whether a write that must not replace was refused because there is such a file."""
    return has_sign(
        error,
        *("FileExistsError", "ResourceExistsError", "PreconditionFailed"),
        *("ConditionalRequestConflict", "HTTP 412", "HTTP 409"),
    )


def has_no_exclusive_creation(error: BaseException) -> bool:
    """Whether a backend or a service says that it does not know what ``mode="create"`` asks for."""
    return has_sign(error, "NotImplementedError", "TypeError", "NotImplemented", "HTTP 501")


def refuses_conditions(error: BaseException) -> bool:
    """Whether a conditional write was refused as imitations of S3 refuse one that they do not know.

    These answers mean other things too: judge so only where an ordinary write was just accepted.
    """
    return has_no_exclusive_creation(error) or has_sign(
        error, "HTTP 304", "HTTP 400", "HTTP 403", "HTTP 405", "HTTP 411", "HTTP 422"
    )


def _described(shown: str, doing: str, error: BaseException, right: str | None) -> str:
    if isinstance(error, (OutOfTime, WrongSize, Unsettled)):
        return f"{shown}: cannot {doing} it: {error}."
    # Never the error's own text: backends put account names, URLs and options there.
    codes = [code for link in _chain(error) for code in _codes(link) if isinstance(code, str)]
    own = next((code for code in codes if " " not in code), None)
    name = own or next(iter(codes), None)
    detail = (
        type(error).__name__
        if name in (None, type(error).__name__)
        else (f"{type(error).__name__}, {name}")
    )
    cause = Cause.of(error)
    needed = f"; it takes the right {right}" if right and cause is Cause.DENIED else ""
    return f"{shown}: cannot {doing} it: {cause.value}{needed} ({detail})."


def checking_error(
    shown: str, doing: str, error: Exception, right: str | None = None
) -> NanoBananaError:
    """What to raise where a check failed: something must be changed, or space be made."""
    if isinstance(error, NanoBananaError):
        return error
    kind = StorageError if Cause.of(error).is_full else DestinationError
    return kind(_described(shown, doing, error, right))


def operation_error(
    shown: str, doing: str, error: Exception, right: str | None = None
) -> NanoBananaError:
    """What to raise where an operation failed in mid-run."""
    if isinstance(error, NanoBananaError):
        return error
    cause = Cause.of(error)
    kind = StorageError if cause.transient or cause.is_full else DestinationError
    return kind(_described(shown, doing, error, right))
