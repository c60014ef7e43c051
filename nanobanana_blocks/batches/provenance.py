"""What is known of the making of a row's images, for their receipts; no I/O."""

from __future__ import annotations

from nanobanana_blocks.batches.attempts import SubmissionAttempt
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.landing.provenance import Provenance
from nanobanana_blocks.references import References


def provenance_of_attempt(entry: SubmissionAttempt) -> Provenance:
    """What the ledger alone knows of an attempt."""
    return Provenance(
        endpoint=entry.endpoint,
        credits_estimated=entry.credits,
        alternative_prompt=True if entry.alternative else None,
    )


def provenance_of(row: Row, entry: SubmissionAttempt, references: References | None) -> Provenance:
    """What made the images of a row.

    Args:
        row: The row as it is now; where it has changed since, its options are not what made them.
        entry: The attempt whose task has landed, at the credits that it was estimated to cost.
        references: Knows the contents of the images that it was made from.
    """
    known = provenance_of_attempt(entry)
    if row.request is None or entry.digest != row.digest:
        return known
    digests = references.digests(row.images) if references else {}
    made = Provenance.of(row.request, digests)
    if entry.alternative:
        is_same = entry.alternative == row.alternative_digest
        prompt = row.prompt_on_content_policy if is_same else None
        made = made.model_copy(update={"prompt": prompt})
    return known.including(made)
