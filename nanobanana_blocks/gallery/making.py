"""Makes the gallery of a folder; of a batch that ends, within a bound and failing nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import anyio
from pydantic import BaseModel

from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.concurrency import Log, describe_crash
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.gallery.contents import read_contents
from nanobanana_blocks.gallery.pages import EarlierPages, publish_gallery
from nanobanana_blocks.gallery.thumbnails import thumbnails_of
from nanobanana_blocks.landing.lander import Lander
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.words import counted

MAX_READ = 600
"""How many images are read for their thumbnails: ten pages of them. Others are shown themselves."""

READ_SECONDS = 600.0
BATCH_READ_SECONDS = 10.0
BATCH_SECONDS = 60.0
"""How long a batch that has ended waits for its gallery."""


class GalleryReport(BaseModel):
    """What a gallery shows: its first page, how many pages, tasks and failures, and what it omits.

    `unshown` counts the tasks in the folder that are beyond its bounds.
    """

    path: str
    pages: int
    tasks: int
    failures: int
    unshown: int

    def describe(self) -> str:
        """In a line: ``120 tasks, 2 failures, 3 pages``."""
        parts = [counted(self.tasks, "task"), counted(self.failures, "failure")]
        parts.append(counted(self.pages, "page"))
        if self.unshown:
            parts.append(f"{self.unshown:,} more tasks are not shown")
        return ", ".join(parts)


async def make_gallery(
    destination: Destination,
    report: BatchReport | None = None,
    thumbnails: Mapping[str, bytes] | None = None,
    *,
    read_seconds: float = READ_SECONDS,
    on_read: Callable[[], None] = lambda: None,
) -> GalleryReport:
    """Write a folder's gallery from the receipts and reports in it.

    Args:
        destination: Where the images are; its caller closes it.
        report: A batch that has just ended, whose receipts need not be read.
        thumbnails: Those at hand, by task id.
        read_seconds: For how long images are read, for thumbnails of them.
        on_read: Called after each image that was read.

    Raises:
        DestinationError: There is an ``index.html`` that is not a gallery's, or access is refused.
        StorageError: The storage failed.
    """
    sizes = await destination.list()
    earlier = await EarlierPages.read(destination, list(sizes))
    contents = await read_contents(destination, sizes, report)
    images = {entry.task_id: entry.images[0] for entry in contents.entries}
    at_hand = await asyncio.to_thread(earlier.thumbnails)
    at_hand |= {
        images[task_id].sha256: picture
        for task_id, picture in (thumbnails or {}).items()
        if task_id in images
    }
    firsts = [entry.images[0] for entry in contents.entries]
    unread = [image for image in firsts if image.sha256 not in at_hand]
    read = await thumbnails_of(
        unread[:MAX_READ], {}, destination, read_seconds=read_seconds, on_read=on_read
    )
    names = await publish_gallery(destination, contents, at_hand | read, earlier)
    return GalleryReport(
        path=destination.path_of(names[0]),
        pages=len(names),
        tasks=len(contents.entries),
        failures=len(contents.failures),
        unshown=contents.unshown,
    )


async def make_gallery_of_batch(
    report: BatchReport, landing: Lander, log: Log, *, seconds: float = BATCH_SECONDS
) -> str | None:
    """Write the gallery at the end of a batch; that it cannot be written is logged, never raised.

    Args:
        report: What became of the batch.
        landing: What landed its images.
        log: Where it is told.
        seconds: For how long it is tried.

    Returns:
        Its first page, if it was written.
    """
    # Where prompts are kept, the receipts have them.
    known = None if landing.keeps_prompts else report
    try:
        with anyio.fail_after(seconds):
            made = await make_gallery(
                landing.destination, known, landing.thumbnails, read_seconds=BATCH_READ_SECONDS
            )
    except NanoBananaError as error:
        log.warning("Could not write the gallery; continuing: %s", error)
    except Exception as error:  # whatever it is, the images have landed
        log.warning("Could not write the gallery; continuing: %s", describe_crash(error))
    else:
        log.info("Gallery: %s", made.path)
        return made.path
    return None
