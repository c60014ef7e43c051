"""The manifest of a batch: a JSONL or CSV file of rows, checked whole before anything is spent.

A row asks for a generation or names a generation task that exists. This module sends and writes
nothing, and knows nothing of what became of a row.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from nanobanana_blocks.api.prices import PRICES
from nanobanana_blocks.batches.manifest.fields import RowDefaults
from nanobanana_blocks.batches.manifest.formats import oversize, split_rows
from nanobanana_blocks.batches.manifest.problems import InvalidManifest, Problem
from nanobanana_blocks.batches.manifest.row import Row
from nanobanana_blocks.batches.manifest.rows import RowChecker
from nanobanana_blocks.batches.manifest.source import Source

__all__ = [
    "InvalidManifest",
    "Manifest",
    "Problem",
    "Row",
    "RowDefaults",
    "parse_manifest",
    "read_manifest",
]

_NO_DEFAULTS = RowDefaults()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest without a problem in it.

    Attributes:
        rows: At least one, in the order of the file.
        digest: The SHA-256 of the file's bytes, in hexadecimal digits.
    """

    rows: tuple[Row, ...]
    digest: str

    def priced(self, own: Mapping[str, float] | None) -> Manifest:
        """The manifest with prices of the user's, where there are some; see `PriceTable`.

        Raises:
            InvalidInput: One of them is invalid.
        """
        if not own:
            return self
        table = PRICES.overridden(own)
        return replace(self, rows=tuple(row.priced(table) for row in self.rows))


def parse_manifest(data: bytes, *, source: str, defaults: RowDefaults = _NO_DEFAULTS) -> Manifest:
    """Return the manifest that the bytes of a file hold.

    Args:
        data: UTF-8, with or without a byte order mark; at most 256 MiB, 100,000 rows, and 1 MiB a
            row. JSONL has an object a line; CSV has commas and a header.
        source: The file's name, whose extension tells the format, and which messages show.
        defaults: What rows ask for where they do not say so themselves.

    Raises:
        InvalidManifest: With every problem in the file, unless it cannot be split into rows.
    """
    if problem := oversize(len(data)):
        raise InvalidManifest.of(source, [problem])
    checker = RowChecker(defaults)
    for found in split_rows(data, source):
        checker.take(found)
    rows = checker.finish()
    if checker.problems:
        raise InvalidManifest.of(source, checker.problems)
    return Manifest(tuple(rows), hashlib.sha256(data).hexdigest())


async def read_manifest(
    url: str,
    *,
    defaults: RowDefaults = _NO_DEFAULTS,
    storage_options: Mapping[str, Any] | None = None,
) -> Manifest:
    """Return the manifest in a file; its size is asked for before it is read.

    Args:
        url: A local path or an fsspec URL; not http.
        defaults: What rows ask for where they do not say so themselves.
        storage_options: What fsspec's backend takes, credentials for one.

    Raises:
        InvalidManifest: As `parse_manifest` does.
        DestinationError: The URL is invalid, there is no such file, or access is refused.
        StorageError: The storage is out of reach or failed; trying again may help.
    """
    source = Source.parse(url)
    data = await source.read(storage_options)
    parse = partial(parse_manifest, data, source=source.path, defaults=defaults)
    return await asyncio.to_thread(parse)
