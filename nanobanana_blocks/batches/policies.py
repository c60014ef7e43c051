"""What is to be submitted for a row, by what the ledger knows of it and what a run is told; no I/O.

New rows are; of failed ones those whose kind of failure is to be retried, those that were changed,
and, once, the alternative prompt of a row whose content was refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.batches.attempts import AttemptState, Failure, SubmissionAttempt
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.words import counted


class OnContentPolicy(StrEnum):
    """What is done with a row whose content the service has refused."""

    SKIP = "skip"
    ALTERNATIVE_PROMPT = "alternative-prompt"


class Submission(NamedTuple):
    """A submit that is to be made for a row: the row's own, or that of its alternative prompt."""

    request: GenerationRequest
    is_alternative: bool = False


@dataclass(frozen=True)
class SubmitPolicy:
    """What one run submits.

    Attributes:
        retry: Kinds of failures whose rows are submitted again, which may cost again.
        on_content_policy: Whether a row whose content was refused is submitted once more, with the
            alternative prompt that it gives.
    """

    retry: Set[Failure] = frozenset()
    on_content_policy: OnContentPolicy = OnContentPolicy.SKIP

    def next_submit(
        self, row: Row, entry: SubmissionAttempt | None, *, retrying: bool = True
    ) -> Submission | None:
        """What is to be submitted for a row now; None where nothing is.

        A retry repeats what has failed last: the row's prompt, or its alternative.

        Args:
            row: The row.
            entry: Its last attempt, if one was made.
            retrying: Whether `retry` holds for the row; it does not for what this run has made.
        """
        if row.request is None:
            return None
        own = Submission(row.request)
        if entry is None:
            return own
        changed = entry.digest != row.digest
        instead = row.alternative if not changed else None
        if self._is_retried(entry, row, retrying=retrying):
            return Submission(instead, True) if entry.alternative and instead else own
        if changed and entry.state is AttemptState.FAILED:
            return own
        is_refused = entry.state is AttemptState.FAILED and entry.failure is Failure.CONTENT_POLICY
        is_new = entry.alternative != row.alternative_digest
        if instead and is_refused and is_new and self._takes_alternatives:
            return Submission(instead, True)
        return None

    @property
    def _takes_alternatives(self) -> bool:
        return self.on_content_policy is OnContentPolicy.ALTERNATIVE_PROMPT

    def _is_retried(self, entry: SubmissionAttempt, row: Row, *, retrying: bool) -> bool:
        if not retrying:
            return False
        if entry.state is AttemptState.SUBMITTED:
            changed = entry.is_changed(row)
            return (changed and Failure.CHANGED in self.retry) or entry.failure in self.retry
        if entry.state is AttemptState.FAILED:
            return entry.failure in self.retry
        return Failure.UNCONFIRMED in self.retry


def describe_alternatives(rows: Iterable[Row], policy: SubmitPolicy) -> str | None:
    """What a plan tells of the alternative prompts that rows give; None where none does."""
    count = sum(row.alternative is not None for row in rows)
    if not count:
        return None
    given = f"{counted(count, 'row gives', 'rows give')} an alternative prompt"
    if policy.on_content_policy is OnContentPolicy.SKIP:
        return f"{given}, which only on_content_policy={OnContentPolicy.ALTERNATIVE_PROMPT} submits"
    return f"{given}, which is submitted, and paid for as well, where the content is refused"


def worst_case_submits(
    row: Row, policy: SubmitPolicy, entry: SubmissionAttempt | None = None
) -> int:
    """How often one run submits a row at most, each time at the price of its request.

    Args:
        row: The row.
        policy: What the run submits.
        entry: The row's last attempt, if one was made and its images have not landed.
    """
    may_follow = policy.on_content_policy is OnContentPolicy.ALTERNATIVE_PROMPT and bool(
        row.alternative
    )
    if due := policy.next_submit(row, entry):
        return 1 + int(may_follow and not due.is_alternative)
    is_open = (
        entry is not None
        and entry.alternative is None
        and entry.digest == row.digest
        and entry.state is not AttemptState.FAILED
    )
    return int(may_follow and is_open)
