"""A file of task ids, for more of them than a flow run's parameters can hold; it asks nothing.

Text has an id a line; CSV a column `task_id`, or a single column; JSONL and JSON have texts, or
objects with a `task_id`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from nanobanana_blocks.api.details import check_task_id
from nanobanana_blocks.batches.manifest.source import Source
from nanobanana_blocks.errors import InvalidInput

NAMES = ("task_id", "taskId")


async def read_task_ids(url: str, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Return the ids in a file, in its order, repetitions included.

    Args:
        url: A local path or an fsspec URL; not http.
        storage_options: What fsspec's backend takes, credentials for one.

    Raises:
        InvalidInput: The file holds no ids, or one that is invalid; the line is named.
        DestinationError: There is no such file, or access is refused.
        StorageError: The storage is out of reach or failed; trying again may help.
    """
    source = Source.parse(url)
    data = await source.read(storage_options)
    return parse_task_ids(data, source=source.path, name=source.name)


def parse_task_ids(data: bytes, *, source: str, name: str) -> list[str]:
    """Return the ids that the bytes of a file hold.

    Args:
        data: UTF-8, with or without a byte order mark.
        source: The file, as messages name it.
        name: The file's name, whose extension tells the format; text by default.

    Raises:
        InvalidInput: As `read_task_ids` does.
    """
    try:
        text = data.decode("utf-8-sig")
        task_ids = [
            _checked(found, f"{source}, line {line}") for line, found in _ids_in(text, name)
        ]
    except UnicodeDecodeError:
        raise InvalidInput(f"{source} is not UTF-8 text: save its task ids as text.") from None
    except (ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{source} cannot be read as its extension says: {error}.") from None
    if not task_ids:
        raise InvalidInput(f"{source} holds no task ids.")
    return task_ids


def _ids_in(text: str, name: str) -> Iterator[tuple[int, object]]:
    """Each id with its line; of JSON with its place in the list."""
    lines = list(enumerate(text.splitlines(), start=1))
    match PurePosixPath(name).suffix.lower():
        case ".json":
            items = json.loads(text)
            if not isinstance(items, list):
                raise InvalidInput(f"{name} is no JSON list of task ids.")
            yield from ((place, _of_json(item)) for place, item in enumerate(items, start=1))
        case ".jsonl" | ".ndjson":
            yield from ((n, _of_json(json.loads(line))) for n, line in lines if line.strip())
        case ".csv":
            yield from _of_csv(text, name)
        case _:
            stripped = ((number, line.strip()) for number, line in lines)
            yield from ((n, line) for n, line in stripped if line and not line.startswith("#"))


def _of_json(item: object) -> object:
    if not isinstance(item, dict):
        return item
    return next((item[name] for name in NAMES if name in item), None)


def _of_csv(text: str, name: str) -> Iterator[tuple[int, object]]:
    rows = [(n, row) for n, row in enumerate(csv.reader(text.splitlines()), start=1) if any(row)]
    if not rows:
        return
    header = [cell.strip() for cell in rows[0][1]]
    column = next((header.index(found) for found in NAMES if found in header), None)
    if column is not None:
        rows = rows[1:]
    elif all(len(row) == 1 for _, row in rows):
        column = 0
    else:
        raise InvalidInput(f"{name} has no column {NAMES[0]}.")
    yield from ((n, row[column].strip() if column < len(row) else None) for n, row in rows)


def _checked(found: object, place: str) -> str:
    try:
        return check_task_id(found)
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error.message}") from None
