"""Options that several commands have, and what their texts mean: keys, places, ids."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from nanobanana_blocks.api.client import (
    KEY_VARIABLE,
    NanoBananaClient,
    access_from_environment,
)
from nanobanana_blocks.cli.output import is_prefects, prefect_out_of_reach
from nanobanana_blocks.errors import DestinationError, InvalidInput, MissingCredentials
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.storage.destination import StorageLocation

TaskIds = Annotated[
    list[str],
    typer.Argument(metavar="TASK_ID...", help="Generation tasks; - reads their ids from stdin."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON value instead of lines, for an error too.")
]
CredentialsName = Annotated[
    str | None,
    typer.Option("--credentials", help="Saved NanoBananaCredentials block whose key is used."),
]
To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="DEST",
        help="Folder, fsspec URL or saved ImageStore block for the images; {date} is today (UTC).",
    ),
]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="An option of the fsspec backend, such as client_kwargs.endpoint_url=…; repeatable.",
    ),
]
Timeout = Annotated[
    float, typer.Option(min=0.001, help="Seconds to wait for each generation task.")
]

References = Annotated[
    str | None,
    typer.Option(
        "--references",
        metavar="DEST",
        help="Place with a public URL for copies of images to work from; without it, their "
        "storage signs URLs.",
    ),
]
ReferencesUrl = Annotated[
    str | None,
    typer.Option(
        "--references-url",
        metavar="URL",
        help="Public URL of --references, unless an ImageStore block has it.",
    ),
]


def finite(number: float | None) -> float | None:
    """Refuse NaN, which compares with nothing and which bounds let pass."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter("must be a finite number")
    return number


RequestsPerSecond = Annotated[
    float,
    typer.Option(
        min=0.01, max=1000, callback=finite, help="Requests to the API per second at most."
    ),
]

_NO_BLOCK_NAME = re.compile(r"[^a-z0-9-]")
_SIGNS_OF_PREFECT = ("prefect.db", "profiles.toml")


@dataclass(frozen=True)
class Place:
    """Where images go, whether receipts hold the prompts, and where the world reads its files."""

    location: StorageLocation
    keep_prompts: bool = False
    public_url: str = ""


async def find_place(
    to: str, storage_options: Sequence[str] | None = None, day: date | None = None
) -> Place:
    """Return the place that a path, a URL or a block's name stands for, with the options given.

    A name without a slash or a dot is that of an ImageStore block, if one is saved under it.

    Raises:
        InvalidInput: An option or a ``{placeholder}`` is invalid; or it is nearly a block's name.
        DestinationError: It may be a block's name, and Prefect is out of reach.
    """
    options = parse_storage_options(storage_options or ())
    place = Place(StorageLocation(to))
    if to and not _NO_BLOCK_NAME.search(to) and _prefect_is_in_use():
        place = await _find_saved_place(to)
    location = place.location.for_date(day or datetime.now(UTC).date())
    location = replace(location, options=_merged(location.options, options))
    return replace(place, location=location)


async def _find_saved_place(name: str) -> Place:
    quieten_prefect()
    from nanobanana_blocks.orchestration.blocks.image_store import load_store

    try:
        store = await load_store(name)
    except Exception as error:
        if not is_prefects(error):
            raise
        raise DestinationError(
            f"{name!r} may be the name of an ImageStore. {prefect_out_of_reach(error)} For a "
            f"folder of that name write ./{name}"
        ) from None
    return Place(store.location, store.keep_prompts, store.public_url)


async def find_public_place(
    references: str | None, url: str | None, storage_options: Sequence[str] | None = None
) -> PublicPlace | None:
    """The place for copies of images to work from, if one was given.

    The storage options serve it, too, where it is no saved block.

    Raises:
        InvalidInput: It has no public URL.
    """
    if references is None:
        if url is not None:
            raise InvalidInput("--references-url is of a place: give that with --references")
        return None
    place = await find_place(references)
    public_url = url or place.public_url
    if not public_url:
        raise InvalidInput(
            f"--references {place.location}: it has no public URL. Give --references-url, or the "
            "name of an ImageStore that has one."
        )
    options = place.location.options or parse_storage_options(storage_options or ())
    return PublicPlace(replace(place.location, options=options), public_url)


async def find_saved_store(name: str) -> StorageLocation | None:
    """The place that is saved under a name, where Prefect is in use and one is."""
    if not _prefect_is_in_use():
        return None
    quieten_prefect()
    from nanobanana_blocks.orchestration.blocks.image_store import find_saved_location

    try:
        return await find_saved_location(name)
    except Exception as error:
        if not is_prefects(error):
            raise
        raise DestinationError(
            f"{name!r} may be the name of an ImageStore. {prefect_out_of_reach(error)} For a "
            f"folder of that name write ./{name}/"
        ) from None


def _prefect_is_in_use() -> bool:
    """Whether blocks can have been saved: a Prefect server is named, or was started here."""
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_PROFILE"):
        return True
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    return any((home / sign).exists() for sign in _SIGNS_OF_PREFECT)


def quieten_prefect() -> None:
    """Have Prefect, before it is imported, say nothing of its own on the terminal.

    A server that it starts for the command alone may take long to start on a busy machine.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    # Of the libraries that a server uses which Prefect starts for this command alone, and of the
    # telemetry that it would send.
    os.environ.setdefault("PREFECT_LOGGING_ROOT_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    warnings.simplefilter("ignore")
    # Some of Prefect's loggers have no handler, and Python would print their warnings.
    logging.getLogger().addHandler(logging.NullHandler())


def parse_storage_options(options: Sequence[str]) -> dict[str, Any]:
    """Return the storage options that ``key=value`` texts give; a dot in a key goes a level down.

    A value is what it says as JSON, else text.

    Raises:
        InvalidInput: One has no key, or clashes with another; no value is repeated.
    """
    found: dict[str, Any] = {}
    for option in options:
        path, equals, text = option.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise InvalidInput(
                f"--storage-option {keys[0][:40]!r}: write KEY=VALUE, or KEY.KEY=VALUE"
            )
        inner = found
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise InvalidInput(f"--storage-option {path}: {key} has a value already")
        if keys[-1] in inner:
            raise InvalidInput(f"--storage-option {path}: it is given twice")
        inner[keys[-1]] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


async def make_client(credentials: str | None) -> NanoBananaClient:
    """Return a client with the key of a saved block, or else of the environment.

    Raises:
        MissingCredentials: There is none.
        InvalidInput: The key or the base URL is invalid.
    """
    if credentials:
        quieten_prefect()
        from nanobanana_blocks.orchestration.blocks.credentials import load_credentials

        block = await load_credentials(credentials, or_environment=False)
        return block.get_client()
    found = access_from_environment()
    if found is None:
        raise MissingCredentials(
            f"{KEY_VARIABLE} is not set. Set it, or name a saved block with --credentials."
        )
    return NanoBananaClient(**found._asdict())


def read_ids(task_ids: list[str]) -> list[str]:
    """Return the ids given, or those on standard input."""
    if "-" not in task_ids:
        return task_ids
    if len(task_ids) > 1:
        raise InvalidInput("- reads all ids from stdin: give either it or ids, not both")
    return sys.stdin.read().split()
