"""Rows for endpoints that this version does not know: the same ledger, limits and landing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks.batches.manifest import InvalidManifest, RowDefaults, parse_manifest
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.batches import opened, rows_of
from tests.support.pictures import picture, public_folder
from tests.support.referencing import run, write_manifest

DONE = TaskPlan(seconds=0, media_type="image/png")
NEWER = {"endpoint": "generate-3", "prompt": "A fig", "fields": {"seed": 7}, "credits": 6}


@pytest.fixture(autouse=True)
def _newer_endpoint(sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=DONE, other_endpoints={"generate-3": 6})


def told(*rows: dict[str, Any]) -> list[str]:
    text = "\n".join(json.dumps(row) for row in rows)
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(text.encode(), source="rows.jsonl")
    return [str(problem) for problem in caught.value.problems]


def sent(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [dict(submit.body) for submit in sandbox.submits()]


async def test_a_row_is_submitted_in_the_services_own_fields(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: landed once, for its credits; its receipt tells endpoint and plain fields."""
    own = {"seed": 7, "style": {"name": "ink"}, "negative_prompt": "s3cr3t"}
    manifest = write_manifest(tmp_path, NEWER | {"name": "fig", "fields": own})
    images = StorageLocation(str(tmp_path / "images"))
    for _ in range(2):
        batch = await run(sandbox, manifest, images)
        assert batch.outcomes[1].in_storage
    (body,) = sent(sandbox)
    assert {name: body[name] for name in (*own, "prompt")} == own | {"prompt": "A fig"}
    assert sandbox.submits()[0].endpoint == "generate-3"
    receipt = json.loads((tmp_path / "images/fig.json").read_text())
    made = receipt["provenance"]
    assert made["endpoint"] == "generate-3"
    assert made["options"] == {"seed": 7}
    assert made["credits_estimated"] == 6
    assert "s3cr3t" not in json.dumps(receipt)


async def test_images_to_work_from_may_be_files(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: imageUrls among the service's own fields go the way of any other row's."""
    sandbox.configure(submitted_task=DONE, other_endpoints={"generate-3": 6}, fetch_references=True)
    (tmp_path / "logo.png").write_bytes(picture(1, "PNG"))
    with public_folder(tmp_path / "world") as world:
        manifest = write_manifest(tmp_path, NEWER | {"fields": {"imageUrls": ["logo.png"]}})
        images = StorageLocation(str(tmp_path / "images"))
        public = PublicPlace(StorageLocation(str(world.folder)), world.url)
        batch = await run(sandbox, manifest, images, public=public)
        assert batch.outcomes[1].in_storage
        assert sent(sandbox)[0]["imageUrls"][0].startswith(world.url)


def test_without_credits_nothing_is_spent() -> None:
    """Rule: the row, the near name and what to do are told."""
    row = {"endpoint": "generate-por", "prompt": "A fig"}
    (problem,) = told({"prompt": "A pear"}, row)
    assert problem.startswith("row 2, endpoint: must be one of generate, generate-pro, generate-2")
    assert "did you mean generate-pro?" in problem
    assert "give credits" in problem


@pytest.mark.parametrize(
    "row",
    [
        {"fields": {"numImages": 2}},
        {"credits": 4},
        {"endpoint": "generate-2", "fields": {"resolution": "4K"}, "credits": 18},
    ],
)
def test_a_known_endpoint_takes_no_fields_of_others(row: dict[str, Any]) -> None:
    """Rule: its own fields are checked; nothing goes past that check."""
    problems = told({"prompt": "A fig"} | row)
    assert problems
    assert all("does not know has it" in problem for problem in problems)


def test_a_typo_in_a_known_endpoints_field_stays_an_error() -> None:
    """Rule: credits do not make a request generic."""
    assert (
        "did you mean resolution?"
        in told({"prompt": "A fig", "endpoint": "generate-2", "resolutoin": "4K", "credits": 18})[0]
    )


@pytest.mark.parametrize(
    "name",
    [
        "../common/credit",
        "..",
        ".",
        "a//b",
        "/a",
        "a/",
        "a/../b",
        "a\\b",
        "a?b=1",
        "a#b",
        "a%2fb",
        "a@host",
        "//host/x",
        "https://host/x",
        "a b",
        "a\n",
        "",
        "a..b",
        "\u0430",
        "x" * 61,
        "record-info",
        "Record-Info",
        "Generate",
        7,
        ["generate-3"],
        {"a": 1},
        True,
    ],
)
def test_a_name_that_is_no_path_part(name: object) -> None:
    """Rule: it can reach no other path, host or query of the service."""
    (problem,) = told(NEWER | {"endpoint": name})
    assert problem.startswith("row 1, endpoint: ")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"credits": "6"}, "credits: must be a number, not 6"),
        ({"credits": -1}, "credits: must be at least 0"),
        ({"credits": True}, "credits: must be a number"),
        ({"fields": "seed=7"}, "fields: must be an object of the service's own fields"),
        ({"fields": [1]}, "fields: must be an object of the service's own fields"),
        ({"fields": {"callBackUrl": "https://s3cr3t"}}, "fields: must not have callBackUrl"),
        ({"fields": {"callback_url": "https://s3cr3t"}}, "fields: must not have callback_url"),
        ({"fields": {"prompt": "s3cr3t"}}, "fields: has prompt, which is given beside it too"),
        ({"fields": {"maskUrl": "s3cr3t.png"}}, "fields: has no URL in 'maskUrl'"),
        ({"fields": {"image_urls": ["row:a"]}}, "fields: has no URL in 'image_urls'"),
        ({"fields": {"a": "\ud800"}}, "fields: holds half of a surrogate pair"),
        ({"resolution": "2K"}, "generate-3 has no resolution; generate-pro and generate-2 have it"),
        ({"imageUrls": ["http:// s3cr3t"]}, "imageUrls: item 1 is no URL"),
    ],
)
def test_a_problem_is_told_without_what_was_written(change: dict[str, Any], says: str) -> None:
    """Rule: the field and the reason; no prompt and no URL."""
    (problem,) = told(NEWER | change)
    assert says in problem
    assert "s3cr3t" not in problem


def test_fields_that_are_nested_without_end() -> None:
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"a": deep}
    (problem,) = told(NEWER | {"fields": deep})
    assert "nested more than" in problem


def test_its_own_fields_are_a_part_of_what_a_row_is() -> None:
    """Rule: told by value, not by spelling; the estimate of its price is none of it."""

    def digest(**changes: Any) -> str:
        return rows_of(NEWER | changes)[0].digest

    base = digest(fields={"a": 1, "b": {"c": 2, "d": 3}})
    assert digest(fields={"b": {"d": 3.0, "c": 2}, "a": 1}) == base
    assert digest(fields={"a": 1, "b": {"c": 2, "d": 3}}, credits=7) == base
    assert digest(fields={"a": 1, "b": {"c": 2, "d": 4}}) != base
    assert digest(fields={"a": 1, "b": {"c": 2, "d": 3}}, endpoint="generate-4") != base
    named = digest(fields={"endpoint": "a"})
    assert digest(fields={"endpoint": "a"}, endpoint="generate-4") != named
    assert digest(fields={"endpoint": "b"}) != named
    (among,) = rows_of({"endpoint": "x", "credits": 1, "fields": {"prompt": "A fig"}})
    (beside,) = rows_of({"endpoint": "x", "credits": 1, "prompt": "A fig"})
    assert among.digest == beside.digest


def test_cells_of_a_csv_file() -> None:
    """Rule: `fields` holds JSON, `credits` a number; the row is that of JSONL."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["prompt", "endpoint", "fields", "credits"])
    writer.writerow(["A fig", "generate-3", json.dumps({"seed": 7}), "6"])
    writer.writerow(["A pear", "", "", ""])
    first, second = parse_manifest(out.getvalue().encode(), source="r.csv").rows
    assert first.digest == rows_of(NEWER)[0].digest
    assert first.credits == 6
    assert second.request is not None
    assert str(second.request.endpoint) == "generate"


def test_defaults_of_a_whole_file() -> None:
    """Rule: one endpoint, its fields and its price for all rows that give no others."""
    defaults = RowDefaults.model_validate(
        {"endpoint": "generate-3", "fields": {"seed": 7}, "credits": 6}
    )
    (row,) = parse_manifest(b'{"prompt": "A fig"}', source="r.jsonl", defaults=defaults).rows
    assert row.digest == rows_of(NEWER)[0].digest
    assert row.credits == 6


async def test_its_credits_count_for_the_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: max_credits of 13 takes two rows of 6."""
    rows = rows_of(*(NEWER | {"prompt": f"Fig {n}"} for n in range(3)))
    async with opened(sandbox, tmp_path, rows) as batch:
        batch.limit_credits(13)
        await batch.process_each(rows)
    assert len(sandbox.submits()) == 2
