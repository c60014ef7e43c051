"""What a service itself says reaches the message, however deep its backend has wrapped it."""

from __future__ import annotations

import errno
import ftplib
from collections.abc import Callable

import asyncssh
import pytest
from asyncssh import SFTPNoSpaceOnFilesystem, SFTPQuotaExceeded, SFTPWriteProtect
from azure.core.exceptions import HttpResponseError
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from nanobanana_blocks.storage.causes import _SERVICE_CODES, Cause, operation_error


def from_s3(code: str) -> Exception:
    """An error as s3fs raises it for one of S3's codes."""
    answer = {"Error": {"Code": code, "Message": "said by the service"}}
    refused = ClientError(answer, "PutObject")
    translated: Exception = translate_boto_error(refused)
    if translated is refused:
        return refused
    translated.__cause__ = refused
    return translated


def from_azure(code: str) -> Exception:
    """An error as the Azure SDK raises it for one of the service's codes."""
    error = HttpResponseError(message="said by the service")
    error.error_code = code  # type: ignore[attr-defined]  # set by the SDK likewise
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (from_s3("XMinioStorageFull"), Cause.FULL),
        (from_s3("RequestTimeTooSkewed"), Cause.CLOCK),
        (from_s3("QuotaExceeded"), Cause.QUOTA),
        (from_s3("PermanentRedirect"), Cause.REGION),
        (from_s3("AuthorizationHeaderMalformed"), Cause.REGION),
        (from_s3("ExpiredToken"), Cause.EXPIRED),
        (from_s3("InvalidAccessKeyId"), Cause.WRONG_CREDENTIALS),
        (from_s3("AccessDenied"), Cause.DENIED),
        (from_s3("SlowDown"), Cause.BUSY),
        (from_azure("AccountLimitExceeded"), Cause.QUOTA),
        (from_azure("AuthorizationFailure"), Cause.DENIED),
        (from_azure("ContainerNotFound"), Cause.MISSING),
        (SFTPNoSpaceOnFilesystem("full"), Cause.FULL),
        (SFTPQuotaExceeded("full"), Cause.QUOTA),
        (SFTPWriteProtect("read-only"), Cause.READ_ONLY),
        (OSError(errno.EDQUOT, "quota"), Cause.QUOTA),
        (OSError(errno.ENOSPC, "full"), Cause.FULL),
    ],
    ids=lambda value: value.name if isinstance(value, Cause) else "",
)
def test_a_services_own_code_decides(error: Exception, cause: Cause) -> None:
    """Rule: a code is found where it is, and where a library has wrapped it twice."""
    assert Cause.of(error) is cause
    wrapped = OSError("wrapped")
    wrapped.__cause__ = error
    assert Cause.of(wrapped) is cause
    assert cause.value in str(operation_error("s3://bucket/images", "write to", wrapped))


def from_http(code: str) -> Exception:
    """An error without a code of the service's own: S3's answer to HEAD, which has no body."""
    return from_s3(code.removeprefix("HTTP "))


def from_ftp(code: str) -> Exception:
    """An error as ftplib raises it for a reply."""
    number = code.removeprefix("FTP ")
    kind = ftplib.error_perm if number.startswith("5") else ftplib.error_temp
    return kind(f"{number} said by the server")


def from_sftp(code: str) -> Exception:
    """An error as asyncssh raises it."""
    error: Exception = getattr(asyncssh, code)("said by the server")
    return error


SOURCES: dict[str, tuple[Callable[[str], Exception], list[str]]] = {
    "https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html": (
        from_s3,
        [
            *("RequestTimeTooSkewed", "PermanentRedirect", "AuthorizationHeaderMalformed"),
            *("InvalidRegion", "IllegalLocationConstraintException", "ExpiredToken"),
            *("TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
            *("InvalidToken", "SlowDown", "AccessDenied", "AllAccessDisabled", "NoSuchBucket"),
            *("NoSuchKey", "InvalidBucketName"),
        ],
    ),
    "https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html": (
        from_s3,
        ["ExpiredTokenException", "UnrecognizedClientException"],
    ),
    "MinIO, cmd/api-errors.go": (
        from_s3,
        ["XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "TooManyRequests"],
    ),
    "Ceph, src/rgw/rgw_common.cc": (from_s3, ["QuotaExceeded"]),
    "Backblaze's own interface, b2sdk/_internal/exception.py": (from_s3, ["storage_cap_exceeded"]),
    "https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes": (
        from_azure,
        [
            *("NoAuthenticationInformation", "InvalidAuthenticationInfo", "AccountIsDisabled"),
            *("AuthenticationFailed", "AuthorizationFailure", "InsufficientAccountPermissions"),
            *("ServerBusy", "InvalidResourceName"),
        ],
    ),
    "https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes": (
        from_azure,
        [
            *("AuthorizationPermissionMismatch", "AuthorizationSourceIPMismatch"),
            *("ContainerNotFound", "BlobNotFound", "ContainerBeingDeleted"),
        ],
    ),
    "not found in any document; kept, as it can mean nothing else": (
        from_azure,
        ["AccountLimitExceeded"],
    ),
    "RFC 4918, 9110 and 6585": (from_http, ["HTTP 507", "HTTP 401", "HTTP 429"]),
    "RFC 959": (
        from_ftp,
        ["FTP 452", "FTP 552", "FTP 530", "FTP 550", "FTP 553", "FTP 532"],
    ),
    "draft-ietf-secsh-filexfer-13, section 9.1": (
        from_sftp,
        ["SFTPNoSpaceOnFilesystem", "SFTPQuotaExceeded", "SFTPWriteProtect"],
    ),
}


@pytest.mark.parametrize(
    ("error_of", "code"),
    [(error_of, code) for error_of, codes in SOURCES.values() for code in codes],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_code_is_read_from_an_error_of_its_service(
    error_of: Callable[[str], Exception], code: str
) -> None:
    """Rule: a code in the table decides where it arrives, in the form of its service's client."""
    [cause] = [cause for cause, codes in _SERVICE_CODES.items() if code in codes]
    assert Cause.of(error_of(code)) is cause


def test_every_code_in_the_table_has_a_source() -> None:
    """Rule: a code that nobody documents is not made up; errno's are the system's."""
    known = {code for _, codes in SOURCES.values() for code in codes}
    in_table = {code for codes in _SERVICE_CODES.values() for code in codes}
    assert {code for code in in_table if not isinstance(code, int)} == known


def test_a_disabled_account_is_not_called_read_only() -> None:
    """Rule: Azure refuses all access to one, so choosing another folder would not help."""
    assert Cause.of(from_azure("AccountIsDisabled")) is Cause.DENIED
