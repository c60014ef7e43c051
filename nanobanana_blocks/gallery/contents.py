"""What a folder's gallery shows: its receipts and, of batches, the rows that did not land."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from nanobanana_blocks.batches.report import REPORT_SUFFIX, BatchReport, RowOutcome
from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.gallery.pages import GalleryContents, GalleryEntry, GalleryFailure
from nanobanana_blocks.landing import Receipt, ReceiptImage, read_receipt, receipt_name
from nanobanana_blocks.references import ROW
from nanobanana_blocks.storage.destination import Destination

MAX_ENTRIES = 6000
"""A hundred pages. Of what is beyond them only the number is told."""

MAX_REPORTS = 50
MAX_BUILT_ON = 4
READ_AT_ONCE = 16


async def read_contents(
    destination: Destination,
    sizes: Mapping[str, int],
    report: BatchReport | None = None,
    *,
    max_entries: int = MAX_ENTRIES,
) -> GalleryContents:
    """Read what is in a folder: rows of batches in their order, newest batch first, then others.

    Args:
        destination: The folder; its caller closes it.
        sizes: Its files, as it lists them.
        report: A batch that has just ended: the receipts of its rows are not read again.
        max_entries: How many tasks there may be.

    Raises:
        DestinationError: A file cannot be read.
        StorageError: Likewise, where trying again may help.
    """
    reports = await _read_reports(destination, sizes, report)
    rows: dict[str, RowOutcome] = {}
    for row in (row for each in reports for row in each.outcomes):
        rows.setdefault(_receipt_of(row), row)
    entries = _entries_of(report) if report else {}
    names = [name for name in sizes if name.endswith(".json")]
    unread = [name for name in names if name not in entries]
    taken = unread[: max(0, max_entries - len(entries))]
    receipts = await _read_receipts(destination, taken)
    entries |= {name: _entry_of(name, found, rows.get(name)) for name, found in receipts.items()}
    whole = {name: each for name, each in entries.items() if _is_there(each.images, sizes)}
    shown = _in_order(whole, rows, receipts)[:max_entries]
    return GalleryContents(
        heading=f"Images in {destination.path}",
        entries=shown,
        failures=[
            *(_failure_of(row) for name, row in rows.items() if name not in entries),
            *(_lost(each) for name, each in entries.items() if name not in whole),
        ],
        unshown=len(whole) - len(shown) + len(unread) - len(taken),
    )


async def _read_reports(
    destination: Destination, sizes: Mapping[str, int], newest: BatchReport | None
) -> list[BatchReport]:
    """The reports of batches in a folder, the newest first."""
    names = [name for name in sizes if name.endswith(REPORT_SUFFIX)][:MAX_REPORTS]
    found = [newest] if newest else []
    for data in await map_concurrently(destination.read, names, at_once=READ_AT_ONCE):
        try:
            read = BatchReport.model_validate_json(data or b"")
        except ValidationError:
            continue
        if newest is None or read.manifest != newest.manifest:
            found.append(read)
    return sorted(found, key=lambda each: each.started_at, reverse=True)


async def _read_receipts(destination: Destination, names: Sequence[str]) -> dict[str, Receipt]:
    texts = await map_concurrently(destination.read, names, at_once=READ_AT_ONCE)
    found = {name: read_receipt(text or b"") for name, text in zip(names, texts, strict=True)}
    return {name: receipt for name, receipt in found.items() if receipt}


def _in_order(
    entries: Mapping[str, GalleryEntry],
    rows: Mapping[str, RowOutcome],
    receipts: Mapping[str, Receipt],
) -> list[GalleryEntry]:
    """The rows of batches in their order, then what landed last."""
    others = [name for name in entries if name not in rows]
    others.sort(key=lambda name: receipts[name].landed_at or _LONG_AGO, reverse=True)
    return [entries[name] for name in [*(name for name in rows if name in entries), *others]]


def _entries_of(report: BatchReport) -> dict[str, GalleryEntry]:
    """What a batch has landed, as its report tells, by the names of the receipts."""
    titles = {row.row: row.name or row.task_id for row in report.outcomes}
    return {
        _receipt_of(row): GalleryEntry(
            title=row.name or row.task_id,
            images=[image.as_recorded() for image in row.images],
            task_id=row.task_id,
            status=_status(row.missing_images),
            builds_on=_listed([titles[number] for number in row.builds_on if number in titles]),
        )
        for row in report.outcomes
        if row.in_storage and row.images
    }


def _entry_of(name: str, receipt: Receipt, row: RowOutcome | None) -> GalleryEntry:
    by_id = receipt_name(receipt.task_id) == name
    title = receipt.task_id if by_id else name.removesuffix(".json")
    return GalleryEntry(
        title=(row and row.name) or title,
        images=receipt.images,
        prompt=receipt.prompt,
        task_id=receipt.task_id,
        status=_status(receipt.images_asked_for - len(receipt.images)),
        builds_on=_listed(_rows_built_on(receipt)),
    )


def _rows_built_on(receipt: Receipt) -> list[str]:
    """What a receipt calls the rows whose images its own were made from."""
    references = (receipt.provenance and receipt.provenance.references) or ()
    return [each.source.removeprefix(ROW) for each in references if each.source.startswith(ROW)]


def _listed(titles: Sequence[str]) -> str | None:
    more = f" and {len(titles) - MAX_BUILT_ON} more" if len(titles) > MAX_BUILT_ON else ""
    return f"{', '.join(titles[:MAX_BUILT_ON])}{more}" if titles else None


def _status(missing_images: int) -> str:
    return f"landed, {missing_images} fewer than asked for" if missing_images > 0 else "landed"


def _failure_of(row: RowOutcome) -> GalleryFailure:
    if row.error is None:
        return GalleryFailure(row.label, "gone", _GONE)
    return GalleryFailure(row.label, row.status.value.replace("_", " "), row.error.message)


def _lost(entry: GalleryEntry) -> GalleryFailure:
    return GalleryFailure(entry.title, "gone", _GONE)


def _receipt_of(row: RowOutcome) -> str:
    """The name of a row's receipt; of a row that was never submitted, one that no file has."""
    return receipt_name(row.name or row.task_id) if row.name or row.task_id else f"/{row.key}"


def _is_there(images: Sequence[ReceiptImage], sizes: Mapping[str, int]) -> bool:
    return all(image.name in sizes for image in images)


_GONE = "it has landed, and its files are not there any more; `nanobanana verify` tells which."
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
