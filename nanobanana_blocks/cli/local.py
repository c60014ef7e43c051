"""Commands that need nothing but this machine: the demonstration and the API sandbox."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nanobanana_blocks.cli.interrupts import remove_on_interrupt
from nanobanana_blocks.cli.output import ending_well
from nanobanana_blocks.errors import InvalidInput


def demo(
    to: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("nanobanana-demo"),
    batch: Annotated[
        bool, typer.Option("--batch", help="Show a batch from a file of prompts instead.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Prefect's UI up until Ctrl-C.")
    ] = False,
) -> None:
    """Show all of it on this machine: API sandbox, Prefect, images on disk.

    Nothing of your own Prefect profile or database is touched, and no credits are spent.
    """
    with tempfile.TemporaryDirectory(prefix="nanobanana-demo-") as home:
        remove_on_interrupt(home)
        _forget_own_prefect(home)
        from nanobanana_blocks.cli.demo import run_demo

        with ending_well():
            run_demo(to, Path(home), keep=keep, batch=batch)


def _forget_own_prefect(home: str) -> None:
    """Have Prefect, when it is imported, know nothing of the user's settings and profiles."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= {"PREFECT_HOME": home, "DO_NOT_TRACK": "1"}


def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8378,
    speed: Annotated[
        float, typer.Option(help="How many times as fast as the service it generates.")
    ] = 1.0,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen where other machines can reach it.")
    ] = False,
    fetch_references: Annotated[
        bool,
        typer.Option(
            "--fetch-references", help="Really fetch imageUrls, and refuse what cannot be."
        ),
    ] = False,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            metavar="NAME=CREDITS",
            help="Play another submit endpoint, which takes any fields; repeatable.",
        ),
    ] = None,
) -> None:
    """Serve a local stand-in for the API; no credits are spent."""
    from nanobanana_blocks.sandbox import SandboxSettings, serve

    with ending_well():
        if not speed > 0:
            raise InvalidInput(f"--speed must be more than 0, not {speed:g}")
        settings = SandboxSettings(
            speed=speed,
            fetch_references=fetch_references,
            other_endpoints=_endpoints(endpoint or []),
        )
        serve(host, port, settings=settings, allow_remote=allow_remote)


def _endpoints(texts: list[str]) -> dict[str, int]:
    """The endpoints that ``name=credits`` texts give.

    Raises:
        InvalidInput: One is not of this form.
    """
    found = {}
    for text in texts:
        whole = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._/-]*)=([0-9]{1,9})", text.strip())
        if not whole:
            raise InvalidInput(
                f"--endpoint {text[:40]!r}: write NAME=CREDITS, such as generate-3=6"
            )
        found[whole[1]] = int(whole[2])
    return found
