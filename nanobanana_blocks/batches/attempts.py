"""One attempt to submit a row, as the ledger keeps it; no I/O."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nanobanana_blocks.api.requests import Endpoint, GenerationRequest
from nanobanana_blocks.batches.job_keys import BATCH_JOB_PREFIX
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.errors import (
    GenerationFailed,
    NanoBananaError,
    UnconfirmedSubmit,
    UnknownTask,
)
from nanobanana_blocks.landing.report import ErrorSummary
from nanobanana_blocks.storage.names import safe_name

CONTENT_POLICY_CODE = "400"
"""Documented for callbacks: the generation was refused for its content."""

CONTENT_POLICY_WORDS = "content policy"
"""What the documented message of such a refusal says, whatever code comes with it."""


class Failure(StrEnum):
    """Why a row has no image permanently, unless it is submitted again, which may cost again."""

    REFUSED = "refused"
    CONTENT_POLICY = "content-policy"
    GENERATION_FAILED = "generation-failed"
    UNKNOWN_TASK = "unknown-task"
    UNCONFIRMED = "unconfirmed"
    CHANGED = "changed"


def failure_of(error: NanoBananaError | None) -> Failure | None:
    """The permanent failure that a generation task ended with, if it is one."""
    if isinstance(error, UnknownTask):
        return Failure.UNKNOWN_TASK
    if not isinstance(error, GenerationFailed):
        return None
    is_coded = str(error.error_code) == CONTENT_POLICY_CODE
    refused = is_coded or CONTENT_POLICY_WORDS in error.message.lower()
    return Failure.CONTENT_POLICY if refused else Failure.GENERATION_FAILED


class AttemptState(StrEnum):
    """How far an attempt to submit a row has come.

    A released one has certainly not reached the service; the next attempt has the next number.
    """

    RESERVED = "intended"
    SUBMITTED = "submitted"
    UNCONFIRMED = "unconfirmed"
    FAILED = "failed"
    RELEASED = "released"


class SubmissionAttempt(BaseModel):
    """One attempt to submit a row; times are UTC.

    `job_key` is unguessable and unlike any other attempt's: the callback address of the submit is
    bound to it. `digest` is that of the row's content; the prompt itself is not kept. Where the
    row's alternative prompt is submitted, `alternative` is the digest of that. `owner` names the
    lease of the run that makes it; entries of earlier versions have none.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    version: Literal[1] = 1
    key: str
    attempt: int
    digest: str
    alternative: str | None = None
    name: str | None = None
    endpoint: str
    credits: int | float
    job_key: str
    owner: str | None = None
    reserved_at: AwareDatetime = Field(alias="intended_at")
    state: AttemptState = AttemptState.RESERVED
    submitted_at: AwareDatetime | None = None
    task_id: str | None = None
    failure: Failure | None = None
    error: ErrorSummary | None = None

    @property
    def stem(self) -> str | None:
        """What its files are called."""
        return self.name or self.task_id

    def is_changed(self, row: Row) -> bool:
        """Whether a row is not any more what it was made for."""
        has_other = self.alternative is not None and self.alternative != row.alternative_digest
        return self.digest != row.digest or has_other

    @property
    def is_unanswered(self) -> bool:
        """Whether it is not known what came of it."""
        return self.state in (AttemptState.RESERVED, AttemptState.UNCONFIRMED)

    @property
    def age_seconds(self) -> float:
        """Seconds since it was reserved; 0 where another machine's clock is ahead."""
        return max(0.0, (datetime.now(UTC) - self.reserved_at).total_seconds())

    @property
    def file_name(self) -> str:
        """What its file is called."""
        return entry_file_name(self.key, self.attempt)


def new_attempt(
    row: Row,
    request: GenerationRequest,
    *,
    attempt: int,
    owner: str | None,
    alternative: str | None = None,
) -> SubmissionAttempt:
    """The attempt to submit a request for a row, before it is sent.

    Args:
        row: The row.
        request: Its own, or that of its alternative prompt.
        attempt: The number of the attempt.
        owner: The lease of the run that makes it.
        alternative: The digest of the alternative prompt, where it is that.
    """
    return SubmissionAttempt(
        key=row.key,
        attempt=attempt,
        digest=row.digest,
        alternative=alternative,
        name=row.name,
        endpoint=str(request.endpoint),
        credits=row.credits,
        job_key=f"{BATCH_JOB_PREFIX}{secrets.token_hex(16)}",
        owner=owner,
        reserved_at=datetime.now(UTC),
    )


def entry_file_name(key: str, attempt: int) -> str:
    """What the file of an attempt is called: ``<key>.<attempt>.json``."""
    return f"{safe_name(key)}.{attempt}.json"


def unreadable_attempt(key: str, attempt: int, path: str) -> SubmissionAttempt:
    """What stands for an attempt whose file cannot be understood; it is never written.

    Args:
        key: The row's.
        attempt: Its number, which the name of the file tells.
        path: The file, as a person would open it.
    """
    error = UnconfirmedSubmit(
        f"its ledger entry {path} is damaged, so whether the row was submitted, and paid for, is "
        "not known. Restore the file; or, where you know the task, land it by its id; or run with "
        "retry=['unconfirmed'], which submits the row again and may pay for it twice."
    )
    return SubmissionAttempt(
        key=key,
        attempt=attempt,
        digest="",
        endpoint=Endpoint.GENERATE.value,
        credits=0,
        job_key="",
        reserved_at=datetime.now(UTC),
        state=AttemptState.UNCONFIRMED,
        failure=Failure.UNCONFIRMED,
        error=ErrorSummary.of(error),
    )
