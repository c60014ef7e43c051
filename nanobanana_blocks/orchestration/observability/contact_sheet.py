"""The contact sheet of a run: thumbnails of its first images, also of those landed before."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from nanobanana_blocks.gallery import thumbnails_of
from nanobanana_blocks.landing.lander import MAX_THUMBNAILS
from nanobanana_blocks.landing.report import LandingOutcome
from nanobanana_blocks.storage.destination import Destination

COLUMNS = 6
TILE, CAPTION, GAP = 160, 18, 8
SHEET_BYTES = 400_000

READ_SECONDS = 10.0
"""For reading images from storage again."""


async def first_thumbnails(
    outcomes: Sequence[LandingOutcome],
    fresh: Mapping[str, bytes],
    place: Destination,
    *,
    most: int = MAX_THUMBNAILS,
    read_seconds: float = READ_SECONDS,
) -> dict[str, bytes]:
    """Thumbnails of the first tasks in storage, by task id, in the order of the outcomes.

    Args:
        outcomes: What became of the tasks.
        fresh: Thumbnails made when images landed in this run, by task id.
        place: Where images that landed before are read.
        most: How many thumbnails there may be.
        read_seconds: For how long images are read; what has been read by then is returned.
    """
    wanted = [outcome for outcome in outcomes if outcome.in_storage and outcome.images]
    wanted.sort(key=lambda outcome: outcome.task_id not in fresh)
    images = {outcome.task_id: outcome.images[0].as_recorded() for outcome in wanted[:most]}
    at_hand = {image.sha256: fresh[task] for task, image in images.items() if task in fresh}
    found = await thumbnails_of(list(images.values()), at_hand, place, read_seconds=read_seconds)
    return {
        o.task_id: found[images[o.task_id].sha256]
        for o in outcomes
        if o.task_id in images and images[o.task_id].sha256 in found
    }


def draw_contact_sheet(thumbnails: dict[str, bytes]) -> bytes:
    """Draw the thumbnails with the ends of their names as one JPEG of `SHEET_BYTES` at most."""
    rows = math.ceil(len(thumbnails) / COLUMNS)
    columns = min(COLUMNS, len(thumbnails))
    pitch_x, pitch_y = TILE + GAP, TILE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * pitch_x + GAP, rows * pitch_y + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for position, (name, thumbnail) in enumerate(thumbnails.items()):
        left = GAP + position % columns * pitch_x
        top = GAP + position // columns * pitch_y
        with Image.open(io.BytesIO(thumbnail)) as picture:
            picture.thumbnail((TILE, TILE))
            corner = (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2)
            sheet.paste(picture, corner)
        label = name if len(name) <= 20 else f"…{name[-18:]}"
        pen.text((left + TILE / 2, top + TILE + 2), label, "black", font, anchor="ma")
    return _as_jpeg(sheet)


def _as_jpeg(sheet: Image.Image) -> bytes:
    for quality in (80, 65, 50, 35, 20):
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= SHEET_BYTES:
            break
    return buffer.getvalue()
