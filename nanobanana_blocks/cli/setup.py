"""Commands that set things up once: the key's block, automations, a folder to deploy from."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from nanobanana_blocks.api.client import KEY_VARIABLE, Access, address_from_environment
from nanobanana_blocks.cli.options import quieten_prefect
from nanobanana_blocks.cli.output import ending_well
from nanobanana_blocks.errors import InvalidInput


def init(
    folder: Annotated[
        Path, typer.Argument(help="Folder to deploy from; made if need be.")
    ] = Path(),
) -> None:
    """Write a prefect.yaml that deploys every flow, and an example manifest, into a folder."""
    from nanobanana_blocks.cli.project import NEXT_STEPS, write_project

    with ending_well():
        for path in write_project(folder):
            typer.echo(f"Wrote {path}")
        typer.echo(NEXT_STEPS)


def save_key(
    name: Annotated[str, typer.Argument(help="Name for the NanoBananaCredentials block.")] = (
        "default"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a saved key.")] = False,
) -> None:
    """Save the API key as a Prefect block, and keep it out of the shell's history.

    The key is NANOBANANA_API_KEY. Where that is not set, it is asked for, or read from standard
    input where that is no terminal. The API's address is NANOBANANA_BASE_URL, its dialect
    NANOBANANA_DIALECT, and where files are uploaded to NANOBANANA_UPLOAD_URL, where these are set.
    """
    quieten_prefect()
    from nanobanana_blocks.orchestration.blocks.credentials import (
        NanoBananaCredentials,
        check_block_name,
    )

    with ending_well():
        check_block_name(name)
        block = NanoBananaCredentials.from_environment()
        if block is None:
            address = address_from_environment()
            access = Access(SecretStr(_ask_for_key()), *address)
            block = NanoBananaCredentials(**access._asdict())
        block.get_client()
        try:
            asyncio.run(block.asave(name, overwrite=overwrite))
        except ValueError as refusal:
            if "already in use" not in str(refusal):
                raise
            raise InvalidInput(
                f"the block {name!r} exists already and was not changed. Replace its key with "
                "--overwrite, or give another name."
            ) from None
        typer.echo(f"Saved NanoBananaCredentials {name!r} for {block.base_url}.")


def _ask_for_key() -> str:
    """The key that somebody types, unseen, or that standard input holds.

    Raises:
        InvalidInput: There is nobody to ask.
    """
    if sys.stdin.isatty():
        return str(typer.prompt("NanoBanana API key", hide_input=True))
    if key := sys.stdin.readline().strip():
        return key
    raise InvalidInput(
        f"there is no key, and no terminal to ask for it. Set {KEY_VARIABLE}, or give the key on "
        "standard input."
    )


def automations(
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE/NAME",
            help="Saved notification block to tell of failed runs, such as slack-webhook/ops.",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the automations instead.")
    ] = False,
) -> None:
    """Have Prefect notice failed runs and dead workers.

    Makes an automation that marks runs Crashed whose worker has died and, with `--notify`, one that
    tells of runs that end Failed, Crashed or TimedOut. Running it again updates them.
    """
    quieten_prefect()
    from nanobanana_blocks.orchestration.observability.automations import (
        delete_automations,
        make_automations,
    )

    with ending_well():
        if delete and notify is not None:
            raise InvalidInput("--notify is for making automations: leave it out with --delete")
        lines = asyncio.run(delete_automations() if delete else make_automations(notify))
        typer.echo("\n".join(lines) or "There are none of these automations.")
