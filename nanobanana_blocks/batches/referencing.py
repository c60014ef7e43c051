"""The reference images of a batch's rows: part of what a row is, and checked before it is paid for.

How images are found and made reachable is the matter of `references`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nanobanana_blocks.batches.ledger import Ledger
from nanobanana_blocks.batches.manifest import InvalidManifest, Problem, Row
from nanobanana_blocks.batches.manifest.chains import Link, parents_first
from nanobanana_blocks.errors import UnusableReference
from nanobanana_blocks.landing.report import LandingOutcome
from nanobanana_blocks.references import ROW, Picture, References

if TYPE_CHECKING:
    from nanobanana_blocks.batches.batch import Batch


def has_images(rows: Sequence[Row]) -> bool:
    """Whether any row works from images."""
    return any(row.images for row in rows)


async def identified(
    rows: Sequence[Row], references: References
) -> tuple[Sequence[Row], frozenset[int]]:
    """The rows as the contents of their files, and the rows that they build on, make them.

    Rows with URLs only are what they were.

    Returns:
        The rows in their order, and the numbers of those that stayed as they were because not all
        that they are made of is known.
    """
    await references.examine(image for row in rows for image in row.images)
    made: dict[int, Row] = {}
    unsettled: set[int] = set()
    for row in parents_first(rows)[0]:
        contents = references.identity(row.images)
        if contents is None or unsettled.intersection(row.builds_on):
            unsettled.add(row.number)
            made[row.number] = row
            continue
        links = "\n".join(f"row {made[parent].digest}" for parent in row.builds_on)
        whole = "\n".join(filter(None, (contents, links)))
        made[row.number] = row.including(whole) if whole else row
    return [made[row.number] for row in rows], frozenset(unsettled)


def with_known_digests(
    rows: Sequence[Row], unsettled: frozenset[int], ledger: Ledger
) -> Sequence[Row]:
    """The rows, where one that is not settled and that the ledger knows is what was submitted."""
    return [_with_known_digest(row, ledger) if row.number in unsettled else row for row in rows]


def _with_known_digest(row: Row, ledger: Ledger) -> Row:
    entry = ledger.latest(row.key)
    return replace(row, digest=entry.digest) if entry else row


async def refuse_unusable_images(
    batch: Batch, references: References | None, *, copying: bool = True
) -> None:
    """Begin no batch that would pay for rows whose images the service would not get.

    Rows that were paid for already are left alone, whatever they ask for. Without `copying`, no
    public copy is made to be asked for.

    Raises:
        InvalidManifest: Such rows, each with the image and the reason.
    """
    due = [row for row in batch.rows_to_submit if row.images]
    if not due or references is None:
        return
    images = [image for row in due for image in row.images]
    wrong = await references.problems(images, copying=copying)
    if any(row.builds_on for row in due) and (why := await references.why_not_landed_ones()):
        wrong |= {image: why for row in due for image in row.images if image.startswith(ROW)}
    problems = [
        Problem(row.number, "imageUrls", f"image {place} {wrong[image]}")
        for row in due
        for place, image in enumerate(row.images, start=1)
        if image in wrong
    ]
    if problems:
        raise InvalidManifest.of(batch.source, problems)


def add_landed(row: Row, outcomes: Mapping[str, LandingOutcome], references: References) -> None:
    """Take note of the images that a row builds on, which have landed.

    Args:
        row: The row.
        outcomes: What became of other rows, by their names and keys.
        references: Makes the images reachable.

    Raises:
        UnusableReference: One is no image that the service takes, or there are fewer than it asks.
    """
    for text in row.images:
        link = Link.parse(text)
        if link is None:
            continue
        images = outcomes[link.name].images
        if link.image > len(images):
            raise UnusableReference(f"{text} is image {link.image} of {len(images)} that landed")
        image = images[link.image - 1]
        picture = Picture(image.sha256, image.media_type, image.size, image.width, image.height)
        references.add_landed(text, image.path.rpartition("/")[2], picture)
