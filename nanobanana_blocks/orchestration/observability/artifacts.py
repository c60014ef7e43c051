"""What a person sees of a landing in the Prefect UI: progress, a table, a sheet of thumbnails.

Nothing here can fail or delay a landing: an artifact that cannot be written is logged and left out.
"""

from __future__ import annotations

import asyncio
import base64
import io
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import httpx
from PIL import Image, ImageDraw, ImageFont
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from nanobanana_blocks.batches.report import BatchReport, RowOutcome
from nanobanana_blocks.concurrency import background_task
from nanobanana_blocks.landing.report import LandingOutcome, LandingReport

PROGRESS_KEY = "nanobanana-progress"
OUTCOMES_KEY = "nanobanana-outcomes"
CONTACT_SHEET_KEY = "nanobanana-contact-sheet"
SUMMARY_KEY = "nanobanana-batch"

PROGRESS_SECONDS = 2.0
MAX_ROWS = 2000
COLUMNS = 6
TILE, CAPTION, GAP = 160, 18, 8
SHEET_BYTES = 400_000


@asynccontextmanager
async def showing_progress(
    total: int, settled: Callable[[], int], what: str = "Generation tasks"
) -> AsyncIterator[None]:
    """Keep a progress artifact up to date while what `settled` counts approaches `total`."""
    progress = _Progress(total, settled, what)
    try:
        async with background_task(progress.follow()):
            yield
    finally:
        await progress.show()


class _Progress:
    def __init__(self, total: int, settled: Callable[[], int], what: str) -> None:
        self._total = total
        self._settled = settled
        self._what = what
        self._artifact: UUID | None = None
        self._shown = -1

    async def follow(self) -> None:
        while True:
            await self.show()
            await asyncio.sleep(PROGRESS_SECONDS)

    async def show(self) -> None:
        done = self._settled()
        if done == self._shown:
            return
        self._shown = done
        percent = math.floor(1000 * done / self._total) / 10
        with _going_on_without("the progress artifact"):
            if self._artifact is None:
                self._artifact = await acreate_progress_artifact(
                    percent,
                    key=PROGRESS_KEY,
                    description=f"{self._what} settled, of {self._total:,}.",
                )
            else:
                await aupdate_progress_artifact(self._artifact, percent)


async def publish_report(report: LandingReport, thumbnails: dict[str, bytes]) -> None:
    """Write the table of all outcomes and, if there are thumbnails, the contact sheet."""
    with _going_on_without("the table of outcomes"):
        await acreate_table_artifact(
            outcome_rows(report), key=OUTCOMES_KEY, description=_describe_table(report)
        )
    if thumbnails:
        with _going_on_without("the contact sheet"):
            sheet = await asyncio.to_thread(draw_contact_sheet, thumbnails)
            picture = base64.b64encode(sheet).decode()
            await acreate_markdown_artifact(
                f"![The images landed](data:image/jpeg;base64,{picture})\n\n"
                f"{report.describe()}, in `{report.destination}`.",
                key=CONTACT_SHEET_KEY,
                description=f"The first images of {len(thumbnails)} of the tasks landed.",
            )


async def publish_batch_report(report: BatchReport, thumbnails: dict[str, bytes]) -> None:
    """Write the summary of a batch, and what `publish_report` writes."""
    with _going_on_without("the summary of the batch"):
        await acreate_markdown_artifact(
            summary_of(report), key=SUMMARY_KEY, description=f"{report.describe()}."
        )
    names = {outcome.task_id: outcome.name or outcome.task_id for outcome in report.outcomes}
    named = {names.get(task_id, task_id): picture for task_id, picture in thumbnails.items()}
    await publish_report(report, named)


def summary_of(report: BatchReport) -> str:
    """A batch in a few lines of Markdown: what did not land and why, and what was spent."""
    paragraphs = [
        f"{report.rows:,} rows of `{report.manifest}` in `{report.destination}`; "
        f"{report.submitted:,} submitted by this run, for about {report.credits_estimated:,} "
        "credits (estimated)."
    ]
    if report.failures:
        examples = {o.error.class_name: o for o in reversed(report.not_landed) if o.error}
        paragraphs += [
            f"**{class_name}**, {count:,} {'row' if count == 1 else 'rows'}. For example "
            f"{examples[class_name].label}: {examples[class_name].describe()}"
            for class_name, count in report.failures.items()
        ]
        paragraphs.append(
            "Running again does only what is missing. Rows that were refused, failed for good or "
            "are unconfirmed are submitted again only where `retry` holds their kind."
        )
    if changed := [outcome.row for outcome in report.outcomes if outcome.changed]:
        paragraphs.append(
            f"{len(changed):,} rows have changed since they were submitted and were left as they "
            f"are: {', '.join(map(str, changed[:20]))}{' …' if len(changed) > 20 else ''}."
        )
    return "\n\n".join(paragraphs)


def outcome_rows(report: LandingReport) -> list[dict[str, str | int | float]]:
    """The table of outcomes, what did not land first; `MAX_ROWS` at most."""
    ordered = sorted(report.outcomes, key=lambda outcome: outcome.in_storage)
    return [_row(outcome) for outcome in ordered[:MAX_ROWS]]


def _row(outcome: LandingOutcome) -> dict[str, str | int | float]:
    happened = f"{outcome.error.class_name}: {outcome.error.message}" if outcome.error else ""
    if outcome.missing_images and not outcome.error:
        happened = f"{outcome.missing_images} images fewer than asked for"
    row: dict[str, str | int | float] = {}
    if isinstance(outcome, RowOutcome):
        row = {"row": outcome.row, "name": outcome.name or ""}
    return row | {
        "status": outcome.status.value.replace("_", " "),
        "task": outcome.task_id,
        "what happened": happened,
        "images": ", ".join(image.path.rpartition("/")[2] for image in outcome.images),
        "pixels": ", ".join(f"{image.width}×{image.height}" for image in outcome.images),
        "kB": round(sum(image.size for image in outcome.images) / 1000),
        "waited (s)": round(outcome.waited_seconds, 1),
        "polls": outcome.polls,
    }


def _describe_table(report: LandingReport) -> str:
    shown = len(report.outcomes)
    part = f" The first {MAX_ROWS:,} of {shown:,} rows." if shown > MAX_ROWS else ""
    return f"{report.describe()}, in {report.destination}.{part}"


def draw_contact_sheet(thumbnails: dict[str, bytes]) -> bytes:
    """Draw the thumbnails with the ends of their names as one JPEG of `SHEET_BYTES` at most."""
    rows = math.ceil(len(thumbnails) / COLUMNS)
    columns = min(COLUMNS, len(thumbnails))
    pitch_x, pitch_y = TILE + GAP, TILE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * pitch_x + GAP, rows * pitch_y + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for position, (task_id, thumbnail) in enumerate(thumbnails.items()):
        left = GAP + position % columns * pitch_x
        top = GAP + position // columns * pitch_y
        with Image.open(io.BytesIO(thumbnail)) as picture:
            picture.thumbnail((TILE, TILE))
            corner = (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2)
            sheet.paste(picture, corner)
        label = task_id if len(task_id) <= 20 else f"…{task_id[-18:]}"
        pen.text((left + TILE / 2, top + TILE + 2), label, "black", font, anchor="ma")
    return _as_jpeg(sheet)


def _as_jpeg(sheet: Image.Image) -> bytes:
    for quality in (80, 65, 50, 35, 20):
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= SHEET_BYTES:
            break
    return buffer.getvalue()


@contextmanager
def _going_on_without(artifact: str) -> Iterator[None]:
    try:
        yield
    except (PrefectException, httpx.HTTPError, OSError) as error:
        get_run_logger().warning("Going on without %s: %s", artifact, type(error).__name__)
