"""The bytes of a manifest taken apart into rows; what a row may hold is checked elsewhere.

No line is decoded before its size is known, and none is kept, so that a file of any shape costs
little more than its own bytes.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NoReturn

from nanobanana_blocks.batches.manifest.fields import NAMES
from nanobanana_blocks.batches.manifest.file_kinds import foreign_kind
from nanobanana_blocks.batches.manifest.problems import Problem

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Bytes that a manifest has at most."""

MAX_ROW_BYTES = 1024 * 1024
"""Bytes that one row of it has at most."""

MAX_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in the file.

    Attributes:
        row: JSONL: the number of the line. CSV: the number that a spreadsheet shows.
        fields: What it gives, under the file's own names; of CSV, no empty cells.
        header: The row with the columns' names; None in JSONL. Where there is one, all values are
            text.
    """

    row: int
    fields: dict[str, Any]
    header: int | None = None


def split_rows(data: bytes, source: str) -> Iterator[Record | Problem]:
    """Give the rows of a manifest, and a problem for each that is none, in the file's order.

    It ends early, with a problem, where no further row can be told from the next. The format is
    that of the extension of `source`; other files are JSONL if they begin with ``{``.
    """
    start = len(_BOM) if data.startswith(_BOM) else 0
    read = _reader(data, start, source)
    if isinstance(read, Problem):
        yield read
        return
    count, last = 0, None
    for found in read(data, start):
        if found.row is not None and found.row != last:
            count, last = count + 1, found.row
        if count > MAX_ROWS:
            yield Problem(last, None, f"is one too many: a manifest has at most {MAX_ROWS:,} rows")
            return
        yield found


def oversize(size: int) -> Problem | None:
    """Tell whether a file of `size` bytes is too large to be looked at."""
    if size <= MAX_FILE_BYTES:
        return None
    return Problem(None, None, f"it has {size:,} bytes, and a manifest at most {MAX_FILE_BYTES:,}")


def parse_json(text: str) -> tuple[Any, list[str]]:
    """Return the value of JSON text and the names that occur twice in one of its objects.

    Raises:
        ValueError: It is not JSON; a `json.JSONDecodeError` where it is known in which column.
    """
    repeated: list[str] = []

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            repeated.extend(name for name, count in counts.items() if count > 1)
        return made

    try:
        value = json.loads(text, object_pairs_hook=as_dict, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value, repeated


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


_BOM = b"\xef\xbb\xbf"
_UTF_32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SEP_LINE = re.compile(r"\"?sep=.?\"?[,;\t|]*", re.IGNORECASE)
_SEP_STEP = "Delete the line, and separate cells by commas."
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_MAX_HEADER_BYTES = 65_536
_FIRST = re.compile(rb"\s*(\S)")
_FIRST_LINE = re.compile(rb"\s*(\S[^\n]*)")
_PRETTY = re.compile(rb"\s*\{[ \t\r]*\n")

_Reader = Callable[[bytes, int], Iterator[Record | Problem]]


def _reader(data: bytes, start: int, source: str) -> _Reader | Problem:
    if kind := foreign_kind(data, start):
        return Problem(None, None, kind)
    if data.startswith((*_UTF_32, *_UTF_16)):
        encoding = "UTF-32" if data.startswith(_UTF_32) else "UTF-16"
        return Problem(None, None, f"line 1 begins as {encoding} does. Save the file as UTF-8.")
    if (position := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, position) + 1
        return Problem(
            None, None, f"line {line} holds a NUL byte, as UTF-16 does. Save the file as UTF-8."
        )
    first = _FIRST.match(data, start)
    if first is None:
        return Problem(None, None, "it has no rows")
    extension = PurePosixPath(source).suffix.lower()
    if extension == ".csv":
        return _csv_reader(data, start, first[1])
    if first[1] == b"[":
        return Problem(None, None, "this is a JSON array; write one object per line")
    if extension not in (".jsonl", ".ndjson", ".json") and first[1] != b"{":
        return Problem(
            None, None, "its format is not known. Name it .jsonl, or .csv if it has a header."
        )
    if _PRETTY.match(data, start):
        return Problem(None, None, "this is pretty-printed JSON; write one object per line")
    return _json_rows


def _csv_reader(data: bytes, start: int, first: bytes) -> _Reader | Problem:
    begin, end = found.span(1) if (found := _FIRST_LINE.match(data, start)) else (start, start)
    header = data[begin : min(end, begin + _MAX_HEADER_BYTES)].decode(errors="replace").strip()
    if _SEP_LINE.fullmatch(header):
        return Problem(None, None, f"line 1 is `{header}`, which only Excel reads. {_SEP_STEP}")
    if first in (b"{", b"["):
        return Problem(None, None, "this is JSON. Write one object per line, and name it .jsonl.")
    known = _known_columns(header, ",")
    for separator, name in _OTHER_SEPARATORS.items():
        columns = _known_columns(header, separator)
        if columns > known or (not known and separator in header and "," not in header):
            return Problem(None, None, f"its cells are separated by {name}; use commas")
    return _csv_rows


def _known_columns(header: str, separator: str) -> int:
    """How many names of fields are in a header, if its cells are separated so."""
    cells = (cell.strip().strip("\"'") for cell in header.split(separator))
    return sum(cell in NAMES for cell in cells)


def _lines(data: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """The number of each line, from 1, where it begins and where it ends."""
    number = 0
    while start < len(data):
        number += 1
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        yield number, start, end
        start = end + 1


def _too_large(size: int) -> str:
    return f"has {size:,} bytes, and a row at most {MAX_ROW_BYTES:,}"


def _not_utf_8(line: int, error: UnicodeDecodeError) -> str:
    return f"byte {error.start + 1} of line {line} is not UTF-8. Save the file as UTF-8."


def _json_rows(data: bytes, start: int) -> Iterator[Record | Problem]:
    for number, begin, end in _lines(data, start):
        if end - begin > MAX_ROW_BYTES:
            yield Problem(number, None, _too_large(end - begin))
            continue
        try:
            text = data[begin:end].decode()
        except UnicodeDecodeError as error:
            yield Problem(number, None, _not_utf_8(number, error))
            continue
        if text.strip():
            yield from _json_row(number, text)


def _json_row(number: int, text: str) -> Iterator[Record | Problem]:
    try:
        value, repeated = parse_json(text)
    except json.JSONDecodeError as error:
        where = f"line {number}, column {error.colno}"
        yield Problem(number, None, f"is not JSON at {where}: {error.msg}")
        return
    except ValueError as error:
        reason = "a number has too many digits" if "digits" in str(error) else error
        yield Problem(number, None, f"is not JSON in line {number}: {reason}")
        return
    if not isinstance(value, dict):
        yield Problem(number, None, "must be a JSON object, as {…}")
        return
    for name in repeated:
        yield Problem(number, name, "is given twice")
    yield Record(number, value)


class _Unsplittable(Exception):
    """Raised within the lines of a CSV file where its rows cannot be told apart any further."""


class _CsvLines(Iterator[str]):
    """The lines of a CSV file as text; `row_bytes`, set to 0 before each row, limits its size."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._lines = _lines(data, start)
        self.row_bytes = 0

    def __next__(self) -> str:
        number, begin, end = next(self._lines)
        self.row_bytes += end - begin + 1
        if self.row_bytes > MAX_ROW_BYTES + 1:
            open_quote = "" if self.row_bytes == end - begin + 1 else "; is a quote left open?"
            raise _Unsplittable(_too_large(self.row_bytes - 1) + open_quote)
        try:
            return self._data[begin : end + 1].decode()
        except UnicodeDecodeError as error:
            raise _Unsplittable(_not_utf_8(number, error)) from None


def _csv_rows(data: bytes, start: int) -> Iterator[Record | Problem]:
    titles, header, told = 0, list[str](), set[int]()
    for number, row in enumerate(_csv_cells(data, start), start=1):
        if isinstance(row, Problem):
            yield row
        elif not any(cell.strip() for cell in row):
            continue
        elif not header:
            titles, header = number, [cell.strip() for cell in row]
            yield from _header_problems(number, header)
        else:
            cells = [(column, cell) for column, cell in enumerate(row) if cell.strip()]
            if cells[-1][0] >= len(header):
                count = f"{cells[-1][0] + 1:,} cells, and the header {len(header):,}"
                yield Problem(number, None, f"has {count}; is a comma not within quotes?")
                continue
            for column, _ in cells:
                if not header[column] and column not in told:
                    told.add(column)
                    yield Problem(number, None, _without_name(column))
            fields = {header[column]: cell for column, cell in cells if header[column]}
            yield Record(number, fields, titles)


def _csv_cells(data: bytes, start: int) -> Iterator[list[str] | Problem]:
    lines = _CsvLines(data, start)
    rows = csv.reader(lines, strict=True)
    number = 0
    while True:
        number += 1
        lines.row_bytes = 0
        try:
            row = next(rows, None)
        except _Unsplittable as error:
            yield Problem(number, None, str(error))
            return
        except csv.Error as error:
            yield Problem(number, None, _csv_message(str(error)))
            return
        if row is None:
            return
        yield row


def _header_problems(number: int, header: list[str]) -> Iterator[Problem]:
    for name, count in Counter(header).items():
        if name and count > 1:
            yield Problem(number, name, f"is the name of {count} columns")


def _without_name(column: int) -> str:
    index = "; pandas writes its index so, unless told index=False" if column == 0 else ""
    return f"has a value in column {column + 1}, which has no name in the header{index}"


def _csv_message(said: str) -> str:
    for sign, message in _CSV_MESSAGES.items():
        if sign in said:
            return message
    return f"is not CSV: {said}"


_CSV_MESSAGES = {
    "field larger": "has a cell that is too long for CSV; is a quote left open?",
    "unexpected end": "has a quote that is left open",
    "expected after": "has text after a closing quote; write a quote within quotes twice",
    "new-line": "has a carriage return by itself; end lines with LF or CRLF",
}
