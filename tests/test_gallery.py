"""The gallery: static pages that show a folder of images and cannot be made to do anything else."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.gallery import ENTRIES_PER_PAGE, GalleryEntry, publish_gallery
from nanobanana_blocks.landing.receipt import ReceiptImage
from nanobanana_blocks.storage.destination import Destination


class Page(HTMLParser):
    """The tags and texts of a page, as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, attribute: str) -> list[str | None]:
        return [attributes.get(attribute) for name, attributes in self.tags if name == tag]


def image(name: str) -> ReceiptImage:
    return ReceiptImage(
        name=name, media_type="image/png", size=1_500_000, width=1024, height=768, sha256="0" * 64
    )


def landed(title: str) -> GalleryEntry:
    return GalleryEntry(title=title, status="landed", images=[image(f"{title}.png")])


async def published(folder: Path, *entries: GalleryEntry) -> list[Page]:
    destination = await Destination.open(str(folder))
    async with destination:
        await destination.check_writable()
        names = await publish_gallery(destination, entries, "images of <today>")
    return [Page((folder / name).read_text()) for name in names]


async def test_an_image_with_a_thumbnail_and_one_without(tmp_path: Path) -> None:
    """Rule: links are relative; the thumbnail is in the page, or else the image itself is shown."""
    with_one = GalleryEntry(
        title="plate", status="landed", images=[image("plate-1.png"), image("plate-2.png")],
        thumbnail=b"\xff\xd8small", prompt="A banana on a plate",
    )  # fmt: skip
    [page] = await published(tmp_path, with_one, landed("night"))
    assert page.values("a", "href") == ["plate-1.png", "plate-2.png", "night.png"]
    first, second = page.values("img", "src")
    assert first
    assert first.startswith("data:image/jpeg;base64,")
    assert second == "night.png"
    assert "A banana on a plate" in page.text
    assert "1024 × 768, 1,500 kB" in page.text


async def test_a_failure_is_shown_with_its_reason(tmp_path: Path) -> None:
    """Rule: what did not land has its place, and says why."""
    failed = GalleryEntry(title="row 4", status="failed", reason="flagged for its content")
    [page] = await published(tmp_path, failed)
    assert "flagged for its content" in page.text
    assert page.values("img", "src") == []


async def test_text_of_strangers_is_only_text(tmp_path: Path) -> None:
    """Rule: a prompt, a reason or a name that holds HTML is shown, not obeyed."""
    evil = '<script src="https://evil.example/x.js"></script>"><img src=x onerror=alert(1)>'
    hostile = GalleryEntry(title=evil, status=evil, prompt=evil, reason=evil, builds_on=evil)
    [page] = await published(tmp_path, hostile)
    assert page.text.count(evil) == 5
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "main", "figure", "div",
        "figcaption", "strong", "small", "em", "q",
    }  # fmt: skip


async def test_thousands_of_images_are_pages(tmp_path: Path) -> None:
    """Rule: a page holds a bounded number; all pages link to one another; a shorter one follows."""
    many = [landed(f"image-{number}") for number in range(2 * ENTRIES_PER_PAGE + 1)]
    pages = await published(tmp_path, *many)
    assert [len(page.values("img", "src")) for page in pages] == [60, 60, 1]
    assert set(pages[0].values("a", "href")) >= {"index.html", "index-2.html", "index-3.html"}
    await published(tmp_path, landed("alone"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html"]


async def test_somebody_elses_page_is_not_replaced(tmp_path: Path) -> None:
    """Rule: an `index.html` that no gallery wrote stays, and is named."""
    (tmp_path / "index.html").write_text("<h1>My shop</h1>")
    with pytest.raises(DestinationError, match=r"index\.html is not a page of a gallery"):
        await published(tmp_path, landed("plate"))
    assert (tmp_path / "index.html").read_text() == "<h1>My shop</h1>"
