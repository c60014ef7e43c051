"""A gallery of a destination: static HTML pages beside the images, with no script and no server.

Small thumbnails are part of the pages, so that these show something through a presigned URL too;
the links to the images are relative, so that a copy of the folder is a gallery of its own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nanobanana_blocks.concurrency import run_concurrently
from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.landing.receipt import ReceiptImage
from nanobanana_blocks.storage.destination import Destination

ENTRIES_PER_PAGE = 60
"""So that a page, its thumbnails included, stays below a megabyte."""

FIRST_PAGE = "index.html"
MAX_PROMPT_CHARACTERS = 400

_OTHER_PAGE = re.compile(r"index-[1-9][0-9]*\.html")
_GENERATOR = '<meta name="generator" content="nanobanana-blocks gallery">'


@dataclass(frozen=True)
class GalleryEntry:
    """A generation task, or a row, as the gallery shows it.

    Attributes:
        title: Its name, or its task id.
        status: What became of it, in a word or two: ``landed``, ``failed``.
        images: Its images in storage, by their names beside the gallery.
        thumbnail: A small JPEG of the first image.
        prompt: The prompt, where the receipt keeps it.
        reason: Why it did not land.
        builds_on: The title of the entry whose image it was made from.
    """

    title: str
    status: str
    images: Sequence[ReceiptImage] = ()
    thumbnail: bytes | None = None
    prompt: str | None = None
    reason: str | None = None
    builds_on: str | None = None


async def publish_gallery(
    destination: Destination, entries: Sequence[GalleryEntry], heading: str
) -> list[str]:
    """Write the gallery's pages, the first as ``index.html``; return their names.

    Pages of an earlier, longer gallery are removed.

    Raises:
        DestinationError: There is an ``index.html`` that is not a gallery's, or access is refused.
        StorageError: The storage failed.
    """
    names = page_names(len(entries))
    earlier = [
        name
        for name in await destination.list()
        if name == FIRST_PAGE or _OTHER_PAGE.fullmatch(name)
    ]
    for name in earlier:
        if _GENERATOR.encode() not in (await destination.read(name) or b""):
            raise DestinationError(
                f"{destination.path_of(name)} is not a page of a gallery, and is not replaced. "
                "Move it, or make the gallery in a copy of the folder."
            )

    async def publish(number: int, name: str) -> None:
        first = number * ENTRIES_PER_PAGE
        page = render_page(entries[first : first + ENTRIES_PER_PAGE], heading, number, names)
        await destination.publish(name, page.encode(), "text/html; charset=utf-8")

    await run_concurrently(publish(number, name) for number, name in enumerate(names))
    for name in set(earlier) - set(names):
        await destination.delete(name)
    return names


def page_names(entries: int) -> list[str]:
    """The file names of the pages that so many entries need; at least one."""
    pages = max(1, -(-entries // ENTRIES_PER_PAGE))
    return [FIRST_PAGE, *(f"index-{number}.html" for number in range(2, pages + 1))]


def render_page(
    entries: Sequence[GalleryEntry], heading: str, number: int, names: Sequence[str]
) -> str:
    """Return page `number` (from 0) of those that `names` lists, as HTML."""
    pages = " ".join(
        f'<a href="{name}"{" aria-current=page" if other == number else ""}>{other + 1}</a>'
        for other, name in enumerate(names)
    )
    navigation = f"<nav>Page {pages}</nav>" if len(names) > 1 else ""
    return _PAGE.format(
        generator=_GENERATOR,
        heading=escape(heading),
        style=_STYLE,
        navigation=navigation,
        figures="\n".join(map(_figure, entries)) or "<p>Nothing has landed here yet.</p>",
    )


def _figure(entry: GalleryEntry) -> str:
    lines = [f"<strong>{escape(entry.title)}</strong>", _status(entry)]
    if entry.builds_on:
        lines.append(f"<small>made from {escape(entry.builds_on)}</small>")
    if entry.reason:
        lines.append(f"<em>{escape(entry.reason)}</em>")
    if entry.prompt:
        lines.append(f"<q>{escape(_shortened(entry.prompt))}</q>")
    caption = "\n".join(lines)
    return f"<figure>{_picture(entry)}<figcaption>{caption}</figcaption></figure>"


def _picture(entry: GalleryEntry) -> str:
    if not entry.images:
        return '<div class="none">no image</div>'
    first, *others = entry.images
    source = escape(first.name)
    if entry.thumbnail:
        source = f"data:image/jpeg;base64,{base64.b64encode(entry.thumbnail).decode()}"
    shown = (
        f'<a href="{escape(first.name)}"><img src="{source}" alt="{escape(entry.title)}" '
        f'loading="lazy" width="{first.width}" height="{first.height}"></a>'
    )
    more = " ".join(
        f'<a href="{escape(image.name)}">{place}</a>' for place, image in enumerate(others, 2)
    )
    return shown + (f"<p>also {more}</p>" if more else "")


def _status(entry: GalleryEntry) -> str:
    sizes = ", ".join(
        f"{image.width} × {image.height}, {image.size / 1000:,.0f} kB" for image in entry.images[:1]
    )
    kind = "bad" if entry.reason else "good"
    return f'<small class="{kind}">{escape(entry.status)}</small> <small>{sizes}</small>'


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_PROMPT_CHARACTERS else f"{text[:MAX_PROMPT_CHARACTERS]}…"


_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
main { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
figure { border: 1px solid #8884; border-radius: .5rem; margin: 0; overflow: hidden; }
img, .none { aspect-ratio: 1; background: #8881; display: grid; height: auto; object-fit: contain;
  place-items: center; width: 100%; }
figure p { margin: .4rem .6rem 0; }
figcaption { display: grid; gap: .2rem; overflow-wrap: anywhere; padding: .6rem; }
q { color: #888; font-size: .85rem; }
.bad, em { color: #c33; } .good { color: #2a7; }
nav { margin: 1rem 0; } nav a { padding: .1rem .4rem; } nav a[aria-current] { font-weight: bold; }
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
{navigation}
<main>
{figures}
</main>
{navigation}
</body>
</html>
"""
