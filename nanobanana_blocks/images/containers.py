"""What GIF, WebP and AVIF files are made of: whether all parts are there, and which are metadata.

Pictures are decoded elsewhere: this finds cuts and large holes, which decoders of these formats may
take for a picture, and leaves out what a decoder trips over.
"""

from __future__ import annotations

from collections.abc import Iterator

from nanobanana_blocks.errors import ImageRejected
from nanobanana_blocks.images.soundness import CutShort, check_for_holes

_GRAPHIC_CONTROL = 0xF9
_WEBP_PARTS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_PICTURES = (b"VP8 ", b"VP8L", b"ANMF")
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04
_AVIF_BRANDS = (b"avif", b"avis")


def plain_gif(data: bytes) -> bytes:
    """Return a GIF up to its end, without comments and what applications add.

    Raises:
        CutShort: It ends before its trailer.
        ImageRejected: It is damaged, or has no picture.
    """
    try:
        return b"".join(_gif_parts(data))
    except IndexError:
        raise CutShort(f"the GIF is cut short ({len(data):,} bytes came).") from None


def _gif_parts(data: bytes) -> Iterator[bytes]:
    at = 13 + _colours(data[10])
    yield data[:at]
    has_picture = False
    while data[at] != 0x3B:
        start = at
        if data[at] == 0x21:
            keep = data[at + 1] == _GRAPHIC_CONTROL
            at = _after_blocks(data, at + 2)
        elif data[at] == 0x2C:
            keep = has_picture = True
            at = _after_blocks(data, at + 11 + _colours(data[at + 9]))
        else:
            raise ImageRejected("the GIF is damaged: what follows a block is no block.")
        if keep:
            yield data[start:at]
    if not has_picture:
        raise CutShort("the GIF has no picture.")
    yield b"\x3b"


def _colours(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += 1 + data[at]
    return at + 1


def plain_webp(data: bytes) -> bytes:
    """Return a WebP up to its end, without metadata.

    Raises:
        CutShort: It ends before its stated size, or has a large hole.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    parts, at = [b"WEBP"], 12
    while at + 8 <= end:
        kind = data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > min(end, len(data)):
            raise CutShort(f"the WebP is cut short ({len(data):,} bytes came).")
        content = data[at + 8 : at + 8 + size]
        if kind in _WEBP_PICTURES:
            check_for_holes(content, "WebP")
        if kind == b"VP8X" and content:
            content = bytes([content[0] & ~_WEBP_METADATA_FLAGS]) + content[1:]
        if kind in _WEBP_PARTS:
            parts += [kind, size.to_bytes(4, "little"), content, b"\0" * (size % 2)]
        at += 8 + size + size % 2
    body = b"".join(parts)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def is_avif(data: bytes) -> bool:
    """Whether a file says that it is an AVIF, by its major or a compatible brand."""
    return data[4:8] == b"ftyp" and _avif_brand(data) is not None


def _avif_brand(data: bytes) -> bytes | None:
    end = min(int.from_bytes(data[:4], "big"), len(data), 4096)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]
    return next((brand for brand in brands if brand in _AVIF_BRANDS), None)


def plain_avif(data: bytes) -> bytes:
    """Return an AVIF with the major brand that decoders know it by.

    Raises:
        CutShort: A part of it ends after the file, or it has a large hole.
    """
    at = 0
    while at + 8 <= len(data):
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if size == 0:
            size = len(data) - at
        if size < head or at + size > len(data):
            raise CutShort(f"the AVIF is cut short ({len(data):,} bytes came).")
        if data[at + 4 : at + 8] == b"mdat":
            check_for_holes(data[at + head : at + size], "AVIF")
        at += size
    if at != len(data):
        raise CutShort(f"the AVIF is cut short ({len(data):,} bytes came).")
    return data[:8] + (_avif_brand(data) or b"avif") + data[12:]
