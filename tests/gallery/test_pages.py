"""The gallery's pages: static, and nothing in them can be made to do anything else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.gallery.pages import (
    ENTRIES_PER_PAGE,
    MAX_FAILURES,
    EarlierPages,
    GalleryContents,
    GalleryEntry,
    GalleryFailure,
    publish_gallery,
    render_page,
)
from nanobanana_blocks.landing.receipt import ReceiptImage
from nanobanana_blocks.storage.destination import Destination
from tests.support.html import Page

DIGEST = "0123456789abcdef" * 4


def image(name: str, sha256: str = "0" * 64) -> ReceiptImage:
    return ReceiptImage(
        name=name, media_type="image/png", size=1_500_000, width=1024, height=768, sha256=sha256
    )


def landed(title: str) -> GalleryEntry:
    return GalleryEntry(title=title, images=[image(f"{title}.png")])


def contents(*entries: GalleryEntry, failures: tuple[GalleryFailure, ...] = ()) -> GalleryContents:
    return GalleryContents("images of <today>", entries, failures)


async def published(
    folder: Path, shown: GalleryContents, thumbnails: Mapping[str, bytes] | None = None
) -> list[Page]:
    async with await Destination.open(str(folder)) as destination:
        await destination.check_writable()
        earlier = await EarlierPages.read(destination, list(await destination.list()))
        names = await publish_gallery(destination, shown, thumbnails or {}, earlier)
    return [Page((folder / name).read_text()) for name in names]


async def test_an_image_with_a_thumbnail_and_one_without(tmp_path: Path) -> None:
    """Rule: links are relative; the thumbnail is in the page, or else the image itself is shown."""
    plate = GalleryEntry(
        title="plate", images=[image("plate-1.png", DIGEST), image("plate-2.png")],
        prompt="A banana on a plate", builds_on="sketch",
    )  # fmt: skip
    [page] = await published(tmp_path, contents(plate, landed("night")), {DIGEST: b"\xff\xd8small"})
    assert page.values("a", "href") == ["plate-1.png", "plate-2.png", "night.png"]
    first, second = page.values("img", "src")
    assert first
    assert first.startswith("data:image/jpeg;base64,")
    assert second == "night.png"
    assert "A banana on a plate" in page.text
    assert "made from sketch" in page.text
    assert "1024 × 768 · 1,500 kB" in page.text.replace("\u00a0", " ")


async def test_failures_come_first_with_their_reasons(tmp_path: Path) -> None:
    """Rule: what did not land is listed once, on the first page, before the images."""
    failed = GalleryFailure("row 4", "failed", "flagged for its content")
    many = [landed(f"image-{number}") for number in range(ENTRIES_PER_PAGE + 1)]
    first, second = await published(tmp_path, contents(*many, failures=(failed,)))
    assert first.text.index("flagged for its content") < first.text.index("image-0")
    assert "flagged" not in second.text
    assert "61 landed, 1 did not" in second.text


def test_thousands_of_failures_are_bounded() -> None:
    """Rule: a page lists a bounded number of failures, and says how many it leaves out."""
    failures = [GalleryFailure(f"row {n}", "failed", "no " * 1000) for n in range(MAX_FAILURES + 7)]
    page = render_page(GalleryContents("images", (), failures), {}, 0)
    assert len(Page(page).values("li", "class")) == MAX_FAILURES
    assert "And 7 more" in page
    assert len(page) < 1000 * MAX_FAILURES


async def test_text_of_strangers_is_only_text(tmp_path: Path) -> None:
    """Rule: a prompt, a reason or a name that holds HTML is shown, not obeyed."""
    evil = '<script src="https://evil.example/x.js"></script>"><img src=x onerror=alert(1)>'
    hostile = GalleryEntry(
        title=evil, images=[image("evil.png")], prompt=evil, builds_on=evil, status=evil
    )
    [page] = await published(
        tmp_path, contents(hostile, failures=(GalleryFailure(evil, evil, evil),))
    )
    assert page.text.count(evil) == 7
    assert page.values("img", "src") == ["evil.png"]
    assert page.values("img", "onerror") == [None]
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "main", "figure", "a", "img", "p",
        "figcaption", "strong", "small", "q", "details", "summary", "ul", "li",
    }  # fmt: skip


async def test_thousands_of_images_are_pages(tmp_path: Path) -> None:
    """Rule: a page holds a bounded number; all pages link to one another; a shorter one follows."""
    many = [landed(f"image-{number}") for number in range(2 * ENTRIES_PER_PAGE + 1)]
    pages = await published(tmp_path, contents(*many))
    assert [len(page.values("img", "src")) for page in pages] == [60, 60, 1]
    assert set(pages[0].values("a", "href")) >= {"index.html", "index-2.html", "index-3.html"}
    await published(tmp_path, contents(landed("alone")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html"]


def test_a_hundred_pages_are_a_line_of_links() -> None:
    """Rule: the links lead to the first, the last and the pages around."""
    many = GalleryContents("images", [landed("same")] * (100 * ENTRIES_PER_PAGE))
    page = Page(render_page(many, {}, 49))
    links = {href for href in page.values("a", "href") if href and href.endswith(".html")}
    assert links == {"index.html", "index-100.html", *(f"index-{n}.html" for n in range(47, 54))}


async def test_thumbnails_of_an_earlier_gallery_are_known(tmp_path: Path) -> None:
    """Rule: a thumbnail in a page is read from it, and belongs to that content only."""
    plate = GalleryEntry(title="plate", images=[image("plate.png", DIGEST)])
    await published(tmp_path, contents(plate), {DIGEST: b"\xff\xd8small"})
    async with await Destination.open(str(tmp_path)) as destination:
        earlier = await EarlierPages.read(destination, ["index.html", "plate.png"])
    assert earlier.thumbnails() == {DIGEST: b"\xff\xd8small"}


async def test_somebody_elses_page_is_not_replaced(tmp_path: Path) -> None:
    """Rule: an `index.html` that no gallery wrote stays, and is named."""
    (tmp_path / "index.html").write_text("<h1>My shop</h1>")
    with pytest.raises(DestinationError, match=r"index\.html is not a page of a gallery"):
        await published(tmp_path, contents(landed("plate")))
    assert (tmp_path / "index.html").read_text() == "<h1>My shop</h1>"


async def test_nothing_is_asked_of_other_hosts(tmp_path: Path) -> None:
    """Rule: no script, style, font or picture comes from elsewhere, and none would be loaded."""
    [page] = await published(tmp_path, contents(landed("plate")))
    text = (tmp_path / "index.html").read_text()
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert "default-src 'none'" in str(page.values("meta", "content"))
