"""What commands print: results on standard output, everything else on standard error.

With ``--json`` standard output is one JSON value: the result, or ``{"error": …}``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from nanobanana_blocks.cli.interrupts import INTERRUPTED, INTERRUPTED_CODE, interrupts_raise
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.landing.report import ErrorSummary

messages = Console(stderr=True, highlight=False)
log = logging.getLogger("nanobanana_blocks.cli")


class Exit(IntEnum):
    """What scripts can rely on; 2 is a usage error."""

    OK = 0
    ERROR = 1
    NOT_ALL = 3
    STILL_GENERATING = 4
    INTERRUPTED = INTERRUPTED_CODE


def print_json(value: Any) -> None:
    """Print the one JSON value that a command with ``--json`` prints."""
    typer.echo(json.dumps(value, indent=2))


def print_error(error: object) -> None:
    """Print a line about what went wrong."""
    messages.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)


def print_message(text: str) -> None:
    """Print a line that is no result."""
    messages.print(escape(text), soft_wrap=True)


def print_if_nothing_landed(receipts: int, place: str) -> None:
    """Say so where a place holds no receipt: many storages take a misspelt one for empty."""
    if not receipts:
        print_message(f"There is no receipt in {place}: check that this is the right place.")


def error_as_json(error: NanoBananaError) -> dict[str, Any]:
    """An error as every command gives it with ``--json``."""
    return {"error": ErrorSummary.of(error).model_dump()}


@contextmanager
def ending_well(*, as_json: bool = False) -> Iterator[None]:
    """Turn what can go wrong into one line, one JSON value if asked for, and an exit code."""
    try:
        with interrupts_raise():
            yield
    except NanoBananaError as error:
        _report(error, as_json=as_json)
        raise typer.Exit(Exit.ERROR) from None
    except (KeyboardInterrupt, typer.Abort):
        messages.print(INTERRUPTED)
        raise typer.Exit(Exit.INTERRUPTED) from None
    except Exception as error:
        if not is_prefects(error):
            raise
        _report(prefect_out_of_reach(error), as_json=as_json)
        raise typer.Exit(Exit.ERROR) from None


def _report(error: NanoBananaError, *, as_json: bool) -> None:
    if as_json:
        print_json(error_as_json(error))
    print_error(error)


def is_prefects(error: Exception) -> bool:
    """Whether an error comes from talking to Prefect; all others of ours are NanoBananaErrors."""
    return isinstance(error, httpx.HTTPError) or (
        type(error).__module__.startswith("prefect.")
        or (type(error) is RuntimeError and "Prefect API" in str(error))
    )


def prefect_out_of_reach(error: Exception) -> NanoBananaError:
    """What to tell of an error that came from talking to Prefect."""
    from prefect.settings import PREFECT_API_URL

    return NanoBananaError(
        f"Prefect's API ({PREFECT_API_URL.value() or 'a temporary server'}) is out of reach "
        f"or refuses: {type(error).__name__}. Check PREFECT_API_URL, and that the server runs."
    )


class _Messages(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        label = "[bold yellow]Warning:[/] " if record.levelno >= logging.WARNING else ""
        messages.print(label + escape(record.getMessage()), soft_wrap=True)


def show_log() -> None:
    """Show this package's warnings, and what commands log themselves, among the messages."""
    ours = logging.getLogger("nanobanana_blocks")
    if not any(isinstance(handler, _Messages) for handler in ours.handlers):
        ours.addHandler(_Messages())
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    log.setLevel(logging.INFO)
