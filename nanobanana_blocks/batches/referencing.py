"""The reference images of a batch's rows: part of what a row is, and checked before it is paid for.

How images are found and made reachable is the matter of `references`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.ledger import Ledger
from nanobanana_blocks.batches.manifest import InvalidManifest, Problem, Row
from nanobanana_blocks.references import References, is_file


def has_images(rows: Sequence[Row]) -> bool:
    """Whether any row works from images."""
    return any(row.images for row in rows)


async def identified(rows: Sequence[Row], references: References) -> Sequence[Row]:
    """The rows as the contents of their files make them; rows with URLs only are what they were.

    A row stays as it was where the content of one of its files is not known.
    """
    await references.examine(image for row in rows for image in row.images)
    return [_identified(row, references) for row in rows]


def _identified(row: Row, references: References) -> Row:
    contents = references.identity(row.images)
    return row.including(contents) if contents else row


def with_known_digests(
    rows: Sequence[Row], references: References, ledger: Ledger
) -> Sequence[Row]:
    """The rows, where one of unknown content that the ledger knows counts as what was submitted."""
    return [_with_known_digest(row, references, ledger) for row in rows]


def _with_known_digest(row: Row, references: References, ledger: Ledger) -> Row:
    if not any(map(is_file, row.images)) or references.identity(row.images):
        return row
    entry = ledger.latest(row.key)
    return replace(row, digest=entry.digest) if entry else row


async def refuse_unusable_images(batch: Batch, references: References | None) -> None:
    """Begin no batch that would pay for rows whose images the service would not get.

    Rows that were paid for already are left alone, whatever they ask for.

    Raises:
        InvalidManifest: Such rows, each with the image and the reason.
    """
    due = [row for row in batch.rows_to_submit if row.images]
    if not due or references is None:
        return
    wrong = await references.problems(image for row in due for image in row.images)
    problems = [
        Problem(row.number, "imageUrls", f"image {place} {wrong[image]}")
        for row in due
        for place, image in enumerate(row.images, start=1)
        if image in wrong
    ]
    if problems:
        raise InvalidManifest.of(batch.source, problems)
