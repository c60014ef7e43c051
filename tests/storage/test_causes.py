"""What a service itself says reaches the message, however deep its backend has wrapped it."""

from __future__ import annotations

import errno

import pytest
from asyncssh import SFTPNoSpaceOnFilesystem, SFTPQuotaExceeded, SFTPWriteProtect
from azure.core.exceptions import HttpResponseError
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from nanobanana_blocks.storage.causes import Cause, operation_error


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
