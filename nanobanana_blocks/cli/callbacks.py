"""The command that receives the service's callbacks; the receiver itself is not here."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Annotated

import typer

from nanobanana_blocks.cli.options import CredentialsName, quieten_prefect
from nanobanana_blocks.cli.output import ending_well


def callbacks(
    public_url: Annotated[
        str | None,
        typer.Option(help="How the service reaches this receiver, such as https://host/folder."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8379,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DEST",
            help="Folder, URL or ImageStore whose sweep is told of the tasks called back. It must "
            "be where the deployment land-images/on-callback lands, which is the default.",
        ),
    ] = None,
    spool: Annotated[
        Path | None, typer.Option(help="File that keeps callbacks until they are forwarded.")
    ] = None,
    job_key: Annotated[
        str | None, typer.Option(help="Print the address that is bound to this job key.")
    ] = None,
    credentials: CredentialsName = None,
) -> None:
    """Receive the service's callbacks and turn each into a Prefect event.

    The address is made from a secret, NANOBANANA_CALLBACK_SECRET or that of a saved block;
    `openssl rand -hex 32` makes a good one. Events go to the server that PREFECT_API_URL or
    the active profile names.
    """
    quieten_prefect()
    from nanobanana_blocks.callbacks import callback_secret, serve_callbacks
    from nanobanana_blocks.orchestration.blocks.credentials import load_credentials
    from nanobanana_blocks.orchestration.callback_events import Announcer
    from nanobanana_blocks.orchestration.callback_place import agree_on_place

    with ending_well():
        block = (
            asyncio.run(load_credentials(credentials, or_environment=False))
            if credentials
            else None
        )
        secret = callback_secret(block)
        place, remarks = asyncio.run(agree_on_place(to))
        for remark in remarks:
            typer.echo(remark)
        # Prefect's many objects stay; searching them stops everything for 0.1 s a time.
        gc.collect()
        gc.freeze()
        serve_callbacks(
            host,
            port,
            public_url=public_url,
            secret=secret,
            job_key=job_key,
            spool=spool,
            consumer=Announcer(place) if place else None,
        )
