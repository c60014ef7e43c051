"""What the checks of all image formats share: how they refuse, and the limits of all."""

from __future__ import annotations

from nanobanana_blocks.errors import ImageRejected


class CutShort(ImageRejected):
    """Raised when parts of an image are missing, as when a connection broke unnoticed."""


def check_pixels(width: int, height: int, most: int) -> None:
    """Raise `ImageRejected` for a picture of no pixels, or of more than `most`."""
    if not width or not height:
        raise ImageRejected(f"the image has {width:,} × {height:,} pixels.")
    if width * height > most:
        raise ImageRejected(
            f"the image has {width:,} × {height:,} pixels, more than {most:,} in all."
        )


def check_for_holes(data: bytes | memoryview, name: str) -> None:
    """Raise `CutShort` where zero bytes fill an eighth or more of compressed data in one piece.

    Arithmetic decoders take zeros for a picture. Of sound ones, single-coloured WebP pictures had
    the longest run that was seen, of a twentieth.
    """
    run = max(MIN_HOLE_BYTES, len(data) // 8)
    if bytes(run) in bytes(data):
        raise CutShort(f"the {name} has a hole of {run:,} or more zero bytes.")


MIN_HOLE_BYTES = 256
