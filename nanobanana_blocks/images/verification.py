"""What is an image: tells whole, sound ones from everything else by content; fetches nothing.

What is checked, by format (the bytes that are published are never changed):

* **PNG**: the checksum of every critical chunk, and that the data inflate, properly ended, to all
  the bytes that header and interlacing ask for (rows are counted, filters are known). What inflates
  beyond the last row is ignored, as libpng does.
* **JPEG**: that libjpeg decodes all of it without a warning, and that no scan or component is
  missing. It has no checksums: damage that decodes to the right number of blocks passes.
  Of a kind that TurboJPEG cannot read (rare subsamplings), only that Pillow decodes it.
* **GIF**: every block up to the trailer; the first frame decodes to its last pixel. Changed
  pixels pass: it has no checksums.
* **WebP, AVIF**: every part of the container; the first frame decodes. Their decoders take nearly
  any bytes for a picture, so only cuts are found, and holes of zeros of an eighth or more.

Ancillary metadata, odd, damaged or oversized, never makes an image unsound, and is not inflated.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from nanobanana_blocks.errors import ImageError, ImageRejected
from nanobanana_blocks.images import containers
from nanobanana_blocks.images.jpeg import check_jpeg
from nanobanana_blocks.images.png import check_png
from nanobanana_blocks.images.soundness import CutShort, check_pixels

__all__ = ["THUMBNAIL_SIDE", "CutShort", "VerifiedImage", "verify_image"]

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


@dataclass(frozen=True)
class _Format:
    name: str
    media_type: str
    extension: str
    is_format: Callable[[bytes], object]
    plain: Callable[[bytes], bytes] | None = None
    """Checks the container and gives a copy to decode; None for PNG and JPEG."""


@dataclass(frozen=True)
class _Picture:
    size: tuple[int, int]
    image: Image.Image | None
    """Decoded; None where nobody needs it."""


def verify_image(data: bytes, *, max_pixels: int, thumbnail: bool = False) -> VerifiedImage:
    """Return the image that `data` is, checked as this module's heading says.

    Its size in pixels is read from its header and compared before anything is decoded.

    Raises:
        ImageRejected: It is no PNG, JPEG, WebP, GIF or (where Pillow reads it) AVIF, is cut short,
            is damaged, or has more than `max_pixels` pixels.
    """
    if not data:
        raise CutShort("the answer is empty.")
    known = next((found for found in _FORMATS if found.is_format(data)), None)
    if known is None:
        raise ImageRejected(f"the answer is not an image but {_kind_of_text(data)}.")
    picture = _check(known, data, max_pixels, thumbnail=thumbnail)
    return VerifiedImage(
        data=data,
        media_type=known.media_type,
        extension=known.extension,
        width=picture.size[0],
        height=picture.size[1],
        sha256=hashlib.sha256(data).hexdigest(),
        thumbnail=_thumbnail(picture.image) if picture.image and thumbnail else None,
    )


def _check(known: _Format, data: bytes, max_pixels: int, *, thumbnail: bool) -> _Picture:
    if known.name == "JPEG":
        size, small = check_jpeg(data, max_pixels, side=THUMBNAIL_SIDE if thumbnail else None)
        return _Picture(size, small)
    if known.name == "PNG":
        png = check_png(data, max_pixels)
        image = _for_thumbnail(png.plain()) if thumbnail else None
        return _Picture((png.width, png.height), image)
    if known.plain is None:
        raise AssertionError(known.name)
    return _decode(known.name, known.plain(data), max_pixels)


def _decode(name: str, plain: bytes, max_pixels: int) -> _Picture:
    try:
        # Pillow raises nearly anything on hostile bytes. Its warnings are left alone, for turning
        # them into errors is not safe under threads; they concern metadata, or a size that is
        # compared below.
        image = Image.open(BytesIO(plain), formats=[name])
        size = image.size
        check_pixels(*size, max_pixels)
        image.load()
    except ImageError:
        raise
    except Exception as error:
        kind = CutShort if "truncated" in str(error) else ImageRejected
        raise kind(f"the {name} does not decode ({type(error).__name__}).") from None
    return _Picture(size, image)


def _for_thumbnail(png: bytes) -> Image.Image | None:
    """A PNG that was checked already; None where Pillow has no use for it."""
    try:
        image = Image.open(BytesIO(png), formats=["PNG"])
        image.load()
    except Exception:
        return None
    return image


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


def _starts(pattern: bytes) -> Callable[[bytes], object]:
    return re.compile(pattern, re.DOTALL).match


_FORMATS = (
    _Format("JPEG", "image/jpeg", "jpg", _starts(rb"\xff\xd8\xff")),
    _Format("PNG", "image/png", "png", _starts(rb"\x89PNG\r\n\x1a\n")),
    _Format("WEBP", "image/webp", "webp", _starts(rb"RIFF....WEBP"), containers.plain_webp),
    _Format("GIF", "image/gif", "gif", _starts(rb"GIF8[79]a"), containers.plain_gif),
    _Format("AVIF", "image/avif", "avif", containers.is_avif, containers.plain_avif),
)
