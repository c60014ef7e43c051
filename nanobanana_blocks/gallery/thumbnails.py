"""Thumbnails of images in storage: those at hand, and for a while those that must be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import anyio

from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.images import MAX_PIXELS, verify_image
from nanobanana_blocks.landing.receipt import ReceiptImage
from nanobanana_blocks.storage.destination import Destination

MAX_IMAGE_BYTES = 50_000_000
READ_AT_ONCE = 4


async def thumbnails_of(
    images: Sequence[ReceiptImage],
    at_hand: Mapping[str, bytes],
    place: Destination,
    *,
    read_seconds: float,
    on_read: Callable[[], None] = lambda: None,
) -> dict[str, bytes]:
    """Thumbnails of images, by their SHA-256; of those that could not be read there is none.

    Args:
        images: The images that are to have one.
        at_hand: Thumbnails that are there already, by SHA-256.
        place: Where the other images are read.
        read_seconds: For how long images are read; what has been read by then is returned.
        on_read: Called after each image that was read.
    """
    found = {image.sha256: at_hand[image.sha256] for image in images if image.sha256 in at_hand}
    left = iter([image for image in images if image.sha256 not in found])

    async def read() -> None:
        for image in left:
            with suppress(NanoBananaError):
                if thumbnail := await _read_thumbnail(image, place):
                    found[image.sha256] = thumbnail
            on_read()

    with anyio.move_on_after(read_seconds):
        await asyncio.gather(*(read() for _ in range(READ_AT_ONCE)))
    return found


async def _read_thumbnail(image: ReceiptImage, place: Destination) -> bytes | None:
    if image.size > MAX_IMAGE_BYTES:
        return None
    data = await place.read(image.name)
    if not data:
        return None
    verify = partial(verify_image, data, max_pixels=MAX_PIXELS, thumbnail=True)
    return (await asyncio.to_thread(verify)).thumbnail
