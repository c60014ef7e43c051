"""The command that lists what has landed in a folder, from its receipts; no key is needed."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size

from nanobanana_blocks.cli.options import AsJson, StorageOptions, find_place
from nanobanana_blocks.cli.output import (
    ending_well,
    print_if_nothing_landed,
    print_message,
    show_log,
)
from nanobanana_blocks.cli.progress import Progress
from nanobanana_blocks.landing import Provenance, Receipt
from nanobanana_blocks.landing.history import History, read_history
from nanobanana_blocks.landing.sidecars import SidecarReport, write_sidecars
from nanobanana_blocks.landing.xmp import SidecarNaming
from nanobanana_blocks.words import counted

HEADINGS = ("LANDED (UTC)", "FILE", "PIXELS", "MADE BY", "CREDITS", "FROM", "ROW", "PROMPT")
MAX_CELLS = 32
"""How wide a column is at most, but for the last."""

CSV_COLUMNS = (
    "landed_at",
    "file",
    "media_type",
    "size",
    "width",
    "height",
    "sha256",
    "task_id",
    "endpoint",
    "operation_type",
    "options",
    "references",
    "credits_estimated",
    "row_key",
    "row",
    "manifest",
    "manifest_digest",
    "flow_run",
    "alternative_prompt",
    "prompt",
)


def history(
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DEST", help="Folder, fsspec URL or saved ImageStore block with the images."
        ),
    ],
    xmp: Annotated[
        bool, typer.Option("--xmp", help="Also write an XMP sidecar beside each image.")
    ] = False,
    xmp_naming: Annotated[
        SidecarNaming, typer.Option(help="plate.xmp (replace) or plate.png.xmp (append).")
    ] = SidecarNaming.REPLACE,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line an image.")] = False,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """List what has landed in a folder, the oldest first, and what made it.

    It is read from the receipts. --xmp writes the same facts for photo tools into files beside the
    images, plate.xmp for plate.png; images, and files of other programs, are left as they are.
    """
    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    show_log()
    read = 0

    def count() -> None:
        nonlocal read
        read += 1

    async def run() -> None:
        place = await find_place(destination, storage_option)
        progress = Progress("History")
        progress.waits = lambda: f"{counted(read, 'file')} read" if read else ""
        async with await place.location.open() as folder:
            with tempfile.TemporaryFile() as kept:
                with progress.shown():
                    found = await read_history(folder, kept, count)
                    sidecars = await write_sidecars(folder, found, xmp_naming) if xmp else None
                if as_json:
                    _print_json(found, folder.path, sidecars)
                elif as_csv:
                    _print_csv(found)
                else:
                    _print_table(found)
            print_message(_summary(found, folder.path))
            print_if_nothing_landed(len(found) + found.unreadable, folder.path)
            if sidecars:
                print_message(sidecars.describe())

    with ending_well(as_json=as_json):
        asyncio.run(run())


def _summary(found: History, path: str) -> str:
    unreadable = (
        f", {counted(found.unreadable, 'receipt')} cannot be read" if found.unreadable else ""
    )
    return f"{counted(len(found), 'task')}, {counted(found.images, 'image')}{unreadable}, in {path}"


def _record(name: str, receipt: Receipt) -> dict[str, Any]:
    return {"receipt": name} | receipt.model_dump(mode="json", exclude_none=True)


def _print_json(found: History, path: str, sidecars: SidecarReport | None) -> None:
    """One JSON value, printed receipt by receipt."""
    head: dict[str, Any] = {"destination": path, "unreadable": found.unreadable}
    if sidecars:
        head["sidecars"] = sidecars.model_dump()
    typer.echo(json.dumps(head)[:-1] + ', "landed": [', nl=False)
    for number, (name, receipt) in enumerate(found):
        typer.echo(("," if number else "") + "\n  " + json.dumps(_record(name, receipt)), nl=False)
    typer.echo("\n]}")


def _print_csv(found: History) -> None:
    rows = csv.DictWriter(sys.stdout, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for _, receipt in found:
        for line in _csv_lines(receipt):
            rows.writerow(line)


def _csv_lines(receipt: Receipt) -> Iterator[dict[str, Any]]:
    """A line for each image; what the task costs is in the first, so that it can be added up."""
    made = receipt.provenance or Provenance()
    facts = receipt.model_dump(mode="json") | made.model_dump(mode="json", exclude={"prompt"})
    facts["options"] = json.dumps(made.options) if made.options else None
    references = [each.model_dump(exclude_none=True) for each in made.references or ()]
    facts["references"] = json.dumps(references) if references else None
    for number, image in enumerate(receipt.images):
        if number:
            facts["credits_estimated"] = None
        yield facts | image.model_dump() | {"file": image.name}


def _print_table(found: History) -> None:
    """A line for each task; on a terminal it is cut to the width, elsewhere whole."""
    if not len(found):
        return
    widths = [cell_len(heading) for heading in HEADINGS]
    for _, receipt in found:
        sizes = map(cell_len, _cells(receipt))
        widths = [max(pair) for pair in zip(widths, sizes, strict=True)]
    widths[:-1] = [min(width, MAX_CELLS) for width in widths[:-1]]
    across = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo(_line(HEADINGS, widths, across))
    for _, receipt in found:
        typer.echo(_line(_cells(receipt), widths, across))


def _line(cells: tuple[str, ...], widths: list[int], across: int | None) -> str:
    *first, last = zip(cells, widths, strict=True)
    line = "  ".join([*(fitted(cell, width) for cell, width in first), last[0]]).rstrip()
    if across is None or cell_len(line) <= across:
        return line
    return f"{set_cell_size(line, across - 1)}…"


def fitted(text: str, width: int) -> str:
    """The text in so many cells of a terminal, its middle left out where it is longer."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    end = text[-(width // 3) :]
    while cell_len(end) > width // 2:
        end = end[1:]
    return f"{set_cell_size(text, width - 1 - cell_len(end))}…{end}"


def _first(texts: list[str]) -> str:
    """The first of several, and how many more there are."""
    return " ".join([*texts[:1], *([f"+{len(texts) - 1}"] if len(texts) > 1 else [])])


def _cells(receipt: Receipt) -> tuple[str, ...]:
    made = receipt.provenance or Provenance()
    image = receipt.images[0]
    options = made.options or {}
    asked = (options.get(name) for name in ("resolution", "aspectRatio", "image_size"))
    maker = made.endpoint or receipt.operation_type or ""
    sources = [each.source for each in made.references or ()]
    cells = (
        f"{receipt.landed_at:%Y-%m-%d %H:%M}" if receipt.landed_at else "",
        _first([each.name for each in receipt.images]),
        f"{image.width}×{image.height}",
        " ".join([maker, *(str(value) for value in asked if value)]),
        "" if made.credits_estimated is None else f"{made.credits_estimated:g}",
        _first(sources),
        receipt.row_key or "",
        receipt.prompt or "",
    )
    return tuple("".join(c if c.isprintable() else " " for c in cell) for cell in cells)
