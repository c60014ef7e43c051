"""The command that compares a folder's receipts with its files, and lands again what is gone."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from nanobanana_blocks.cli.options import (
    AsJson,
    CredentialsName,
    StorageOptions,
    Timeout,
    find_place,
    make_client,
)
from nanobanana_blocks.cli.output import (
    Exit,
    ending_well,
    print_if_nothing_landed,
    print_json,
    print_message,
    show_log,
)
from nanobanana_blocks.landing.report import LandingReport
from nanobanana_blocks.recovery.verification import VerificationReport, repair
from nanobanana_blocks.recovery.verification import verify as verify_folder


def verify(
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DEST", help="Folder, fsspec URL or saved ImageStore block with the images."
        ),
    ],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every image, compare its SHA-256 and decode it.")
    ] = False,
    repairing: Annotated[
        bool,
        typer.Option(
            "--repair", help="Land missing and damaged images again, while their URLs live."
        ),
    ] = False,
    timeout: Timeout = 900.0,
    storage_option: StorageOptions = None,
    credentials: CredentialsName = None,
    as_json: AsJson = False,
) -> None:
    """Check that every receipt and its images are there and whole; --repair lands others again."""
    show_log()

    async def run() -> tuple[VerificationReport, LandingReport | None]:
        place = await find_place(destination, storage_option)
        async with await place.location.open() as folder:
            found = await verify_folder(folder, deep=deep)
            if found.is_sound or not repairing or not found.stems:
                return found, None
            async with await make_client(credentials) as client:
                landed = await repair(found, client, folder, timeout=timeout)
            return await verify_folder(folder, deep=deep), landed

    with ending_well(as_json=as_json):
        found, landed = asyncio.run(run())
        if as_json:
            print_json(
                found.model_dump(mode="json")
                | {"repair": None if landed is None else landed.model_dump(mode="json")}
            )
        else:
            for fault in found.faults:
                typer.echo(fault.describe())
            if landed is not None:
                for outcome in landed.not_landed:
                    print_message(f"{outcome.label}: {outcome.describe()}")
                typer.echo(f"Landed again: {landed.describe()}")
            typer.echo(found.describe())
        print_if_nothing_landed(found.receipts + len(found.faults), found.destination)
        if not found.is_sound:
            raise typer.Exit(Exit.NOT_ALL)
