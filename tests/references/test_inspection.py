"""What may be sent as a reference image, told by content."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from nanobanana_blocks.errors import UnusableReference
from nanobanana_blocks.references.inspection import MAX_BYTES, inspect, require_size
from tests.support.pictures import picture


@pytest.mark.parametrize(
    ("kind", "media_type", "extension"),
    [("JPEG", "image/jpeg", "jpg"), ("PNG", "image/png", "png"), ("WEBP", "image/webp", "webp")],
)
def test_the_kinds_that_the_service_takes(kind: str, media_type: str, extension: str) -> None:
    """Rule: kind, size and digest are by content."""
    data = picture(3, kind, (40, 30))
    found = inspect(data)
    assert (found.media_type, found.width, found.height) == (media_type, 40, 30)
    assert found.size == len(data)
    assert found.file_name == f"{found.sha256}.{extension}"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_a_kind_that_the_service_refuses(kind: str) -> None:
    """Rule: other kinds of pictures are refused by name, with the next step."""
    out = io.BytesIO()
    Image.new("RGB", (9, 9)).save(out, kind)
    with pytest.raises(UnusableReference, match=rf"is a {kind}.*convert it"):
        inspect(out.getvalue())


@pytest.mark.parametrize(
    "data",
    [b"<!doctype html><html></html>", b"%PDF-1.4", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"a"],
)
def test_what_is_no_picture(data: bytes) -> None:
    """Rule: what has no header of a picture is refused."""
    with pytest.raises(UnusableReference, match="no image"):
        inspect(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_is_cut_short(kind: str) -> None:
    """Rule: a picture whose end is missing is refused: half an upload would be paid for."""
    data = picture(1, kind, (200, 200), noisy=True)
    with pytest.raises(UnusableReference, match=r"cut short|damaged"):
        inspect(data[: len(data) // 2])


def test_a_thumbnail_inside_is_not_taken_for_the_end() -> None:
    """Rule: the end of a JPEG is looked for behind its header, where cameras put a thumbnail."""
    exif = Image.Exif()
    exif[0x010E] = picture(2).decode("latin-1")
    out = io.BytesIO()
    Image.effect_noise((300, 300), 90).convert("RGB").save(out, "JPEG", exif=exif.tobytes())
    data = out.getvalue()
    assert inspect(data).width == 300
    with pytest.raises(UnusableReference, match=r"cut short"):
        inspect(data[: len(data) * 2 // 3])


def test_what_cameras_put_behind_the_picture() -> None:
    """Rule: bytes behind the end of a picture, as of a moving one, are no fault."""
    assert inspect(picture(4) + bytes(5000)).media_type == "image/jpeg"


@pytest.mark.parametrize(("size", "says"), [(0, "is empty"), (MAX_BYTES + 1, "30,000,001 bytes")])
def test_a_size_that_the_service_refuses(size: int, says: str) -> None:
    """Rule: nothing empty, and nothing above 30 MB, which is told with both figures."""
    with pytest.raises(UnusableReference, match=says):
        require_size(size)
    require_size(MAX_BYTES)
