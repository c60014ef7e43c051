"""What a reference image is, by its content: its kind, size and digest; it does no I/O.

The service's own limits are not documented. Those here are documented for sister products of the
same provider: JPEG, PNG or WebP, 30 MB each. Only the header is decoded, and that the end is there
is checked.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

from PIL import Image

from nanobanana_blocks.errors import UnusableReference

MAX_BYTES = 30_000_000
"""Bytes that the service takes of one image (documented for sister products)."""

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}
"""The kinds that the service takes (documented for sister products), and how their files end."""

_MEDIA_TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_READ = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PSD")
"""What is told by name, so that its owner knows what to convert."""


@dataclass(frozen=True)
class Picture:
    """What is known of an image: `sha256` in hexadecimal digits, `size` in bytes."""

    sha256: str
    media_type: str
    size: int
    width: int
    height: int

    @property
    def file_name(self) -> str:
        """What a copy of it is called, by its content."""
        return f"{self.sha256}.{EXTENSIONS[self.media_type]}"


def require_size(size: int) -> None:
    """Raise `UnusableReference` for a file that is empty, or larger than the service takes."""
    if size == 0:
        raise UnusableReference("is empty")
    if size > MAX_BYTES:
        raise UnusableReference(
            f"has {size:,} bytes, and the service takes {MAX_BYTES:,} at most: make it smaller"
        )


def inspect(data: bytes) -> Picture:
    """Return what the bytes of a file are.

    Raises:
        UnusableReference: They are no whole image of a kind that the service takes.
    """
    require_size(len(data))
    buffer = io.BytesIO(data)
    try:
        Image.init()
        known = [name for name in _READ if name in Image.OPEN]
        with Image.open(buffer, formats=known) as image:
            kind, (width, height) = str(image.format), image.size
            decoded_to = buffer.tell()
    except Exception:  # Pillow raises nearly anything on hostile bytes
        raise UnusableReference("is no image, or a damaged one") from None
    if kind not in _MEDIA_TYPES:
        raise UnusableReference(
            f"is a {kind}, and the service takes JPEG, PNG and WebP: convert it"
        )
    if not _has_end(kind, data, decoded_to):
        raise UnusableReference(f"is a {kind} that is cut short: copy it again")
    digest = hashlib.sha256(data).hexdigest()
    return Picture(digest, _MEDIA_TYPES[kind], len(data), width, height)


def _has_end(kind: str, data: bytes, decoded_to: int) -> bool:
    """Whether the end of a file is there, whatever a camera has put behind it."""
    if kind == "PNG":
        return data.find(b"IEND", 16) > 0
    if kind == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little") <= len(data)
    return data.find(b"\xff\xd9", decoded_to) > 0  # within a scan, no 0xFF is followed by 0xD9
