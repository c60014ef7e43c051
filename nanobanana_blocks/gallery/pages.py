"""The gallery's pages, with no script and no server; what they show is found elsewhere.

Small thumbnails are part of the pages, so that these show something through a presigned URL too;
the links to the images are relative, so that a copy of the folder is a gallery of its own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.landing.receipt import ReceiptImage
from nanobanana_blocks.storage.destination import Destination

ENTRIES_PER_PAGE = 60
"""So that a page, its thumbnails included, stays below a megabyte."""

FIRST_PAGE = "index.html"
MAX_PROMPT_CHARACTERS = 400
MAX_REASON_CHARACTERS = 600
MAX_FAILURES = 200
"""How many failures the first page lists; the reports beside the images list all."""

PAGES_AT_ONCE = 8

_OTHER_PAGE = re.compile(r"index-[1-9][0-9]*\.html")
_GENERATOR = '<meta name="generator" content="nanobanana-blocks gallery">'
_THUMBNAIL = re.compile(rb'data-of="([0-9a-f]{64})" src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)"')


@dataclass(frozen=True)
class GalleryEntry:
    """A generation task, or a row, whose images are in storage.

    Attributes:
        title: Its name, or its task id.
        images: Its images in storage, by their names beside the gallery; at least one.
        prompt: The prompt, where the receipt keeps it.
        builds_on: The titles of the entries whose images it was made from, in a line.
        task_id: Its generation task.
        status: What a run has said of it, in a word or two.
    """

    title: str
    images: Sequence[ReceiptImage]
    prompt: str | None = None
    builds_on: str | None = None
    task_id: str = ""
    status: str = "landed"


@dataclass(frozen=True)
class GalleryFailure:
    """A row, or a generation task, that has no image.

    Attributes:
        title: What messages call it.
        status: What became of it, in a word or two: ``failed``, ``timed out``.
        reason: Why it did not land.
    """

    title: str
    status: str
    reason: str


@dataclass(frozen=True)
class GalleryContents:
    """What a gallery shows.

    Attributes:
        heading: What it is a gallery of.
        entries: What has landed.
        failures: What has not.
        unshown: How many more tasks there are in the folder.
    """

    heading: str
    entries: Sequence[GalleryEntry] = ()
    failures: Sequence[GalleryFailure] = ()
    unshown: int = 0

    def describe(self) -> str:
        """The counts in words: ``11 landed, 1 did not``."""
        landed = f"{len(self.entries):,} landed"
        return f"{landed}, {len(self.failures):,} did not" if self.failures else landed


class EarlierPages:
    """The pages of the gallery that is there already."""

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        self.names = list(pages)
        self._pages = pages

    @classmethod
    async def read(cls, destination: Destination, names: Sequence[str]) -> EarlierPages:
        """Read those of the files of a folder that are pages of a gallery.

        Raises:
            DestinationError: There is an ``index.html`` that is not a gallery's.
            StorageError: The storage failed.
        """
        found = [name for name in names if name == FIRST_PAGE or _OTHER_PAGE.fullmatch(name)]
        texts = await map_concurrently(destination.read, found, at_once=PAGES_AT_ONCE)
        pages = {name: text for name, text in zip(found, texts, strict=True) if text is not None}
        for name, text in pages.items():
            if _GENERATOR.encode() not in text:
                raise DestinationError(
                    f"{destination.path_of(name)} is not a page of a gallery, and is not replaced. "
                    "Move it, or make the gallery in a copy of the folder."
                )
        return cls(pages)

    def thumbnails(self) -> dict[str, bytes]:
        """The thumbnails in them, by the SHA-256 of their images."""
        return {
            digest.decode(): base64.b64decode(picture)
            for text in self._pages.values()
            for digest, picture in _THUMBNAIL.findall(text)
        }


async def publish_gallery(
    destination: Destination,
    contents: GalleryContents,
    thumbnails: Mapping[str, bytes],
    earlier: EarlierPages,
) -> list[str]:
    """Write the gallery's pages, the first as ``index.html``; return their names.

    Pages of an earlier, longer gallery are removed.

    Args:
        destination: Where the images are.
        contents: What is shown.
        thumbnails: Small JPEGs, by the SHA-256 of their images; an image without one is shown
            itself.
        earlier: The pages that are there already.

    Raises:
        DestinationError: Access is refused.
        StorageError: The storage failed.
    """
    names = page_names(len(contents.entries))

    async def publish(number: int) -> None:
        page = render_page(contents, thumbnails, number)
        await destination.publish(names[number], page.encode(), "text/html; charset=utf-8")

    await map_concurrently(publish, range(len(names)), at_once=PAGES_AT_ONCE)
    for name in set(earlier.names) - set(names):
        await destination.delete(name)
    return names


def page_names(entries: int) -> list[str]:
    """The file names of the pages that so many entries need; at least one."""
    pages = max(1, -(-entries // ENTRIES_PER_PAGE))
    return [FIRST_PAGE, *(f"index-{number}.html" for number in range(2, pages + 1))]


def render_page(contents: GalleryContents, thumbnails: Mapping[str, bytes], number: int) -> str:
    """Return page `number` (from 0) of a gallery as HTML; the first lists the failures."""
    names = page_names(len(contents.entries))
    first = number * ENTRIES_PER_PAGE
    entries = contents.entries[first : first + ENTRIES_PER_PAGE]
    nothing = "" if contents.failures else "<p>Nothing has landed here yet.</p>"
    unshown = f" {contents.unshown:,} more are in the folder." if contents.unshown else ""
    return _PAGE.format(
        generator=_GENERATOR,
        heading=escape(contents.heading),
        style=_STYLE,
        counts=f"<p>{contents.describe()}.{unshown}</p>",
        failures=_failures(contents.failures) if number == 0 else "",
        navigation=_navigation(number, names),
        figures="\n".join(_figure(entry, thumbnails) for entry in entries) or nothing,
    )


def _navigation(number: int, names: Sequence[str]) -> str:
    """Links to the first, the last and the pages around, so that a hundred pages take one line."""
    if len(names) == 1:
        return ""
    near = {0, len(names) - 1, *range(number - 3, number + 4)}
    links, before = [], -1
    for other in sorted(near & set(range(len(names)))):
        gap = "<span>…</span>" if other > before + 1 else ""
        here = " aria-current=page" if other == number else ""
        links.append(f'{gap}<a href="{names[other]}"{here}>{other + 1}</a>')
        before = other
    return f"<nav>Page {' '.join(links)}</nav>"


def _failures(failures: Sequence[GalleryFailure]) -> str:
    if not failures:
        return ""
    lines = "\n".join(
        f"<li><strong>{escape(failure.title)}</strong> <small>{escape(failure.status)}</small> "
        f"{escape(_shortened(failure.reason, MAX_REASON_CHARACTERS))}</li>"
        for failure in failures[:MAX_FAILURES]
    )
    rest = len(failures) - MAX_FAILURES
    more = (
        f"<p>And {rest:,} more, which the reports beside the images list.</p>" if rest > 0 else ""
    )
    opened = " open" if len(failures) <= 10 else ""
    return (
        f"<details{opened}><summary>{len(failures):,} did not land</summary>"
        f"<ul>{lines}</ul>{more}</details>"
    )


def _figure(entry: GalleryEntry, thumbnails: Mapping[str, bytes]) -> str:
    first = entry.images[0]
    lines = [
        f"<strong>{escape(entry.title)}</strong>",
        f"<small>{escape(entry.status)} · {first.width}\u00a0×\u00a0{first.height} · "
        f"{first.size / 1000:,.0f}\u00a0kB{_others(entry.images)}</small>",
    ]
    if entry.builds_on:
        lines.append(f"<small>made from {escape(entry.builds_on)}</small>")
    if entry.prompt:
        lines.append(f"<q>{escape(_shortened(entry.prompt, MAX_PROMPT_CHARACTERS))}</q>")
    caption = "\n".join(lines)
    return f"<figure>{_picture(entry, thumbnails)}<figcaption>{caption}</figcaption></figure>"


def _picture(entry: GalleryEntry, thumbnails: Mapping[str, bytes]) -> str:
    first = entry.images[0]
    source = f'src="{escape(first.name)}"'
    if thumbnail := thumbnails.get(first.sha256):
        inside = base64.b64encode(thumbnail).decode()
        source = f'data-of="{first.sha256}" src="data:image/jpeg;base64,{inside}"'
    return (
        f'<a href="{escape(first.name)}"><img {source} alt="{escape(entry.title)}" loading="lazy" '
        f'width="{first.width}" height="{first.height}"></a>'
    )


def _others(images: Sequence[ReceiptImage]) -> str:
    links = " ".join(
        f'<a href="{escape(image.name)}">{place}</a>' for place, image in enumerate(images[1:], 2)
    )
    return f" · also {links}" if links else ""


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 90rem; padding: 0 1.5rem; }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
h1 + p { color: #888; margin: .2rem 0 1rem; }
main { align-items: start; display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); }
figure { border: 1px solid #8884; border-radius: .5rem; margin: 0; overflow: hidden; }
img { aspect-ratio: 1; background: #8881; display: block; height: auto; object-fit: contain;
  width: 100%; }
figcaption { display: grid; gap: .15rem; overflow-wrap: anywhere; padding: .6rem .75rem; }
small { color: #888; } q { font-size: .85rem; quotes: none; }
details { border: 1px solid #c338; border-radius: .5rem; margin: 0 0 1.25rem; padding: .6rem 1rem; }
summary { color: #c33; cursor: pointer; font-weight: bold; }
details ul { margin: .5rem 0 0; padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
a { color: inherit; } nav { display: flex; flex-wrap: wrap; gap: .2rem; margin: 1rem 0; }
nav a { border-radius: .3rem; padding: 0 .5rem; } nav a[aria-current] { background: #8883; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{generator}
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src 'self' data: file:; style-src 'unsafe-inline'">
<title>{heading}</title>
<style>{style}</style>
</head>
<body>
<h1>{heading}</h1>
{counts}
{failures}
{navigation}
<main>
{figures}
</main>
{navigation}
</body>
</html>
"""
