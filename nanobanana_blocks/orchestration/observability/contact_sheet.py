"""The contact sheet of a run: thumbnails of its first images, also of those landed before."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

import anyio
from PIL import Image, ImageDraw, ImageFont

from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.images import MAX_PIXELS, verify_image
from nanobanana_blocks.landing.lander import MAX_THUMBNAILS
from nanobanana_blocks.landing.report import LandingOutcome
from nanobanana_blocks.storage.destination import Destination

COLUMNS = 6
TILE, CAPTION, GAP = 160, 18, 8
SHEET_BYTES = 400_000

READ_SECONDS = 10.0
"""For reading images from storage again."""

MAX_IMAGE_BYTES = 50_000_000
READ_AT_ONCE = 4


async def thumbnails_of(
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
        fresh: Thumbnails made when images landed in this run.
        place: Where images that landed before are read.
        most: How many thumbnails there may be.
        read_seconds: For how long images are read; what has been read by then is returned.
    """
    wanted = [outcome for outcome in outcomes if outcome.in_storage and outcome.images]
    wanted.sort(key=lambda outcome: outcome.task_id not in fresh)
    wanted = wanted[:most]
    found = {o.task_id: fresh[o.task_id] for o in wanted if o.task_id in fresh}
    slots = asyncio.Semaphore(READ_AT_ONCE)

    async def read(outcome: LandingOutcome) -> None:
        with suppress(NanoBananaError):
            async with slots:
                thumbnail = await _read_thumbnail(outcome, place)
                if thumbnail:
                    found[outcome.task_id] = thumbnail

    with anyio.move_on_after(read_seconds):
        await asyncio.gather(*(read(o) for o in wanted if o.task_id not in fresh))
    return {o.task_id: found[o.task_id] for o in outcomes if o.task_id in found}


async def _read_thumbnail(outcome: LandingOutcome, place: Destination) -> bytes | None:
    image = outcome.images[0]
    if image.size > MAX_IMAGE_BYTES:
        return None
    data = await place.read(image.path.rpartition("/")[2])
    if not data:
        return None
    verify = partial(verify_image, data, max_pixels=MAX_PIXELS, thumbnail=True)
    return (await asyncio.to_thread(verify)).thumbnail


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
