"""Draws the sandbox's images: real, decodable, and the same for the same task every time.

Knows no HTTP. Drawing costs tens of milliseconds, so callers do it off the event loop; what
was drawn lately is remembered in memory.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zlib
from functools import lru_cache
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

SHAPES = ((1, 1), (4, 3), (3, 4), (16, 9), (9, 16), (3, 2))
SCENES = 12
PALETTES = (
    ("#1d2b64", "#f8cdda", "#3a1c71"),
    ("#0f2027", "#7fb7be", "#16423c"),
    ("#ff9966", "#ffe29a", "#8e3b46"),
    ("#355c7d", "#f67280", "#2a1a3e"),
    ("#134e5e", "#b5e48c", "#0b3d2e"),
    ("#41295a", "#f2c14e", "#2f0743"),
)
FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
BOMB_EDGE = 20_000
MAX_COMMENT = 65_000
JPEG_START = b"\xff\xd8"


def size_for(task_id: str, longer_edge: int) -> tuple[int, int]:
    """Width and height in pixels for a task that asked for none."""
    across, down = SHAPES[_number(task_id) % len(SHAPES)]
    longest = max(across, down)
    return longer_edge * across // longest, longer_edge * down // longest


@lru_cache(maxsize=64)
def draw(task_id: str, number: int, media_type: str, size: tuple[int, int]) -> bytes:
    """The encoded image of one task: a landscape with the short form of the id on it."""
    canvas = _scene((_number(task_id) + number) % SCENES, size).copy()
    _write_label(canvas, f"{short_form(task_id)} #{number}")
    file = io.BytesIO()
    canvas.save(file, FORMATS[media_type], quality=88, compress_level=1, method=1)
    return file.getvalue()


def short_form(task_id: str) -> str:
    """A task id that fits on a picture."""
    return task_id if len(task_id) <= 16 else f"{task_id[:8]}…{task_id[-4:]}"


class SizedJpeg:
    """One valid JPEG of about `size` bytes that can be marked for any number of tasks.

    The mark is a comment segment, so marked images differ in their bytes and not in their
    pixels, and a new one costs one concatenation.
    """

    def __init__(self, size: int) -> None:
        body = _noisy_jpeg(size)[len(JPEG_START) :]
        self._tail = _comments(size - len(JPEG_START) - len(body) - 64) + body

    def marked(self, text: str) -> bytes:
        """The image, carrying the text."""
        return JPEG_START + _comment(text.encode()[:MAX_COMMENT]) + self._tail


@lru_cache(maxsize=1)
def bomb() -> bytes:
    """A PNG of some 50 kB that declares, and truly holds, 400 million pixels."""
    header = struct.pack(">IIBBBBB", BOMB_EDGE, BOMB_EDGE, 1, 0, 0, 0, 0)
    row = bytes(1 + BOMB_EDGE // 8)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(BOMB_EDGE)) + packer.flush()
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header), _chunk(b"IDAT", pixels), _chunk(b"IEND"))
    )


def _chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _number(task_id: str) -> int:
    return int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:4], "big")


@lru_cache(maxsize=12)
def _scene(variant: int, size: tuple[int, int]) -> Image.Image:
    dice = Random(variant)  # noqa: S311 - repeatable, not secret
    low, high, ground = PALETTES[variant % len(PALETTES)]
    sky = ImageOps.colorize(Image.linear_gradient("L").resize(size), low, high)
    _add_moon(sky, dice)
    for layer in range(4):
        depth = (layer + 1) / 4
        hill = _hill(size, dice, top=0.5 + 0.13 * layer)
        colour = Image.blend(
            Image.new("RGB", size, high), Image.new("RGB", size, ground), 0.25 + 0.75 * depth
        )
        sky.paste(colour, (0, 0), hill)
    return sky


def _add_moon(sky: Image.Image, dice: Random) -> None:
    """A crescent, which is as near to a banana as a moon can be."""
    width, height = sky.size
    radius = min(sky.size) * 0.17
    x, y = width * dice.uniform(0.25, 0.75), height * dice.uniform(0.22, 0.32)
    full, shadow = (
        _disc(sky.size, x, y, radius),
        _disc(sky.size, x - radius * 0.45, y - radius * 0.35, radius * 0.98),
    )
    glow = _disc(sky.size, x, y, radius * 1.2).filter(ImageFilter.GaussianBlur(radius * 0.6))
    sky.paste("#fff3b0", (0, 0), glow.point([level // 4 for level in range(256)]))
    sky.paste("#ffe135", (0, 0), ImageChops.subtract(full, shadow))


def _disc(size: tuple[int, int], x: float, y: float, radius: float) -> Image.Image:
    mask = Image.new("L", (size[0] * 2, size[1] * 2))
    box = [2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)]
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _hill(size: tuple[int, int], dice: Random, top: float) -> Image.Image:
    width, height = size
    waves = [(dice.uniform(0.6, 2.8), dice.uniform(0, math.tau), dice.uniform(0.02, 0.06))]
    waves.append((dice.uniform(3, 6), dice.uniform(0, math.tau), 0.012))
    ridge = [
        (
            2 * x,
            2
            * height
            * (top + sum(a * math.sin(f * math.tau * x / width + p) for f, p, a in waves)),
        )
        for x in range(0, width + 8, 8)
    ]
    mask = Image.new("L", (width * 2, height * 2))
    outline = [*ridge, (2 * width, 2 * height), (0, 2 * height)]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _write_label(canvas: Image.Image, text: str) -> None:
    width, height = canvas.size
    font_size = max(min(width // max(len(text), 12) * 3 // 2, height // 11), 6)
    font = ImageFont.load_default(font_size)
    pen = ImageDraw.Draw(canvas, "RGBA")
    margin = font_size * 2 // 3
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    x, y = (width - (right - left)) // 2 - left, height - margin * 2 - bottom
    plate = (x + left - margin, y + top - margin, x + right + margin, y + bottom + margin)
    pen.rounded_rectangle(plate, radius=margin, fill=(10, 12, 30, 150))
    pen.text((x, y), text, font=font, fill="#fff8dc")


def _noisy_jpeg(most_bytes: int) -> bytes:
    """The best JPEG of a noisy landscape that is not larger than `most_bytes`."""
    pixels = most_bytes * 4
    width = max(int(math.sqrt(pixels * 4 / 3)), 16)
    size = (width, max(width * 3 // 4, 12))
    noise = Image.effect_noise(size, 40).convert("RGB")
    canvas = Image.blend(_scene(0, size), noise, 0.25)
    encoded = b""
    for quality in (90, 80, 70, 60, 50, 40, 30, 20, 10, 1):
        file = io.BytesIO()
        canvas.save(file, "JPEG", quality=quality)
        encoded = file.getvalue()
        if len(encoded) < most_bytes - 128:
            break
    return encoded


def _comments(total: int) -> bytes:
    """Comment segments of `total` bytes together, or none where that is too few."""
    parts: list[bytes] = []
    while total >= 4:
        length = min(total, MAX_COMMENT)
        parts.append(_comment(b" " * (length - 4)))
        total -= length
    return b"".join(parts)


def _comment(text: bytes) -> bytes:
    return b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text
