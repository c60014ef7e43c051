"""Manifests: every row checked, every problem found at once, nothing guessed."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import re
import socket
import tracemalloc
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from nanobanana_blocks.api.requests import Endpoint
from nanobanana_blocks.batches.manifest import (
    InvalidManifest,
    Manifest,
    Problem,
    Row,
    RowDefaults,
    formats,
    parse_manifest,
    read_manifest,
)
from nanobanana_blocks.batches.manifest.fields import NAMES
from nanobanana_blocks.batches.manifest.placeholders import placeholder
from nanobanana_blocks.batches.manifest.source import Source
from nanobanana_blocks.errors import DestinationError, InvalidInput, StorageError
from tests.support.storage_servers import S3Server, s3_server


def jsonl(*rows: object) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def parsed(data: bytes | str, source: str = "rows.jsonl", **defaults: Any) -> tuple[Row, ...]:
    content = data if isinstance(data, bytes) else data.encode()
    return parse_manifest(content, source=source, defaults=RowDefaults(**defaults)).rows


def told(data: bytes | str, source: str = "rows.jsonl", **defaults: Any) -> list[str]:
    """All problems of a manifest that has some, as its message words them."""
    with pytest.raises(InvalidManifest) as caught:
        parsed(data, source, **defaults)
    return [str(problem) for problem in caught.value.problems]


def problem_of(**row: Any) -> str:
    """The one problem of a manifest of one row."""
    (problem,) = told(jsonl(row))
    return problem.removeprefix("row 1, ")


# --- rows ---------------------------------------------------------------------------------------


def test_a_row_asks_for_a_generation_or_names_a_task() -> None:
    """Rule: exactly one of request and task id is there, and rows keep the file's order."""
    asked, named = parsed(jsonl({"prompt": "a fox", "numImages": 2}, {"taskId": "t-1"}))
    assert asked.task_id is None
    assert asked.request is not None
    assert asked.request.body()["numImages"] == 2
    assert (named.task_id, named.request, named.name) == ("t-1", None, None)
    assert [asked.number, named.number] == [1, 2]


def test_the_endpoint_of_a_row_is_its_own_or_the_default() -> None:
    """Rule: the `endpoint` column overrides the default's."""
    rows = jsonl({"prompt": "a"}, {"prompt": "a", "endpoint": "generate-2"})
    plain, other = parsed(rows, endpoint=Endpoint.GENERATE_PRO)
    assert plain.request
    assert plain.request.endpoint is Endpoint.GENERATE_PRO
    assert other.request
    assert other.request.endpoint is Endpoint.GENERATE_2
    assert plain.digest != other.digest


@pytest.mark.parametrize("spelling", ["numImages", "num_images"])
def test_both_spellings_of_a_field_are_understood(spelling: str) -> None:
    """Rule: Python's names and the API's mean the same, also to the digest."""
    (row,) = parsed(jsonl({"prompt": "a", spelling: 3}))
    assert row.request
    assert row.request.images_asked_for == 3
    assert row.digest == parsed(jsonl({"prompt": "a", "num_images": 3}))[0].digest


def test_null_means_not_given() -> None:
    """Rule: a null field is as good as absent, whichever endpoint knows it."""
    (row,) = parsed(jsonl({"prompt": "a", "name": None, "resolution": None, "task_id": None}))
    assert row.digest == parsed(jsonl({"prompt": "a"}))[0].digest


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "prompt: is missing; a row has a prompt or a task id"),
        ({"prompt": " "}, "prompt: must not be blank"),
        ({"prompt": 7}, "prompt: must be text"),
        ({"prompt": "\ud800"}, "prompt: holds half of a surrogate pair, which is no character"),
        ({"numImages": 9}, "numImages: must be at most 4, not 9"),
        ({"num_images": 0}, "num_images: must be at least 1, not 0"),
        ({"numImages": "two"}, "numImages: must be a whole number, not two"),
        ({"numImages": 1.5}, "numImages: must be a whole number, not 1.5"),
        ({"numImages": True}, "numImages: must be a whole number, not true"),
        ({"numImages": "2"}, "numImages: must be a whole number, not 2"),
        ({"numImages": []}, "numImages: must be a whole number, not a list"),
        ({"numImages": {}}, "numImages: must be a whole number, not an object"),
        ({"numImages": float("1e999")}, "not JSON"),
        ({"watermark": 1}, "watermark: must be text, not 1"),
        ({"imageUrls": "https://x/?key=s3cr3t"}, "imageUrls: must be a list of URLs"),
        (
            {"imageUrls": ["http://x", "data:image/png;base64,s3cr3t", "http:// s3cr3t"]},
            "imageUrls: item 2 is a data URL, which the service refuses: give the file itself",
        ),
        ({"type": "IMAGETOIAMGE"}, "type: IMAGETOIAMGE needs imageUrls"),
        ({"type": "IMAGE"}, "type: must be one of TEXTTOIAMGE, IMAGETOIAMGE, not IMAGE"),
        ({"image_size": "x" * 99}, f"21:9, not {'x' * 59}…"),
        ({"image_size": "https://x/?s3cr3t"}, "21:9, not a URL"),
        ({"image_size": " \n"}, "21:9, not blank"),
        ({"image_size": "\x1b[0m"}, "21:9, not \N{REPLACEMENT CHARACTER}[0m"),
        ({"endpoint": "pro"}, "endpoint: must be one of generate, generate-pro, generate-2, not"),
        ({"endpoint": []}, "endpoint: must be one of generate, generate-pro, generate-2, or the"),
        ({"endpoint": "generate-2", "prompt": "x" * 20_001}, "at most 20,000 characters, not 20,0"),
        (
            {"endpoint": "generate-pro", "imageUrls": ["http://x"] * 9},
            "imageUrls: must have at most 8 items, not 9",
        ),
        (
            {"endpoint": "generate-pro", "resolution": "8K"},
            "resolution: must be one of 1K, 2K, 4K, not 8K",
        ),
        (
            {"endpoint": "generate-2", "googleSearch": "perhaps"},
            "googleSearch: must be true or false, not perhaps",
        ),
        (
            {"endpoint": "generate-2", "googleSearch": "yes"},
            "googleSearch: must be true or false, not yes",
        ),
        (
            {"endpoint": "generate-2", "googleSearch": 1},
            "googleSearch: must be true or false, not 1",
        ),
        ({"resolution": "2K"}, "generate has no resolution; generate-pro and generate-2 have it"),
        (
            {"endpoint": "generate-2", "watermark": "x"},
            "generate-2 has no watermark; generate has it",
        ),
        ({"promt": "s3cr3t"}, "promt: unknown field; did you mean prompt?"),
        ({"imageURLs": []}, "imageURLs: unknown field; did you mean imageUrls?"),
        ({"promt": None}, "promt: unknown field"),
        ({"zzz": 1}, "zzz: unknown field; known are taskId, endpoint, name, key, prompt"),
        ({"callBackUrl": "https://s3cr3t"}, "callBackUrl: is not for rows: the batch makes"),
        ({"callback_url": ""}, "callback_url: is not for rows: the batch makes"),
        ({"taskId": "t", "prompt": "s3cr3t"}, "prompt: is not for a row with a task id"),
    ],
)
def test_a_problem_is_told_in_a_few_words(row: dict[str, Any], says: str) -> None:
    """Rule: the row, the field and what to change are named; prompts and URLs are not repeated."""
    given = {"prompt": "a", **row} if row and "taskId" not in row else row
    (problem,) = told(jsonl(given))
    assert says in problem
    assert problem.startswith("row 1")
    assert "s3cr3t" not in problem
    assert len(problem) < 300


def test_a_whole_number_may_be_written_with_a_point() -> None:
    """Rule: JSON knows one kind of number, so 2.0 is 2; some programs write columns so."""
    written = parsed(b'{"prompt": "a", "numImages": 2.0}')
    assert written[0].digest == parsed(jsonl({"prompt": "a", "numImages": 2}))[0].digest


def test_both_spellings_at_once_are_refused() -> None:
    """Rule: of two spellings, neither is preferred, unless one is null."""
    assert problem_of(prompt="a", numImages=1, num_images=1) == (
        "num_images: is given as numImages too"
    )
    assert parsed(jsonl({"prompt": "a", "numImages": 1, "num_images": None}))


@pytest.mark.parametrize("task_id", ["", " ", "a b", "x" * 256, 7, ["t"], "\ud800"])
def test_a_task_id_that_cannot_be_one_is_refused(task_id: object) -> None:
    """Rule: task ids in rows are checked as everywhere."""
    assert "task id" in problem_of(taskId=task_id)


def test_a_task_id_occurs_once() -> None:
    """Rule: a generation task is landed once, and the other row is named."""
    assert told(jsonl({"task_id": "t"}, {"task_id": "t", "name": "a"})) == [
        "row 2, task_id: is that of row 1 too"
    ]


def test_all_problems_of_all_rows_are_found_at_once() -> None:
    """Rule: one pass tells all there is to change, the first 20 in the message."""
    rows = [{"prompt": "", "numImages": 9, "foo": 1} for _ in range(30)]
    with pytest.raises(InvalidManifest) as caught:
        parsed(jsonl(*rows, {"prompt": "fine"}))
    assert len(caught.value.problems) == 90
    assert caught.value.problems[-1] == Problem(30, "numImages", "must be at most 4, not 9")
    first, *shown, last = str(caught.value).splitlines()
    assert first == "rows.jsonl has 90 problems:"
    assert len(shown) == 20
    assert last == "and 70 more"


def test_many_unknown_fields_of_a_row_are_counted() -> None:
    """Rule: a file of another kind, however wide, fills no memory with problems."""
    row = {"prompt": "a", **{f"column {number}": 1 for number in range(200)}}
    problems = told(jsonl(row, row))
    assert len(problems) == 22
    assert problems[10] == "row 1: has 190 more unknown fields"


def test_the_error_survives_pickling() -> None:
    """Rule: Prefect pickles errors, and the problems are to be there afterwards."""
    assert issubclass(InvalidManifest, InvalidInput)
    error = InvalidManifest.of("rows.csv", [Problem(7, "name", "is odd")])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert isinstance(again, InvalidManifest)
    assert (str(again), again.problems) == (str(error), error.problems)
    assert str(error) == "rows.csv has 1 problem:\nrow 7, name: is odd"


# --- names, keys and digests --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((name, "leave the extension out: it follows") for name in ("a.png", "a.JPG", "b.webp")),
        *((name, "must not end in .json or .report") for name in ("a.json", "batch.report")),
        *(
            (name, "must be a plain file name")
            for name in ("", ".a", "a/b", "../a", "a b", "é", "con", "x" * 101, "a\n", "\ud800")
        ),
        *((name, "must be text") for name in (7, ["a"], True)),
    ],
)
def test_a_name_that_is_no_safe_name_is_refused(name: object, says: str) -> None:
    """Rule: a name is used as it stands, so it must be a file's name already."""
    assert says in problem_of(prompt="a", name=name)


@pytest.mark.parametrize(
    "other", [{"name": "A"}, {"name": "a-2"}, {"name": "A-1"}, {"task_id": "a-2"}]
)
def test_no_two_rows_write_the_same_file(other: dict[str, Any]) -> None:
    """Rule: names differ, whatever the case, also from the numbered ones and from task ids."""
    several = {"prompt": "x", "name": "a", "numImages": 2}
    row = other if "task_id" in other else {"prompt": "y", **other}
    for rows in ((several, row), (row, several)):
        (problem,) = told(jsonl(*rows))
        assert re.search(r"row 2, \w+: row 1 makes files called [Aa](-[12])? too", problem)


def test_numbered_names_beyond_the_count_are_free() -> None:
    """Rule: a row takes the names of the images that it asks for, and no more."""
    several = {"prompt": "x", "name": "a", "numImages": 2}
    rows = [several, {"prompt": "y", "name": "a-3"}, {"prompt": "z", "name": "b"}]
    assert len(parsed(jsonl(*rows))) == 3


def test_a_row_is_recognised_by_key_name_or_content() -> None:
    """Rule: the key is the row's own, else its name, else its digest, numbered where it repeats."""
    a, b, c, d, e = parsed(
        jsonl(
            {"prompt": "x", "name": "a", "key": "k"},
            {"prompt": "x", "name": "b"},
            {"prompt": "x"},
            {"prompt": "x", "num_images": 1},
            {"prompt": "y"},
        )
    )
    assert (a.key, b.key, c.key, d.key) == ("k", "b", a.digest, f"{a.digest}-2")
    assert a.digest == b.digest == c.digest == d.digest != e.digest
    assert e.key == e.digest
    assert re.fullmatch(r"[0-9a-f]{32}", a.digest)


def test_a_digest_is_of_the_content_alone() -> None:
    """Rule: the digest outlives this release: it is that of the documented content."""
    asked, named = parsed(jsonl({"prompt": "a fox", "key": "k"}, {"task_id": "t-1"}))
    content = {
        "endpoint": "generate",
        "numImages": 1,
        "prompt": "a fox",
        "type": "TEXTTOIAMGE",
    }
    written = json.dumps(content, sort_keys=True).encode()
    assert asked.digest == hashlib.sha256(written).hexdigest()[:32]
    assert named.digest == named.key == hashlib.sha256(b"t-1").hexdigest()[:32]


@pytest.mark.parametrize("key", ["", " ", "x" * 201, "a\nb", 7, [], "\ud800"])
def test_a_key_that_cannot_be_one_is_refused(key: object) -> None:
    """Rule: keys are printable and of a sensible length, and are never made up from numbers."""
    assert problem_of(prompt="a", key=key) == "key: must be 1 to 200 printable characters"


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ({"key": "k"}, {"key": "k"}, "key"),
        ({"key": "k"}, {"name": "k"}, "name"),
        ({"name": "k"}, {"key": "k"}, "key"),
        ({"key": "k"}, {"key": "k", "numImages": 9}, "key"),
    ],
)
def test_keys_differ(one: dict[str, Any], other: dict[str, Any], field: str) -> None:
    """Rule: no row is recognised as another, be its key given, its name or its digest."""
    problems = told(jsonl({"prompt": "a", **one}, {"prompt": "b", **other}))
    assert problems[-1] == f"row 2, {field}: k is the key of row 1 too"


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ({"key": "a"}, {"key": "A"}, "key"),
        ({"key": "a"}, {"name": "A"}, "name"),
        ({"name": "a"}, {"key": "A"}, "key"),
    ],
)
def test_keys_differ_in_more_than_case(
    one: dict[str, Any], other: dict[str, Any], field: str
) -> None:
    """Rule: no two rows share a ledger entry where a disk does not tell upper from lower case."""
    assert told(jsonl({"prompt": "a", **one}, {"prompt": "b", **other})) == [
        f"row 2, {field}: A is the key of row 1 too, but for upper and lower case"
    ]


def test_a_key_differs_from_digests_too() -> None:
    """Rule: a digest copied into a key does not stand for two rows."""
    (row,) = parsed(jsonl({"prompt": "a"}))
    assert told(jsonl({"prompt": "a"}, {"prompt": "b", "key": row.key})) == [
        f"row 2, key: {row.key} is the key of row 1 too"
    ]


# --- defaults -----------------------------------------------------------------------------------


def test_defaults_hold_where_the_endpoint_knows_them_and_the_row_is_silent() -> None:
    """Rule: a row's own field wins, null is silence, and other endpoints are left alone."""
    rows = parsed(
        jsonl(
            {"prompt": "a", "endpoint": "generate-pro"},
            {"prompt": "a", "endpoint": "generate-2", "resolution": "4K"},
            {"prompt": "a", "endpoint": "generate-2", "resolution": None},
            {"prompt": "a"},
        ),
        resolution="2K",
    )
    contents = [row.request.content().get("resolution") for row in rows if row.request]
    assert contents == ["2K", "4K", "2K", None]


def test_the_type_is_inferred_from_default_images() -> None:
    """Rule: images given as a default make an image to image request."""
    (row,) = parsed(jsonl({"prompt": "a"}), image_urls=["https://x/a.png"])
    assert row.request
    assert row.request.content()["type"] == "IMAGETOIAMGE"


def test_a_default_that_no_endpoint_asked_knows_is_told() -> None:
    """Rule: what can have no effect was not meant so."""
    assert told(jsonl({"prompt": "a"}), resolution="2K") == [
        "defaults.resolution: applies to no row: only generate-pro and generate-2 can have it"
    ]


@pytest.mark.parametrize(
    "row", [{"task_id": "t"}, {"prompt": "a", "endpoint": "generate-2", "resolution": "1K"}]
)
def test_a_default_that_nobody_needs_tonight_is_no_problem(row: object) -> None:
    """Rule: a deployment's defaults fit any manifest that could use them."""
    assert parsed(jsonl(row), resolution="2K")


def test_a_default_that_an_endpoint_refuses_is_told_once() -> None:
    """Rule: one wrong default is one problem, however many rows it meets."""
    rows = [{"prompt": "a", "endpoint": "generate-pro"}] * 50 + [
        {"prompt": "a", "endpoint": "generate-2"}
    ]
    (problem,) = told(jsonl(*rows), aspectRatio="1:8")
    assert problem.startswith("defaults.aspectRatio: must be one of 1:1, ")
    assert problem.endswith("not 1:8 (generate-pro)")


def test_defaults_describe_themselves() -> None:
    """Rule: Prefect's form shows a sentence at each field, and refuses what is unknown."""
    properties = RowDefaults.model_json_schema()["properties"]
    assert {"endpoint", "numImages", "image_size", "imageUrls"} < properties.keys()
    assert all(field["description"].endswith(".") for field in properties.values())
    assert RowDefaults(num_images=2) == RowDefaults.model_validate({"numImages": 2})
    for wrong in (
        *({"prompt": "a"}, {"num_images": 9}, {"resolution": "8K"}, {"type": "x"}),
        *({"num_images": True}, {"google_search": "yes"}),
    ):
        with pytest.raises(ValidationError):
            RowDefaults.model_validate(wrong)


# --- JSONL --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_blank_lines_line_ends_and_a_mark_change_nothing(ending: str, mark: bytes) -> None:
    """Rule: rows are numbered by line, whatever the editor."""
    lines = ['{"prompt": "a"}', "", "  ", '{"prompt": "b"}', ""]
    assert [row.number for row in parsed(mark + ending.join(lines).encode())] == [1, 4]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a"', "row 2: is not JSON at line 2, column 15: Expecting ',' delimiter"),
        ("{'prompt': 1}", "row 2: is not JSON at line 2, column 2: Expecting property name"),
        ('{"prompt": NaN}', "row 2: is not JSON in line 2: JSON has no NaN"),
        ('{"prompt": ' + "9" * 5000 + "}", "row 2: is not JSON in line 2: a number has too many"),
        ("[" * 200_000, "row 2: is not JSON in line 2: it is nested too deeply"),
        ("[1]", "row 2: must be a JSON object"),
        ("7", "row 2: must be a JSON object"),
        ('{"prompt": "a", "prompt": "b"}', "row 2, prompt: is given twice"),
    ],
)
def test_a_line_that_is_no_row_is_told_and_the_others_are_checked(line: str, says: str) -> None:
    """Rule: invalid JSON names line and column, and hides no other problem."""
    problems = told('{"prompt": "a"}\n' + line + '\n{"prompt": ""}')
    assert problems[0].startswith(says)
    assert problems[-1] == "row 3, prompt: must not be blank"
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'[{"prompt": "a"},\n{"prompt": "b"}]', "this is a JSON array; write one object per line"),
        (b"\n\n [\n]", "this is a JSON array; write one object per line"),
        (b'{\n  "prompt": "a"\n}\n', "this is pretty-printed JSON; write one object per line"),
        (b"", "it has no rows"),
        (b" \n\r\n", "it has no rows"),
        (b"\xef\xbb\xbf", "it has no rows"),
        ('{"prompt": "a"}'.encode("utf-16"), "line 1 begins as UTF-16 does. Save the file as"),
        ('{"prompt"'.encode("utf-16-le"), "line 1 holds a NUL byte, as UTF-16 does. Save the"),
        (b'{"prompt": "a"}\n{"prompt": "\0"}', "line 2 holds a NUL byte"),
    ],
)
@pytest.mark.parametrize("source", ["rows.jsonl", "rows.JSON", "s3://bucket/rows.ndjson"])
def test_what_cannot_be_split_into_rows_is_one_problem(data: bytes, says: str, source: str) -> None:
    """Rule: a wrong kind of file gets one clear message, not one per line."""
    (problem,) = told(data, source)
    assert problem.startswith(says)


def test_bytes_that_are_no_utf_8_are_told_by_line() -> None:
    """Rule: the line and the byte are named, and the other rows are checked."""
    assert told(b'{"prompt": ""}\n{"prompt": "caf\xe9"}') == [
        "row 1, prompt: must not be blank",
        "row 2: byte 16 of line 2 is not UTF-8. Save the file as UTF-8.",
    ]


def test_the_format_is_told_by_extension_or_first_character() -> None:
    """Rule: without a known extension, what begins with a brace is JSONL, the rest is unknown."""
    assert parsed(b'\xef\xbb\xbf\n{"prompt": "a"}', "rows")
    assert parsed(jsonl({"prompt": "a"}), "rows.txt")
    assert parsed("prompt\na", "rows.CSV")
    (problem,) = told("prompt\na", "rows.tsv")
    assert problem == "its format is not known. Name it .jsonl, or .csv if it has a header."


# --- CSV ----------------------------------------------------------------------------------------


def test_a_csv_row_is_understood_by_its_columns() -> None:
    """Rule: text stays text, other cells mean numbers, booleans and lists; empty ones nothing."""
    text = (
        "prompt,name,imageUrls,numImages,google_search,endpoint,task_id\r\n"
        '007,a,"https://x/a  https://x/b", 2 ,,,\r\n'
        '"two\nlines, ""quoted""",, "",,TRUE,generate-2,\r\n'
        ",\r\n"
        "\r\n"
        '" b ",b,"[""https://x/a,b""]"\r\n'
        ",c,,,,, t-1\r\n"
    ).replace(', "",', ",,")
    bond, lines, listed, named = parsed(text, "rows.csv")
    assert [row.number for row in (bond, lines, listed, named)] == [2, 3, 6, 7]
    assert bond.request
    assert bond.request.prompt == "007"
    assert bond.request.image_urls == ("https://x/a", "https://x/b")
    assert bond.request.images_asked_for == 2
    assert lines.request
    assert lines.request.content() == {
        "prompt": 'two\nlines, "quoted"',
        "googleSearch": True,
    }
    assert listed.request
    assert listed.request.prompt == " b "
    assert listed.request.image_urls == ("https://x/a,b",)
    assert (named.task_id, named.name) == ("t-1", "c")


@pytest.mark.parametrize(
    ("column", "cell", "means"),
    [
        *(("googleSearch", cell, True) for cell in ("true", "TRUE", " True ", "yes", "1")),
        *(("googleSearch", cell, False) for cell in ("false", "FALSE", "no", "0")),
        *(("numImages", cell, 2) for cell in ("2", " 2 ", "2.0")),
    ],
)
def test_cells_are_text_and_mean_numbers_and_booleans(
    column: str, cell: str, means: object
) -> None:
    """Rule: what a spreadsheet writes into a cell is understood."""
    endpoint = "generate" if column == "numImages" else "generate-2"
    (row,) = parsed(f"prompt,endpoint,{column}\na,{endpoint},{cell}", "rows.csv")
    assert row.request
    value = row.request.content()[column]
    assert (value, type(value)) == (means, type(means))


def test_the_same_rows_in_both_formats_are_recognised_as_the_same() -> None:
    """Rule: converting a manifest changes no key and no digest."""
    table = parsed("prompt,numImages,imageUrls\na fox,2,https://x/a", "rows.csv")
    lines = parsed(jsonl({"prompt": "a fox", "numImages": 2, "imageUrls": ["https://x/a"]}))
    assert [row.key for row in table] == [row.key for row in lines]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt;name\na;b", "its cells are separated by semicolons; use commas"),
        ('"prompt";"name"\na;b', "its cells are separated by semicolons; use commas"),
        ("prompt\tname\na\tb", "its cells are separated by tabs; use commas"),
        ("prompt,,name\na,b,c\nd,e,f", "row 2: has a value in column 2, which has no name in the"),
        (
            ",prompt\n0,a\n1,b",
            "row 2: has a value in column 1, which has no name in the header; pan",
        ),
        ("prompt,prompt\na,b", "row 1, prompt: is the name of 2 columns"),
        ("prompt,name\na,b,c", "row 2: has 3 cells, and the header 2; is a comma not within"),
        ("prompt\n", "it has no rows"),
        ("prompt,promt\na,b\na,c", "row 1, promt: unknown field; did you mean prompt?"),
        ("prompt,callBackUrl\na,x", "row 1, callBackUrl: is not for rows"),
        ("prompt,resolution\na,2K", "row 2, resolution: generate has no resolution"),
        ('prompt\n"a\nb', "row 2: has a quote that is left open"),
        ('prompt\n"a"b', "row 2: has text after a closing quote"),
        ("prompt\ra\rb", "row 1: has a carriage return by itself"),
        ('prompt\n"' + "x\n" * 100_000 + '"', "row 2: has a cell that is too long for CSV"),
        ('prompt,imageUrls\na,[""]', "row 2, imageUrls: item 1 must not be blank"),
        ("prompt,imageUrls\na,[1", "row 2, imageUrls: must be a list of URLs"),
        ("prompt,numImages\na,two", "row 2, numImages: must be a whole number, not two"),
        (
            "prompt,endpoint,googleSearch\na,generate-2,perhaps",
            "row 2, googleSearch: must be true or false, not perhaps",
        ),
        ("prompt,name\na,b.png", "row 2, name: leave the extension out"),
    ],
)
def test_a_csv_problem_is_told_where_a_spreadsheet_shows_it(text: str, says: str) -> None:
    """Rule: rows are counted as a spreadsheet does, and a column's problem is told once."""
    (problem,) = told(text, "rows.csv")
    assert problem.startswith(says)


def test_a_quote_left_open_hides_no_problem_before_it() -> None:
    """Rule: what can be checked is checked, up to where rows cannot be told apart."""
    assert told('prompt,numImages\na,9\n"b', "rows.csv") == [
        "row 2, numImages: must be at most 4, not 9",
        "row 3: has a quote that is left open",
    ]
    assert told(b"prompt,numImages\na,9\ncaf\xe9,9", "rows.csv") == [
        "row 2, numImages: must be at most 4, not 9",
        "row 3: byte 4 of line 3 is not UTF-8. Save the file as UTF-8.",
    ]


SAMPLES = Path(__file__).parent / "samples"

BOTH = ("https://img.example.org/a.png", "https://img.example.org/b.png")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("joined.csv", ["row 3: repeats the header in row 1; were two files put together?"]),
        ("joined-typed.csv", ["row 3: repeats the header in row 1; were two files put together?"]),
        (
            "excel-errors.csv",
            [
                "row 2, prompt: holds #REF!, a spreadsheet's error.",
                "row 3, prompt: holds #N/A, a spreadsheet's error.",
                "row 4, prompt: holds #NAME?, a spreadsheet's error.",
                "row 5, prompt: holds None, which programs write for no value.",
                "row 6, prompt: holds nan, which programs write for no value.",
                "row 7, prompt: holds TODO, which is still to be filled in",
                "row 8, prompt: holds a template's place that was not filled in",
            ],
        ),
        (
            "pandas-nan.csv",
            [f"row 2, {name}: holds nan, which" for name in ("name", "imageUrls", "numImages")],
        ),
        ("semicolon-with-comma.csv", ["its cells are separated by semicolons; use commas"]),
        ("sep-line.csv", ["line 1 is `sep=,`, which only Excel reads. Delete the line"]),
        ("workbook-renamed.csv", ["this is a spreadsheet workbook (.xlsx). Save its sheet"]),
        ("workbook.xlsx", ["this is a spreadsheet workbook (.xlsx). Save its sheet"]),
        ("packed.csv.gz", ["this is compressed (gzip). Unpack it"]),
        ("sign-in-page.csv", ["this is an HTML page, perhaps one to sign in"]),
    ],
)
def test_a_file_that_went_wrong_before_is_told_as_what_it_is(file: str, says: list[str]) -> None:
    """Rule: each problem of a file that people did give is named once, with the next step."""
    problems = told((SAMPLES / file).read_bytes(), file)
    assert len(problems) == len(says)
    for problem, start in zip(problems, says, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("file", "means"),
    [
        ("comma.csv", [("join", BOTH)]),
        ("semicolon.csv", [("join", BOTH)]),
        ("trailing-empty-cells.csv", [("boat", None), ("car", None)]),
        ("trailing-empty-columns.csv", [("boat", None), ("car", None)]),
    ],
)
def test_a_file_that_is_clear_is_read(file: str, means: list[tuple[str, object]]) -> None:
    """Rule: what can have only one meaning has it."""
    rows = parsed((SAMPLES / file).read_bytes(), file)
    assert [(row.name, row.request and row.request.image_urls) for row in rows] == means


@pytest.mark.parametrize(
    ("cell", "urls"),
    [
        ("https://x/a,https://x/b", ["https://x/a", "https://x/b"]),
        ("https://x/a, https://x/b", ["https://x/a", "https://x/b"]),
        ("https://x/a ,https://x/b,", ["https://x/a", "https://x/b"]),
        ("https://x/a;https://x/b; ", ["https://x/a", "https://x/b"]),
        ("https://x/a|http://x/b", ["https://x/a", "http://x/b"]),
        ("https://x/a\n,\nhttps://x/b", ["https://x/a", "https://x/b"]),
        ("https://x/a\thttps://x/b", ["https://x/a", "https://x/b"]),
        ("https://x/w_100,h_50/a;v=1", ["https://x/w_100,h_50/a;v=1"]),
        ("https://x/a,b.png", ["https://x/a,b.png"]),
        ("https://x/?u=https://y/a", ["https://x/?u=https://y/a"]),
        ('["https://x/a,b", "https://x/c"]', ["https://x/a,b", "https://x/c"]),
    ],
)
def test_the_urls_in_a_cell_are_told_apart(cell: str, urls: list[str]) -> None:
    """Rule: white space, or a comma and the like before http, ends a URL; no other comma does."""
    table = io.StringIO()
    csv.writer(table).writerows([["prompt", "imageUrls"], ["a", cell]])
    (row,) = parsed(table.getvalue(), "a.csv")
    assert row.request
    assert list(row.request.image_urls or ()) == urls


@pytest.mark.parametrize("mark", [",", ";", "|"])
def test_joined_urls_in_one_item_of_a_list_are_refused(mark: str) -> None:
    """Rule: what lists say of their items is not changed, and a broken URL is never paid for."""
    joined = f"https://x/a{mark}HTTPS://s3cr3t/b"
    says = "item 2 joins several URLs. Write each as an item of its own"
    assert problem_of(prompt="a", imageUrls=["https://x/c", joined]).startswith(
        f"imageUrls: {says}"
    )
    table = io.StringIO()
    rows = [["prompt", "imageUrls"], ["a", json.dumps(["https://x/c", joined])]]
    csv.writer(table).writerows(rows)
    (problem,) = told(table.getvalue(), "a.csv")
    assert problem.startswith(f"row 2, imageUrls: {says}")
    assert "s3cr3t" not in problem


@pytest.mark.parametrize(
    "row",
    [
        "prompt,name,numImages",
        "prompt,name,",
        "\ufeffprompt,name,numImages",
        " Prompt , NAME ,numImages",
        '"prompt","name","numImages"',
        "name,prompt,image_urls",
        "task_id,name",
    ],
)
def test_a_header_among_the_rows_is_refused(row: str) -> None:
    """Rule: a header is no prompt, whatever its marks, case and order of columns."""
    text = f"prompt,name,numImages\r\nA boat,boat,2\r\n{row}\r\nA car,car,1\r\n"
    (problem,) = told(text, "rows.csv")
    assert problem.startswith("row 3: repeats the header in row 1")


@pytest.mark.parametrize(
    "text",
    ["prompt,name\nkey,key\n", "prompt,name\nwatermark,w\n", "prompt,name\nA prompt,prompt\n"],
)
def test_a_row_may_hold_the_name_of_a_field(text: str) -> None:
    """Rule: a picture of a key is none of a header."""
    assert len(parsed(text, "rows.csv")) == 1


def test_a_header_that_became_a_row_of_jsonl_is_refused() -> None:
    """Rule: joined tables that were converted are told alike, but one word is a prompt."""
    (problem,) = told(jsonl({"prompt": "a"}, {"prompt": "prompt", "name": "name"}))
    assert problem.startswith("row 2: repeats a header; were two files put together?")
    assert len(parsed(jsonl({"prompt": "prompt"}))) == 1


PLACEHOLDERS = {
    "a spreadsheet's error": (
        "#REF!",
        "#N/A",
        "#VALUE!",
        "#DIV/0!",
        "#NAME?",
        "#ERROR!",
        "Err:502",
    ),
    "no value": ("nan", "NaN", "NaT", "<NA>", "N/A", "None", "NULL", "undefined", " nan "),
    "a template's place": ("{{prompt}}", "a {{ colour }} cat", "${prompt}", "{% for x in y %}"),
    "a formula": ("=A1", "=CONCAT(A1;B1)", "=Sheet1!B$2&C2"),
    "too narrow": ("#####",),
}
IN_PROMPTS = {
    "a template's place": ("{prompt}", "<YOUR PROMPT>", "[prompt]", "%PROMPT%", "$PROMPT"),
    "still to be filled in": ("TODO", "tbd", "FIXME:", "Lorem ipsum"),
    "only punctuation": ("-", "???", "..."),
}


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        *((cell, says) for says, cells in PLACEHOLDERS.items() for cell in cells),
        *((cell, says) for says, cells in IN_PROMPTS.items() for cell in cells),
    ],
)
def test_a_cell_without_a_value_is_no_prompt(cell: str, says: str) -> None:
    """Rule: it is refused as what it looks like, and JSONL takes the same text as it stands."""
    table = io.StringIO()
    csv.writer(table).writerows([["prompt"], [cell]])
    (problem,) = told(table.getvalue(), "rows.csv")
    assert problem.startswith("row 2, prompt: holds ")
    assert says in problem
    assert len(parsed(jsonl({"prompt": cell}))) == 1


@pytest.mark.parametrize(
    "column", ["name", "key", "task_id", "imageUrls", "numImages", "watermark", "endpoint"]
)
@pytest.mark.parametrize("cell", ["nan", "#N/A", "{{x}}"])
def test_a_cell_without_a_value_is_refused_in_every_column(column: str, cell: str) -> None:
    """Rule: it is one problem a cell, so no file is called nan and no task id is."""
    first = "" if column == "task_id" else "a"
    for rows in (f"{first},{cell}", f"{first},{cell}\n{first},{cell}"):
        problems = told(f"prompt,{column}\n{rows}", "rows.csv")
        assert len(problems) == rows.count("\n") + 1
        assert all(f", {column}: holds " in problem for problem in problems)


@pytest.mark.parametrize(
    "prompt",
    [
        "A nan bread",
        "Nanjing at dawn",
        "none of the above",
        "#1 in the charts",
        "a #ERROR sign",
        "=^.^= a cat",
        "$100 on a table",
        "🐈",
        "猫",
        "{a} and <b> and [c]",
        "a braced {word}",
        "a todo list",
    ],
)
def test_a_prompt_that_only_resembles_a_placeholder_is_read(prompt: str) -> None:
    """Rule: what says something is a prompt."""
    (row,) = parsed(f'prompt\n"{prompt}"\n', "rows.csv")
    assert row.request
    assert row.request.prompt == prompt


@pytest.mark.parametrize(
    "text",
    [
        "prompt,name,,,\na,b,,,\n",
        "prompt,,name\na,,b\n",
        ",prompt,name\n,a,b\n",
        "prompt,name\na,b,,,,\n",
        "prompt,name\na,b, ,\t\n",
        "prompt,name,\na,b\n,,,,\n",
        '\ufeffprompt,name,""\r\na,b,""\r\n',
    ],
)
def test_empty_columns_and_cells_mean_nothing(text: str) -> None:
    """Rule: a column with neither a name nor a value is none, wherever it is."""
    (row,) = parsed(text, "rows.csv")
    assert (row.name, row.request and row.request.prompt) == ("b", "a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt;name;note, internal\na;b;c", "its cells are separated by semicolons"),
        ('\ufeff"prompt";"a, b"\na;b', "its cells are separated by semicolons"),
        ("note, internal;prompt;name\na;b;c", "its cells are separated by semicolons"),
        ("prompt\tname\tnote, internal\na\tb\tc", "its cells are separated by tabs"),
        ("prompt|name\na|b", "its cells are separated by vertical bars"),
        ("sep=,\nprompt,name\na,b", "line 1 is `sep=,`"),
        ("\ufeffSEP=;\r\nprompt;name\r\na;b", "line 1 is `SEP=;`"),
        ('"sep=,"\nprompt,name\na,b', 'line 1 is `"sep=,"`'),
        ('{"prompt": "a"}\n', "this is JSON. Write one object per line, and name it .jsonl."),
        ('[{"prompt": "a"}]', "this is JSON. Write one object per line, and name it .jsonl."),
    ],
)
def test_other_tables_are_told_as_what_they_are(text: str, says: str) -> None:
    """Rule: the separator is that which makes known columns, whatever else is in the header."""
    (problem,) = told(text, "rows.csv")
    assert problem.startswith(says)


def _zipped(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return packed.getvalue()


@pytest.mark.parametrize("file", ["rows.csv", "rows.jsonl", "rows"])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_zipped("[Content_Types].xml", "xl/workbook.xml"), "this is a spreadsheet workbook (.xl"),
        (_zipped("[Content_Types].xml", "word/document.xml"), "this is a Word document"),
        (_zipped("Index/Document.iwa"), "this is a spreadsheet workbook (.numbers)"),
        (_zipped("rows.csv"), "this is compressed (zip)"),
        (gzip.compress(b"prompt\na", mtime=0), "this is compressed (gzip)"),
        (bz2.compress(b"prompt\na"), "this is compressed (bzip2)"),
        (lzma.compress(b"prompt\na"), "this is compressed (xz)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(9), "this is a spreadsheet workbook, or"),
        (b"PAR1" + bytes(9), "this is a Parquet file"),
        (b"%PDF-1.7\n", "this is a PDF document"),
        (b"\x89PNG\r\n\x1a\n", "this is an image"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE HTML PUBLIC>", "this is an HTML page"),
        (b"<!-- login --><html>", "this is an HTML page"),
        (b"<HTML><head>", "this is an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "this is XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "this is a Git LFS pointer"),
        ("prompt".encode("utf-32"), "line 1 begins as UTF-32 does"),
        ("prompt\tname\na\tb".encode("utf-16"), "line 1 begins as UTF-16 does"),
    ],
)
def test_a_file_of_another_kind_is_one_problem(data: bytes, says: str, file: str) -> None:
    """Rule: whatever its name, what it is and what to do is told, not what its bytes are like."""
    (problem,) = told(data, file)
    assert problem.startswith(says)


# --- limits -------------------------------------------------------------------------------------


def test_a_row_beyond_the_limit_is_named_with_its_size_and_not_copied() -> None:
    """Rule: a line of 50 MB costs no memory, and hides no other row."""
    data = b'{"prompt": "a"}\n{"prompt": "' + b"x" * 50_000_000 + b'"}\n{"prompt": ""}'
    tracemalloc.start()
    problems = told(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert problems == [
        "row 2: has 50,000,014 bytes, and a row at most 1,048,576",
        "row 3, prompt: must not be blank",
    ]
    assert peak < 5_000_000


def test_a_csv_row_beyond_the_limit_is_named_with_its_size() -> None:
    """Rule: the limit holds for a long line, and for many lines within one open quote."""
    (long,) = told("prompt\n" + "x" * 2_000_000, "rows.csv")
    assert long == "row 2: has 2,000,000 bytes, and a row at most 1,048,576"
    cells = ",".join(["x" * 1000 + "\n"] * 3)
    (many,) = told('prompt\n"' + cells * 400, "rows.csv")
    assert re.match(r"row 2: has (1,04\d,\d+ bytes|a cell that is too long)", many)


def test_the_largest_row_is_a_row() -> None:
    """Rule: the limit itself is allowed."""
    frame = len(b'{"prompt": ""}')
    full = b'{"prompt": "' + b"x" * (formats.MAX_ROW_BYTES - frame) + b'"}'
    assert len(parsed(full)) == 1
    assert "1,048,577 bytes" in told(full + b" ")[0]


def test_more_rows_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: the first row too many is named, whether rows are sound or not."""
    monkeypatch.setattr(formats, "MAX_ROWS", 3)
    assert len(parsed(jsonl(*({"prompt": str(n)} for n in range(3))))) == 3
    assert told(jsonl(*({"prompt": str(n)} for n in range(9)))) == [
        "row 4: is one too many: a manifest has at most 3 rows"
    ]
    assert len(told(b"x\n" * 9, "rows.json")) == 4
    assert told("prompt\na\nb\nc\nd\ne", "rows.csv")[-1].startswith("row 5: is one too many")


def test_a_file_beyond_the_limit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: the size is told before anything is looked at."""
    monkeypatch.setattr(formats, "MAX_FILE_BYTES", 10)
    assert told(b"x" * 11) == ["it has 11 bytes, and a manifest at most 10"]


# --- properties ---------------------------------------------------------------------------------

SOURCES = st.sampled_from(["a.jsonl", "a.csv", "a"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from([*NAMES, "callBackUrl", "promt"])
PLAUSIBLE = st.sampled_from(["a", "generate-2", "2K", "1:1", "jpg", 2, True, ["https://x/y"], None])
ROWS = st.lists(st.dictionaries(FIELDS | st.text(), PLAUSIBLE | JSON, max_size=6), max_size=6)


def manifest_or_problems(data: bytes, source: str, **defaults: Any) -> None:
    try:
        manifest = parse_manifest(data, source=source, defaults=RowDefaults(**defaults))
    except InvalidManifest as error:
        str(error).encode()
        return
    assert manifest.rows
    assert manifest.digest == hashlib.sha256(data).hexdigest()
    keys = [row.key for row in manifest.rows]
    assert len(set(keys)) == len(keys)
    assert all((row.task_id is None) != (row.request is None) for row in manifest.rows)


@given(st.binary(max_size=300), SOURCES)
@example(b"prompt\n\r\r", "a.csv")
@example(b'{"prompt":1}\n[', "a")
def test_any_bytes_are_a_manifest_or_have_problems(data: bytes, source: str) -> None:
    """Rule: no bytes raise anything else."""
    manifest_or_problems(data, source)


@given(ROWS, st.sampled_from([{}, {"endpoint": "generate-2", "resolution": "2K"}]))
def test_any_objects_are_a_manifest_or_have_problems(
    rows: list[dict[str, Any]], defaults: dict[str, Any]
) -> None:
    """Rule: no JSON value in any field raises anything else."""
    manifest_or_problems(jsonl(*rows), "a.jsonl", **defaults)


@given(st.lists(st.lists(st.text() | FIELDS, max_size=5), max_size=6))
def test_any_table_is_a_manifest_or_has_problems(rows: list[list[str]]) -> None:
    """Rule: no text in any cell raises anything else."""
    table = io.StringIO()
    csv.writer(table).writerows([["prompt", "name", "imageUrls", "numImages", "endpoint"], *rows])
    manifest_or_problems(table.getvalue().encode("utf-8", "surrogatepass"), "a.csv")


@given(st.lists(st.text().filter(lambda text: text.strip() and max(text) < "\ud800"), min_size=1))
def test_a_prompt_comes_out_of_a_table_as_it_went_in(prompts: list[str]) -> None:
    """Rule: text fields keep their text, whatever quotes and line ends are in it."""
    prompts = [prompt.replace("\0", "") or "x" for prompt in prompts]
    prompts = [prompt for prompt in prompts if prompt.strip()] or ["x"]
    assume(not any(placeholder(prompt, is_prompt=True) for prompt in prompts))
    assume(not any("prompt" in prompt.lower() for prompt in prompts))  # may repeat the header
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_ALL)
    writer.writerows([["prompt"], *([prompt] for prompt in prompts)])
    rows = parsed(table.getvalue(), "a.csv")
    assert [row.request and row.request.prompt for row in rows] == prompts


# --- reading ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


async def test_a_local_file_is_read_by_path_or_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: relative paths and file URLs name the file that a person would expect."""
    (tmp_path / "rows.csv").write_text("prompt,resolution\na fox,\n")
    monkeypatch.chdir(tmp_path)
    for url in (
        "rows.csv",
        " rows.csv ",
        str(tmp_path / "rows.csv"),
        f"file://{tmp_path}/rows.csv",
    ):
        manifest = await read_manifest(url)
        assert isinstance(manifest, Manifest)
        assert [row.number for row in manifest.rows] == [2]


async def test_a_file_is_read_from_s3(s3: S3Server) -> None:
    """Rule: any fsspec URL will do, with the options that its backend takes."""
    s3.client.put_object(Bucket="bucket", Key="batches/rows.jsonl", Body=jsonl({"prompt": "a"}))
    s3.client.put_object(Bucket="bucket", Key="rows.csv", Body=b"prompt\na\n")
    url = "s3://bucket/batches/rows.jsonl"
    manifest = await read_manifest(
        url, defaults=RowDefaults(num_images=2), storage_options=s3.options()
    )
    (row,) = manifest.rows
    assert row.request
    assert row.request.images_asked_for == 2
    top = await read_manifest("s3://bucket/rows.csv", storage_options=s3.options())
    assert top.rows[0].request


@pytest.mark.parametrize("url", ["memory://{0}.jsonl", "memory://{0}/rows.jsonl"])
async def test_a_file_is_read_from_memory(url: str) -> None:
    """Rule: a file needs no folder around it."""
    place = url.format(uuid.uuid4().hex)
    fsspec.filesystem("memory").pipe_file(place, jsonl({"prompt": "a"}))
    assert len((await read_manifest(place)).rows) == 1


async def test_a_message_names_the_file() -> None:
    """Rule: an invalid manifest is told by where it is."""
    place = f"memory://{uuid.uuid4().hex}/rows.jsonl"
    fsspec.filesystem("memory").pipe_file(place, b"[]")
    with pytest.raises(InvalidManifest, match=re.escape(f"{place} has 1 problem:\nthis is a JSON")):
        await read_manifest(place)


async def test_a_file_that_is_not_there_is_told(s3: S3Server, tmp_path: Path) -> None:
    """Rule: a missing file, and a missing bucket, are told by name."""
    places = [
        str(tmp_path / "rows.jsonl"),
        str(tmp_path / "no" / "rows.jsonl"),
        "memory://nothing/here.jsonl",
    ]
    for place in places:
        with pytest.raises(DestinationError, match="there is no such file") as caught:
            await read_manifest(place)
        assert str(caught.value).startswith(place)
    for place in ("s3://bucket/no.jsonl", "s3://bukket/rows.jsonl"):
        with pytest.raises(DestinationError, match="there is no such file") as caught:
            await read_manifest(place, storage_options=s3.options())
        assert str(caught.value).startswith(place)


async def test_a_folder_is_told_to_be_one(s3: S3Server, tmp_path: Path) -> None:
    """Rule: of a folder, the file in it is asked for."""
    for place in (str(tmp_path), "/"):
        with pytest.raises(DestinationError, match=r"this is a folder\. Name the file in it"):
            await read_manifest(place)
    s3.client.put_object(Bucket="bucket", Key="folder/rows.jsonl", Body=b"{}")
    with pytest.raises(DestinationError, match="it is a folder"):
        await read_manifest("s3://bucket/folder", storage_options=s3.options())
    with pytest.raises(DestinationError, match="it names no file"):
        await read_manifest("s3://bucket", storage_options=s3.options())


async def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Rule: a file without an end or a size is refused before it is opened."""
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DestinationError, match="no regular file"):
        await read_manifest(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "the manifest is blank"),
        ("  ", "the manifest is blank"),
        ("https://ann:s3cr3t@x/rows.jsonl?s3cr3t", "not read over http"),
        ("s4://ann:s3cr3t@bucket/rows.jsonl", "fsspec knows no protocol 's4'"),
        ("s3:/bucket/rows.jsonl", "Write s3://"),
        ("s3://bucket/rows.jsonl?s3cr3t", "has no `\\?`"),
        ("sftp://ann:s3cr3t@127.0.0.1:1/rows.jsonl", "sftp://ann@127.0.0.1:1/rows.jsonl"),
    ],
)
async def test_a_url_that_cannot_be_meant_is_refused(url: str, says: str) -> None:
    """Rule: a misspelt URL is told with the next step, and without its password."""
    with pytest.raises(DestinationError, match=says) as caught:
        await read_manifest(url)
    assert "s3cr3t" not in str(caught.value)


async def test_refused_credentials_are_told_and_not_shown(s3: S3Server) -> None:
    """Rule: no storage option is in a message."""
    options = s3.options(key="AKIAWRONG", secret="s3cr3t-wrong")
    with s3.checking_keys(), pytest.raises(DestinationError, match="refuses access") as caught:
        await read_manifest("s3://bucket/rows.jsonl", storage_options=options)
    assert str(caught.value).startswith("s3://bucket/rows.jsonl: ")
    assert "AKIAWRONG" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


async def test_options_that_the_backend_does_not_take_are_told() -> None:
    """Rule: a wrong option is a thing to change, and its value stays out of the message."""
    with pytest.raises(DestinationError, match="does not accept this") as caught:
        await read_manifest("s3://bucket/a.csv", storage_options={"client_kwargs": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)


async def test_a_storage_that_does_not_answer_is_given_up(s3: S3Server) -> None:
    """Rule: a limit on the time holds, and is told."""
    fsspec.get_filesystem_class("s3")  # its import takes longer than the limit
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = s3.options() | {"client_kwargs": {"endpoint_url": endpoint}}
        file = Source.parse("s3://bucket/rows.jsonl")
        with pytest.raises((StorageError, DestinationError), match=r"no answer within 0\.2 s"):
            await file.read(options, seconds=0.2)


async def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: the size is asked for before the bytes."""
    with (tmp_path / "rows.jsonl").open("wb") as file:
        file.truncate(formats.MAX_FILE_BYTES + 1)
    monkeypatch.setattr("nanobanana_blocks.storage.destination.Destination.read", None)
    with pytest.raises(InvalidManifest, match="it has 268,435,457 bytes, and a manifest at most"):
        await read_manifest(str(tmp_path / "rows.jsonl"))
