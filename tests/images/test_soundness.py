"""Which pictures are sound: never refused for their metadata, never taken with parts missing."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin, features

from nanobanana_blocks.errors import ImageRejected
from nanobanana_blocks.images.jpeg import MAX_SCANS
from nanobanana_blocks.images.verification import verify_image

SAMPLES = Path(__file__).parent / "samples"
NOISE = Image.effect_noise((200, 160), 80).convert("RGB")
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def encoded(kind: str, picture: Image.Image = NOISE, **settings: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def accept(data: bytes) -> None:
    for thumbnail in (False, True):
        image = verify_image(data, max_pixels=2**20, thumbnail=thumbnail)
        assert image.data == data
        assert (image.thumbnail is not None) is thumbnail


def refuse(data: bytes) -> None:
    for thumbnail in (False, True):
        with pytest.raises(ImageRejected):
            verify_image(data, max_pixels=2**20, thumbnail=thumbnail)


@pytest.mark.parametrize(
    "name",
    [
        "whole.png",
        "ztxt2mb.png",
        "itxt2mb.png",
        "text-bad-crc.png",
        pytest.param("mif1.avif", marks=needs_avif),
    ],
)
def test_a_sound_sample_is_accepted(name: str) -> None:
    """Rule: metadata and brands make no picture unsound."""
    accept((SAMPLES / name).read_bytes())


@pytest.mark.parametrize("name", ["half-then-eoi.jpg", "forty-of-64-rows.png"])
def test_an_unsound_sample_is_refused(name: str) -> None:
    """Rule: a proper end does not make a picture whole."""
    refuse((SAMPLES / name).read_bytes())


# --- PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, idat: bytes | None = None, header: bytes | None = None) -> bytes:
    """A grey picture of 20 by 30 pixels, with `chunks` before its data."""
    head = chunk(b"IHDR", header or struct.pack(">IIBBBBB", 20, 30, 8, 0, 0, 0, 0))
    data = zlib.compress(bytes(21) * 30) if idat is None else idat
    body = [head, *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


BIG = zlib.compress(bytes(8 * 2**20))


@pytest.mark.parametrize(
    "ancillary",
    [
        chunk(b"zTXt", b"a\0\0" + BIG),
        chunk(b"zTXt", b"a\0\x07" + BIG),
        chunk(b"iTXt", b"a\0\x01\0\0\0" + BIG),
        chunk(b"iTXt", b"a\0\x01\x09\0\0" + BIG),
        chunk(b"iCCP", b"a\0\0" + BIG),
        chunk(b"iCCP", b"a\0\x05" + BIG),
        chunk(b"iCCP", b""),
        chunk(b"eXIf", b"broken"),
        *(chunk(kind, b"") for kind in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"tRNS")),
        *(chunk(kind, b"\1") for kind in (b"pHYs", b"gAMA", b"cHRM", b"acTL", b"fcTL")),
        chunk(b"tEXt", b"a\0b")[:-1] + b"?",
        chunk(b"prVt", b"unknown"),
    ],
)
def test_no_ancillary_chunk_makes_a_png_unsound(ancillary: bytes) -> None:
    """Rule: whatever an ancillary chunk holds, the picture lands, and it is not inflated."""
    data = png(ancillary)
    tracemalloc.start()
    try:
        verify_image(data, max_pixels=2**20)
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 4 * len(data)
    finally:
        tracemalloc.stop()
    accept(data)


def test_what_follows_the_end_of_a_png_does_no_harm() -> None:
    """Rule: a picture ends with its end chunk."""
    accept(png() + b"appended")


@pytest.mark.parametrize(
    "idat",
    [
        b"",
        zlib.compress(b""),
        zlib.compress(bytes(21) * 29),
        zlib.compress(bytes(21 * 30 - 1)),
        zlib.compress(bytes(21) * 30)[:-4],
        zlib.compress(bytes(21) * 29 + b"\5" + bytes(20)),
        b"\0" * 40,
    ],
)
def test_a_png_without_all_its_rows_is_refused(idat: bytes) -> None:
    """Rule: a PNG has every row, of a kind that exists, and its data end properly."""
    refuse(png(idat=idat))


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (4, 0), (16, 0), (8, 2), (16, 6), (8, 4)])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (4, 9), (33, 17)])
def test_an_interlaced_png_is_counted_by_pass(
    depth: int, colour: int, size: tuple[int, int]
) -> None:
    """Rule: each of the seven passes has its own rows; one byte less is too little."""
    bits = depth * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    width, height = size
    raw = 0
    starts = [(0, 0), (4, 0), (0, 4), (2, 0), (0, 2), (1, 0), (0, 1)]
    steps = [(8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2)]
    for (x, y), (dx, dy) in zip(starts, steps, strict=True):
        columns, rows = len(range(x, width, dx)), len(range(y, height, dy))
        raw += rows * (1 + -(-columns * bits // 8)) if columns else 0
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 1)
    accept(png(header=header, idat=zlib.compress(bytes(raw))))
    refuse(png(header=header, idat=zlib.compress(bytes(raw - 1))))


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">IIBBBBB", 20, 30, 3, 0, 0, 0, 0),
        struct.pack(">IIBBBBB", 20, 30, 8, 5, 0, 0, 0),
        struct.pack(">IIBBBBB", 20, 30, 8, 0, 0, 0, 2),
        struct.pack(">IIBBBBB", 20, 30, 8, 3, 0, 0, 0),
        struct.pack(">IIBBBBB", 0, 30, 8, 0, 0, 0, 0),
    ],
)
def test_an_impossible_png_is_refused(header: bytes) -> None:
    """Rule: depth, colours and interlacing exist; indexed colours need a palette."""
    refuse(png(header=header))


def test_a_png_that_inflates_without_end_costs_no_memory() -> None:
    """Rule: what a bomb inflates to is not held."""
    data = png(idat=zlib.compress(bytes(64 * 2**20)))
    tracemalloc.start()
    try:
        verify_image(data, max_pixels=2**20)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_is_accepted(mode: str) -> None:
    """Rule: what Pillow writes of any mode is whole."""
    accept(
        encoded(
            "PNG", NOISE.convert("I").convert("I;16") if mode == "I;16" else NOISE.convert(mode)
        )
    )


def test_a_png_with_long_text_is_published_as_it_came() -> None:
    """Rule: metadata is passed over, not removed."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3 * 2**20, zip=True)
    accept(encoded("PNG", pnginfo=info))


# --- JPEG

KINDS: list[dict[str, object]] = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"optimize": True},
    {"restart_marker_blocks": 4},
]


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_kind_of_jpeg_is_accepted(settings: dict[str, object], mode: str) -> None:
    """Rule: what encoders write is whole."""
    accept(encoded("JPEG", NOISE.convert(mode), **settings))


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE0, b""),
        segment(0xE0, b"JFIF\0"),
        segment(0xE0, b"JFIF\0\x09\x09\x07\0\0\0\0\0\0"),
        segment(0xE1, b"Exif\0\0broken"),
        segment(0xE2, b"ICC_PROFILE\0\x07\x01"),
        segment(0xE2, b"MPF\0MM\0*\xff\xff\xff\xff"),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 3),
        segment(0xEE, b""),
        segment(0xEE, b"Adobe"),
        segment(0xEE, b"Adobe\0\x64\0\0\0\0\x09"),
        segment(0xFE, b"\xff\xd9\xff\xda"),
        b"\xff\xff\xff" + segment(0xFE, b"filled"),
    ],
)
def test_no_application_segment_makes_a_jpeg_unsound(extra: bytes) -> None:
    """Rule: whatever applications add, the picture lands."""
    whole = encoded("JPEG")
    accept(whole[:2] + extra + whole[2:])


@pytest.mark.parametrize(
    "tail", [b"\xff\xda", b"\0\xff\xda\0\x0c\xff", b"x" * 999, encoded("JPEG")]
)
def test_what_follows_the_end_of_a_jpeg_does_no_harm(tail: bytes) -> None:
    """Rule: a picture ends with its end marker, whatever is appended."""
    accept(encoded("JPEG") + tail)


OTHER = Image.effect_noise((200, 160), 30).convert("RGB")
DAMAGE: dict[str, Callable[[bytes, bytes], bytes]] = {
    "cut": lambda a, _: a[: len(a) // 2],
    "cut, then an end": lambda a, _: a[: len(a) // 2] + b"\xff\xd9",
    "cut near the end, then an end": lambda a, _: a[:-40] + b"\xff\xd9",
    "zeros to the end": lambda a, _: a[: len(a) // 2] + bytes(len(a) - len(a) // 2),
    "zeros, then an end": lambda a, _: a[: len(a) // 2] + bytes(len(a) // 2) + b"\xff\xd9",
    "a hole": lambda a, _: a[: len(a) // 2] + bytes(512) + a[len(a) // 2 + 512 :],
    "another's tail": lambda a, b: a[: len(a) // 2] + b[len(b) // 2 :],
    "no scan": lambda a, _: a[: a.index(b"\xff\xda")] + b"\xff\xd9",
    "only start and end": lambda _, __: b"\xff\xd8\xff\xd9",
    "a scan without data": lambda a, _: a[: a.index(b"\xff\xda") + 14] + b"\xff\xd9",
}


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_jpeg_is_refused(damage: str, settings: dict[str, object]) -> None:
    """Rule: an end marker makes nothing whole; every block has to decode."""
    refuse(DAMAGE[damage](encoded("JPEG", **settings), encoded("JPEG", OTHER, **settings)))


def test_a_jpeg_that_lacks_scans_is_refused() -> None:
    """Rule: a progressive picture ends with its last scan, though libjpeg shows fewer."""
    whole = encoded("JPEG", progressive=True)
    last_scan = whole.rindex(b"\xff\xda")
    before = max(whole.rfind(b"\xff\xc4", 0, last_scan), 0)
    refuse(whole[:before] + b"\xff\xd9")


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    """Rule: scans that take as long as a picture each are limited."""
    whole = encoded("JPEG", progressive=True)
    at = whole.rindex(b"\xff\xda")
    refuse(whole[:at] + whole[at:-2] * MAX_SCANS + whole[-2:])


# --- GIF, WebP, AVIF


def zeros_from_half(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


@pytest.mark.parametrize("tail", [b"", b"\0", b"x", b"\0;x", b"GIF89a"])
def test_what_follows_the_end_of_a_gif_does_no_harm(tail: bytes) -> None:
    """Rule: a GIF ends with its trailer."""
    accept(encoded("GIF", comment=b"x;" * 90) + tail)


def test_a_damaged_gif_is_refused() -> None:
    """Rule: a trailer makes nothing whole; the first frame has all of its pixels."""
    whole = encoded("GIF")
    half = whole[: len(whole) // 2]
    for data in (half, half + b";", half + b"\0;", zeros_from_half(whole)[:-1] + b";"):
        refuse(data)
    refuse(whole[: 13 + 768] + b";")


@pytest.mark.parametrize("settings", [{}, {"lossless": True}, {"exif": b"Exif\0\0broken"}])
def test_a_webp_is_refused_with_a_cut_or_a_large_hole(settings: dict[str, object]) -> None:
    """Rule: a cut is found though the sizes were mended; so is a half of zeros."""
    whole = encoded("WEBP", **settings)
    accept(whole)
    accept(whole + b"appended")
    refuse(zeros_from_half(whole))
    if "exif" not in settings:
        cut = whole[: len(whole) // 4 * 2]
        mended = struct.pack("<I", len(cut) - 8) + cut[8:16] + struct.pack("<I", len(cut) - 20)
        refuse(cut[:4] + mended + cut[20:])


@needs_avif
@pytest.mark.parametrize("brand", [b"avif", b"mif1", b"miaf", b"heic"])
def test_an_avif_is_known_by_any_of_its_brands(brand: bytes) -> None:
    """Rule: the major brand need not be AVIF's, if a compatible one is."""
    whole = encoded("AVIF")
    accept(whole[:8] + brand + whole[12:])


@needs_avif
def test_an_avif_is_refused_with_a_cut_or_a_large_hole() -> None:
    """Rule: all parts are there, and no half of zeros."""
    whole = encoded("AVIF")
    refuse(zeros_from_half(whole))
    refuse(whole[: len(whole) // 2])


@pytest.mark.parametrize("colour", ["white", "black", "red"])
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "WEBP", "GIF", pytest.param("AVIF", marks=needs_avif)]
)
def test_a_picture_of_one_colour_has_no_hole(kind: str, colour: str) -> None:
    """Rule: runs of zeros that sound pictures have are no damage."""
    picture = Image.new("RGB", (1024, 1024), colour)
    accept(encoded(kind, picture))
