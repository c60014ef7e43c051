"""What is an image: tells whole, sound ones from everything else by content; fetches nothing."""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from nanobanana_blocks.errors import ImageError, ImageRejected

THUMBNAIL_SIDE = 160
"""About how many pixels the longer side of a thumbnail has."""


@dataclass(frozen=True)
class VerifiedImage:
    """A whole image that decodes.

    `media_type` and `extension` (without a dot) are by content, whatever URL and headers said.
    `width` and `height` are in pixels, `sha256` in hexadecimal digits. `thumbnail` is a small JPEG,
    where one was asked for and could be made.
    """

    data: bytes = field(repr=False)
    media_type: str
    extension: str
    width: int
    height: int
    sha256: str
    thumbnail: bytes | None = field(default=None, repr=False)


class CutShort(ImageRejected):
    """Raised when an image ends too early, as it does when a connection broke unnoticed."""


@dataclass(frozen=True)
class _Format:
    name: str
    media_type: str
    extension: str
    signature: re.Pattern[bytes]
    is_whole: Callable[[bytes], bool]


def verify_image(data: bytes, *, max_pixels: int, thumbnail: bool = False) -> VerifiedImage:
    """Return the image that `data` is; all of it is decoded, of an animation the first frame.

    Its size in pixels is read from its header and compared before anything is decoded.

    Raises:
        ImageRejected: It is no PNG, JPEG, WebP, GIF or (where Pillow reads it) AVIF, is cut short,
            is damaged, or has more than `max_pixels` pixels.
    """
    if not data:
        raise CutShort("the answer is empty.")
    known = next((found for found in _FORMATS if found.signature.match(data)), None)
    if known is None:
        raise ImageRejected(f"the answer is not an image but {_kind_of_text(data)}.")
    if not known.is_whole(data):
        raise CutShort(f"the {known.name} is cut short or damaged ({len(data):,} bytes came).")
    try:
        # Pillow raises nearly anything on hostile bytes. Its warnings are left alone, for turning
        # them into errors is not safe under threads; they concern metadata, or a size that is
        # compared below.
        image = Image.open(BytesIO(data), formats=[known.name])
        size = image.size
        _check_pixels(size, max_pixels)
        # All data of a JPEG is decoded at any scale; only fewer pixels are computed from it.
        image.draft(None, (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        image.load()
    except ImageError:
        raise
    except Exception as error:
        kind = CutShort if "truncated" in str(error) else ImageRejected
        raise kind(f"the {known.name} does not decode ({type(error).__name__}).") from None
    return VerifiedImage(
        data=data,
        media_type=known.media_type,
        extension=known.extension,
        width=size[0],
        height=size[1],
        sha256=hashlib.sha256(data).hexdigest(),
        thumbnail=_thumbnail(image) if thumbnail else None,
    )


def _check_pixels(size: tuple[int, int], most: int) -> None:
    width, height = size
    if width * height > most:
        raise ImageRejected(
            f"the image has {width:,} × {height:,} pixels, more than {most:,} in all."
        )


def _thumbnail(image: Image.Image) -> bytes | None:
    """A small JPEG of a decoded image; None where that fails, for an image is worth more."""
    try:
        plain = image if image.mode in ("RGB", "L") else image.convert("RGB")
        small = plain.reduce(max(1, math.ceil(max(image.size) / THUMBNAIL_SIDE)))
        out = BytesIO()
        small.save(out, "JPEG", quality=70)
    except Exception:
        return None
    return out.getvalue()


def _kind_of_text(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    return "JSON" if start.startswith((b"{", b"[")) else "something else"


def _jpeg_is_whole(data: bytes) -> bool:
    # An end marker cannot occur inside the scan data, but thumbnails before it have their own; what
    # follows it is padding, or what cameras append.
    end = b"\xff\xd9"
    return data.endswith(end) or data.rfind(end) > data.rfind(b"\xff\xda")


def _png_is_whole(data: bytes) -> bool:
    view, start = memoryview(data), 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 12 + length
        if end > len(data):
            return False
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[start + 4 : end - 4]) != checksum:
            return False
        if data[start + 4 : start + 8] == b"IEND":
            return True
        start = end
    return False


def _gif_is_whole(data: bytes) -> bool:
    return data.rstrip(b"\0").endswith(b"\x3b")


def _webp_is_whole(data: bytes) -> bool:
    return len(data) >= int.from_bytes(data[4:8], "little") + 8


def _avif_is_whole(data: bytes) -> bool:
    start = 0
    while start + 8 <= len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        if size == 1:
            size = int.from_bytes(data[start + 8 : start + 16], "big")
        if size < 8:
            return size == 0
        start += size
    return start == len(data)


_FORMATS = (
    _Format("JPEG", "image/jpeg", "jpg", re.compile(rb"\xff\xd8\xff"), _jpeg_is_whole),
    _Format("PNG", "image/png", "png", re.compile(rb"\x89PNG\r\n\x1a\n"), _png_is_whole),
    _Format("WEBP", "image/webp", "webp", re.compile(rb"RIFF....WEBP", re.DOTALL), _webp_is_whole),
    _Format("GIF", "image/gif", "gif", re.compile(rb"GIF8[79]a"), _gif_is_whole),
    _Format(
        "AVIF", "image/avif", "avif", re.compile(rb"....ftypavi[fs]", re.DOTALL), _avif_is_whole
    ),
)
