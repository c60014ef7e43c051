"""The command that makes the gallery of a folder from what is in it; it asks the API nothing."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from nanobanana_blocks.cli.options import AsJson, StorageOptions, find_place
from nanobanana_blocks.cli.output import ending_well, print_json, print_message, show_log
from nanobanana_blocks.cli.progress import Progress
from nanobanana_blocks.gallery import GalleryReport, make_gallery
from nanobanana_blocks.words import counted


def gallery(
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DEST", help="Folder, fsspec URL or saved ImageStore block with the images."
        ),
    ],
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Write a gallery of what has landed, index.html beside the images, and print its path.

    It is made from receipts and reports: images with their names and sizes, and what did not land,
    with its reason. A batch makes one at its end.
    """
    show_log()
    read = 0

    def count() -> None:
        nonlocal read
        read += 1

    async def run() -> GalleryReport:
        place = await find_place(destination, storage_option)
        progress = Progress("Gallery")
        progress.waits = lambda: f"{counted(read, 'image')} read" if read else ""
        async with await place.location.open() as folder:
            with progress.shown():
                return await make_gallery(folder, on_read=count)

    with ending_well(as_json=as_json):
        made = asyncio.run(run())
        if as_json:
            print_json(made.model_dump(mode="json"))
        else:
            typer.echo(made.path)
        print_message(made.describe())
