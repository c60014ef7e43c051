"""The dialects of the provider's products: how each is asked, and how its answers are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nanobanana_blocks.api import jobs, protocol
from nanobanana_blocks.api.details import TaskDetails
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.errors import InvalidInput

DialectName = Literal["nanobanana", "jobs"]


class ReadRecordInfo(Protocol):
    """Reads an answer about a task; see `protocol.read_record_info`."""

    def __call__(self, http_status: int, body: bytes, /, *, task_id: str) -> TaskDetails: ...


@dataclass(frozen=True)
class Dialect:
    """How one product of the provider is asked.

    Attributes:
        name: What credentials call it.
        record_info: The path that tells of a task, which its `taskId` names.
        credits: The path that tells what the account has left.
        submission: Gives path and body of a submit.
        problem: Says why a request cannot be submitted, in words that follow `endpoint`.
        read_record_info: Reads what `record_info` answers.
    """

    name: DialectName
    record_info: str
    credits: str
    submission: Callable[[GenerationRequest, str | None], tuple[str, dict[str, Any]]]
    problem: Callable[[GenerationRequest], str | None]
    read_record_info: ReadRecordInfo


_ALL = (
    Dialect(
        "nanobanana",
        protocol.RECORD_INFO,
        protocol.CREDITS,
        protocol.submission,
        protocol.problem,
        protocol.read_record_info,
    ),
    Dialect(
        "jobs",
        jobs.RECORD_INFO,
        jobs.CREDITS,
        jobs.submission,
        jobs.problem,
        jobs.read_record_info,
    ),
)
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in _ALL}


def dialect_named(name: str) -> Dialect:
    """The dialect that credentials name.

    Raises:
        InvalidInput: There is none of that name.
    """
    try:
        return DIALECTS[name]
    except KeyError:
        raise InvalidInput(
            f"the dialect must be one of {', '.join(DIALECTS)}, not {name!r:.40}"
        ) from None
