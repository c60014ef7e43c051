"""Whether a PNG is whole: its critical chunks by checksum, its picture by every row's bytes.

Rows are counted while they are inflated, so that memory stays small whatever the size. Ancillary
chunks (text, profiles, times) are passed over, with a wrong checksum, too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from nanobanana_blocks.errors import ImageRejected
from nanobanana_blocks.images.soundness import CutShort, check_pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BLOCK_BYTES = 2**18

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    whole: memoryview
    """With length, kind and checksum."""

    @property
    def data(self) -> memoryview:
        return self.whole[8:-4]

    @property
    def is_intact(self) -> bool:
        (checksum,) = struct.unpack(">I", self.whole[-4:])
        return bool(zlib.crc32(self.whole[4:-4]) == checksum)


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    bits_per_pixel: int
    is_indexed: bool
    is_interlaced: bool

    @classmethod
    def read(cls, chunk: _Chunk) -> _Header:
        if chunk.kind != b"IHDR" or len(chunk.data) != 13:
            raise ImageRejected("the PNG has no header.")
        width, height, depth, colour, method, filters, interlace = struct.unpack(
            ">IIBBBBB", chunk.data
        )
        if depth not in _DEPTHS.get(colour, ()) or method or filters or interlace > 1:
            raise ImageRejected("the PNG's header is of a kind that does not exist.")
        return cls(width, height, depth * _CHANNELS[colour], colour == 3, interlace == 1)

    def passes(self) -> Iterator[tuple[int, int]]:
        """The number of rows of each pass, and the bytes of a row with its filter byte."""
        for x, y, dx, dy in _ADAM7 if self.is_interlaced else ((0, 0, 1, 1),):
            columns = (self.width - x + dx - 1) // dx
            rows = (self.height - y + dy - 1) // dy
            if columns > 0 and rows > 0:
                yield rows, 1 + (columns * self.bits_per_pixel + 7) // 8


@dataclass(frozen=True)
class CheckedPng:
    """A whole PNG: its size in pixels, and what makes a copy of it without metadata."""

    width: int
    height: int
    plain: Callable[[], bytes]


def check_png(data: bytes, max_pixels: int) -> CheckedPng:
    """Check that every row of a PNG is there; of an animated one, of its default image.

    Raises:
        CutShort: It ends before its end chunk, or its picture before its last row.
        ImageRejected: A critical chunk is damaged or unknown, or there are too many pixels.
    """
    chunks = list(_chunks(data))
    header = _Header.read(chunks[0]) if chunks else None
    if header is None:
        raise CutShort("the PNG is cut short: it has no chunks.")
    check_pixels(header.width, header.height, max_pixels)
    kinds = {chunk.kind for chunk in chunks}
    if header.is_indexed and b"PLTE" not in kinds:
        raise ImageRejected("the PNG has no palette.")
    _check_rows(header, (chunk.data for chunk in chunks if chunk.kind == b"IDAT"))

    def plain() -> bytes:
        kept = [chunk.whole for chunk in chunks if chunk.kind in _CRITICAL]
        return b"".join([SIGNATURE, *kept])

    return CheckedPng(header.width, header.height, plain)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    view, start = memoryview(data), len(SIGNATURE)
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 12 + length
        chunk = _Chunk(data[start + 4 : start + 8], view[start:end])
        if not (chunk.kind.isalpha() and chunk.kind.isascii()):
            raise ImageRejected("the PNG is damaged: what follows a chunk is no chunk.")
        if end > len(data):
            break
        is_critical = chunk.kind[:1].isupper()
        if is_critical and chunk.kind not in _CRITICAL:
            raise ImageRejected("the PNG has an unknown critical chunk.")
        if is_critical and not chunk.is_intact:
            raise CutShort(f"the PNG is damaged: its {chunk.kind.decode()} has a wrong checksum.")
        yield chunk
        if chunk.kind == b"IEND":
            return
        start = end
    raise CutShort(f"the PNG is cut short ({len(data):,} bytes came).")


def _check_rows(header: _Header, data: Iterable[memoryview]) -> None:
    inflated = _inflated(data)
    block = b""
    for rows, row_bytes in header.passes():
        done, size = 0, rows * row_bytes
        while done < size:
            block = block or next(inflated, b"")
            if not block:
                raise CutShort(f"the PNG's data end in row {done // row_bytes + 1:,} of {rows:,}.")
            piece, block = block[: size - done], block[size - done :]
            if max(piece[-done % row_bytes :: row_bytes], default=0) > 4:
                raise ImageRejected("the PNG is damaged: a row has an unknown filter.")
            done += len(piece)
    # One block more, for the checksum of the whole; libpng ignores surplus data, too.
    next(inflated, b"")


def _inflated(data: Iterable[memoryview]) -> Iterator[bytes]:
    """Blocks of bounded size, none empty."""
    decoder = zlib.decompressobj()
    try:
        for chunk in data:
            for start in range(0, len(chunk), BLOCK_BYTES):
                waiting: bytes | memoryview = chunk[start : start + BLOCK_BYTES]
                while True:
                    block = decoder.decompress(waiting, BLOCK_BYTES)
                    if block:
                        yield block
                    waiting = decoder.unconsumed_tail
                    if decoder.eof:
                        return
                    if not waiting and len(block) < BLOCK_BYTES:
                        break
    except zlib.error:
        raise ImageRejected("the PNG is damaged: its data do not inflate.") from None
    raise CutShort("the PNG's data are cut short.")
