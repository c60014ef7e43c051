"""Whether a JPEG is whole: all of its scans are there and decode without a warning of libjpeg's.

Pillow hides those warnings, which tell of holes and cuts, so simplejpeg decodes. Application
segments and comments, and what follows the end, are passed over. Damage that happens to decode to
the right number of blocks cannot be told: a JPEG has no checksums.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from nanobanana_blocks.errors import ImageRejected
from nanobanana_blocks.images.soundness import CutShort, check_pixels

MAX_SCANS = 100
"""More scans than encoders make (about 10); each takes as long as the whole picture."""

_END_OF_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END = b"\xff\xd9"
_SCAN, _ADOBE = 0xDA, 0xEE
_NEVER_HERE = (0x00, 0xD8)
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD})
_NO_CONTENT = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass
class _Segments:
    """What of a JPEG is about its picture."""

    kept: list[memoryview] = field(default_factory=list)
    width: int = 0
    height: int = 0
    is_progressive: bool = False
    is_framed: bool = False
    scans: int = 0
    missing: dict[int, set[int]] = field(default_factory=dict)
    """For each component, the coefficients of which no scan has had the last bit."""

    def add_frame(self, marker: int, content: memoryview) -> None:
        if self.is_framed or len(content) < 6 or len(content) != 6 + 3 * content[5]:
            raise ImageRejected("the JPEG is damaged: its frame header is invalid.")
        self.is_framed = True
        self.height, self.width = struct.unpack_from(">HH", content, 1)
        self.is_progressive = marker in _PROGRESSIVE
        self.missing = {content[at]: set(range(64)) for at in range(6, len(content), 3)}

    def add_scan(self, content: memoryview) -> None:
        count = content[0] if content else 0
        if not self.is_framed or not count or len(content) != 4 + 2 * count:
            raise ImageRejected("the JPEG is damaged: a scan header is invalid.")
        self.scans += 1
        if self.scans > MAX_SCANS:
            raise ImageRejected(f"the JPEG has more than {MAX_SCANS} scans.")
        first, last, bits = content[-3:]
        if not self.is_progressive:
            first, last, bits = 0, 63, 0
        for at in range(1, 1 + 2 * count, 2):
            if not bits & 15:
                self.missing.get(content[at], set()).difference_update(range(first, last + 1))

    @property
    def is_complete(self) -> bool:
        return self.scans > 0 and not any(self.missing.values())


def check_jpeg(
    data: bytes, max_pixels: int, *, side: int | None
) -> tuple[tuple[int, int], Image.Image | None]:
    """Check that all of a JPEG decodes; return its size in pixels.

    With `side`, it is also returned as a picture whose longer side has about as many pixels.

    Raises:
        CutShort: It ends before its end marker, lacks scans, or its data end early.
        ImageRejected: It is damaged, or has too many pixels or scans.
    """
    found = _segments(data)
    check_pixels(found.width, found.height, max_pixels)
    if not found.is_complete:
        raise CutShort("the JPEG is cut short: parts of its picture are missing.")
    plain = b"".join([b"\xff\xd8", *found.kept, _END])
    return (found.width, found.height), _decode_strictly(plain, found, side)


def _segments(data: bytes) -> _Segments:
    found = _Segments()
    for marker, whole in _walk(data):
        content = whole[4 : 2 + int.from_bytes(whole[2:4], "big")]
        if marker in _FRAMES:
            found.add_frame(marker, content)
        elif marker == _SCAN:
            found.add_scan(content)
        elif marker not in _TABLES and not (marker == _ADOBE and _is_sound_adobe(content)):
            continue
        found.kept.append(whole)
    return found


def _walk(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Each marker with its segment, a scan with its data, up to the end marker."""
    view, at = memoryview(data), 2
    while at + 4 <= len(data) or data[at : at + 2] == _END:
        marker = data[at + 1]
        if data[at] != 0xFF or marker in _NEVER_HERE:
            raise ImageRejected("the JPEG is damaged: what follows a segment is no segment.")
        if marker == _END[1]:
            return
        if marker == 0xFF or marker in _NO_CONTENT:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end < at + 4:
            raise ImageRejected("the JPEG is damaged: a segment is shorter than its own length.")
        if marker == _SCAN:
            next_marker = _END_OF_SCAN.search(data, end)
            end = next_marker.start() if next_marker else len(data) + 1
        if end > len(data):
            break
        yield marker, view[at:end]
        at = end
    raise CutShort(f"the JPEG is cut short ({len(data):,} bytes came).")


def _is_sound_adobe(content: memoryview) -> bool:
    """Whether a segment tells how colours are stored, which nothing else does."""
    return len(content) >= 12 and bytes(content[:5]) == b"Adobe" and content[11] <= 2


def _decode_strictly(plain: bytes, found: _Segments, side: int | None) -> Image.Image | None:
    import simplejpeg  # it imports numpy, which takes long

    try:
        simplejpeg.decode_jpeg_header(plain)
    except ValueError:
        # Rare subsamplings and lossless JPEGs are not for TurboJPEG's interface.
        return _decode_by_pillow(plain, side)
    shrink = max(1.0, max(found.width, found.height) / side) if side else 0
    try:
        pixels = simplejpeg.decode_jpeg(
            plain,
            "RGB" if side else "GRAY",
            min_width=math.ceil(found.width / shrink) if side else 1,
            min_height=math.ceil(found.height / shrink) if side else 1,
            min_factor=1 if side else 8,
        )
    except ValueError as error:
        raise CutShort(f"the JPEG is cut short or damaged: {error}.") from None
    return Image.fromarray(pixels) if side else None


def _decode_by_pillow(plain: bytes, side: int | None) -> Image.Image | None:
    try:
        image = Image.open(BytesIO(plain), formats=["JPEG"])
        image.draft(None, (side or 1, side or 1))
        image.load()
    except Exception as error:
        raise ImageRejected(f"the JPEG does not decode ({type(error).__name__}).") from None
    return image
