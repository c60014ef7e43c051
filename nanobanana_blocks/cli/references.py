"""The command that clears the public copies of reference images."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from nanobanana_blocks.cli.options import AsJson, StorageOptions, find_place
from nanobanana_blocks.cli.output import ending_well, print_json
from nanobanana_blocks.references import clear_copies
from nanobanana_blocks.words import counted


def clear_references(
    place: Annotated[
        str, typer.Argument(metavar="DEST", help="Where they are: what --references was given.")
    ],
    older_than: Annotated[
        float, typer.Option(min=0.0, help="Days since a copy was last used, about.")
    ] = 30.0,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Delete copies of images to work from, by age; nothing else is touched.

    A run renews the age of the copies that it uses: choose more days than a run lasts.
    """

    async def run() -> tuple[int, int]:
        found = await find_place(place, storage_option)
        return await clear_copies(found.location, timedelta(days=older_than))

    with ending_well(as_json=as_json):
        deleted, left = asyncio.run(run())
        if as_json:
            print_json({"deleted": deleted, "left": left})
        else:
            typer.echo(f"{counted(deleted, 'copy', 'copies')} deleted, {left:,} left")
