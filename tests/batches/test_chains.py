"""Rows that build on rows: checked as a whole, parents first, and nothing is paid in vain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks.batches.attempts import Failure
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.manifest import InvalidManifest, Row, parse_manifest
from nanobanana_blocks.batches.manifest.chains import chains, parents_first
from nanobanana_blocks.batches.policies import OnContentPolicy
from nanobanana_blocks.errors import Unauthorized
from nanobanana_blocks.gallery.contents import read_contents
from nanobanana_blocks.landing.report import LandingStatus
from nanobanana_blocks.orchestration.observability.outcome_table import outcome_rows, summary_of
from nanobanana_blocks.orchestration.runs.batch_runs import Shard
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.pictures import PublicFolder, public_folder
from tests.support.referencing import opened, run, write_manifest
from tests.support.until import until

DONE = TaskPlan(seconds=0, media_type="image/png")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PublicFolder]:
    with public_folder(tmp_path / "world") as served:
        yield served


def on(*rows: str, **fields: Any) -> dict[str, Any]:
    """A row that builds on others."""
    return {"prompt": "Go on", "imageUrls": [f"row:{row}" for row in rows], **fields}


def rows_of(*rows: dict[str, Any]) -> tuple[Row, ...]:
    return parse_manifest("\n".join(map(json.dumps, rows)).encode(), source="r.jsonl").rows


def problems_of(*rows: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidManifest) as caught:
        rows_of(*rows)
    return [str(problem) for problem in caught.value.problems]


def test_the_whole_graph_is_checked_first() -> None:
    """Rule: unknown rows, wrong images and circles are told at once, with what else is wrong."""
    assert problems_of(
        {"prompt": "a", "name": "plate"},
        on("plat"),
        on("plate#2", "plate"),
        on("me", name="me"),
        on("c", name="b"),
        on("d", name="c"),
        on("b", name="d"),
        on("b", name="hangs-on-it"),
        {"prompt": "a", "name": "faulty", "numImages": 9},
        on("faulty"),
    ) == [
        "row 9, numImages: must be at most 4, not 9",
        "row 2, imageUrls: item 1 builds on row:plat, and no row has that name or key; "
        "did you mean row:plate?",
        "row 3, imageUrls: item 1 is image 2 of row 1, which asks for 1 only",
        "row 4, imageUrls: builds on itself: rows 4 → 4",
        "row 5, imageUrls: builds on itself: rows 5 → 6 → 7 → 5",
    ]


def test_a_long_circle_is_told_in_a_line() -> None:
    """Rule: ten thousand rows in a circle are one problem, found without recursion."""
    count = 10_000
    (problem,) = problems_of(*(on(f"r{(n + 1) % count}", name=f"r{n}") for n in range(count)))
    assert problem == (
        "row 1, imageUrls: builds on itself: rows 1 → 2 → 3 → 4 → 5 → 6 → 7 → 8 → … → 1"
    )


def test_names_come_before_keys_and_order_does_not_matter() -> None:
    """Rule: a row is named by its name or its key; it may stand anywhere; task ids are rows too."""
    rows = rows_of(
        on("late", "made"),
        {"prompt": "a", "key": "late"},
        {"task_id": "abc", "name": "made"},
        on("made#3"),
    )
    assert [row.builds_on for row in rows] == [(2, 3), (), (), (3,)]
    assert [row.number for row in parents_first(rows)[0]] == [2, 3, 1, 4]


def test_a_cell_of_a_table() -> None:
    """Rule: in CSV, rows are parted as URLs are."""
    table = b'prompt,name,imageUrls\na,p,\nb,q,\nc,,"row:p, row:q https://h/a.png"\n'
    rows = parse_manifest(table, source="rows.csv").rows
    assert rows[2].builds_on == (2, 3)
    assert rows[2].images == ("row:p", "row:q", "https://h/a.png")


def test_shards_keep_chains_together() -> None:
    """Rule: rows that build on each other are in one shard; without chains all is as it was."""
    manifest = parse_manifest(
        "\n".join(
            map(
                json.dumps,
                [
                    {"prompt": "a", "name": "a"},
                    {"prompt": "b", "name": "b"},
                    on("b", name="b2"),
                    {"prompt": "c"},
                    on("a", "a2", name="a3"),
                    on("a", name="a2"),
                ],
            )
        ).encode(),
        source="r.jsonl",
    )
    assert [[row.number for row in part] for part in chains(manifest.rows)] == [
        [1, 5, 6],
        [2, 3],
        [4],
    ]
    shards = [
        Shard(number=n, of=2, manifest_digest=manifest.digest, batch="b").rows_of(manifest)
        for n in (1, 2)
    ]
    assert [[row.number for row in rows] for rows in shards] == [[1, 4, 5, 6], [2, 3]]
    plain = parse_manifest(b'{"prompt":"a"}\n' * 7, source="r.jsonl")
    shard = Shard(number=2, of=3, manifest_digest=plain.digest, batch="b")
    assert list(shard.rows_of(plain)) == list(plain.rows[1::3])


@pytest.fixture
def chained(sandbox: Sandbox, tmp_path: Path, world: PublicFolder) -> Chained:
    sandbox.configure(submitted_task=DONE, fetch_references=True)
    return Chained(sandbox, tmp_path, world)


class Chained:
    """Runs chains into a local folder, with public copies."""

    def __init__(self, sandbox: Sandbox, folder: Path, world: PublicFolder) -> None:
        self.sandbox, self.folder = sandbox, folder
        self.images = StorageLocation(str(folder / "images"))
        self.public = PublicPlace(StorageLocation(str(world.folder)), world.url)

    def write(self, *rows: dict[str, Any]) -> str:
        return write_manifest(self.folder, *rows)

    async def run(self, manifest: str, **options: Any) -> Batch:
        return await run(self.sandbox, manifest, self.images, public=self.public, **options)


def statuses(batch: Batch) -> list[str]:
    return [batch.outcomes[row.number].status.value for row in batch.rows]


async def test_a_chain_of_three(chained: Chained) -> None:
    """Rule: each row's image is what the next works from; also where only one may be under way."""
    manifest = chained.write(
        on("second", "first", name="third"),
        on("first", name="second"),
        {"prompt": "Begin", "name": "first"},
    )
    batch = await chained.run(manifest, in_flight=1)
    assert statuses(batch) == ["landed"] * 3, batch.outcomes
    submits = chained.sandbox.submits()
    assert [len(submit.body.get("imageUrls", [])) for submit in submits] == [0, 1, 2]
    digests = [batch.outcomes[number].images[0].sha256 for number in (3, 2)]
    assert digests[0] in submits[1].body["imageUrls"][0]
    assert [url.rpartition("/")[2][:64] for url in submits[2].body["imageUrls"]] == digests[::-1]
    assert chained.sandbox.stats().references_fetched == 3
    again = await chained.run(manifest)
    assert statuses(again) == ["already_landed"] * 3
    assert len(chained.sandbox.submits()) == 3


async def test_what_builds_on_what_is_shown(chained: Chained) -> None:
    """Rule: summary, table and gallery tell it; a later gallery has it from the receipts."""
    manifest = chained.write(
        {"prompt": "a", "name": "root"}, on("root", name="stem"), on("root", "stem", name="leaf")
    )
    report = (await chained.run(manifest)).report(finished=True)
    assert [outcome.builds_on for outcome in report.outcomes] == [(), (1,), (1, 2)]
    assert "**Chains:** 2 rows build on images of other rows (2, 3); 2" in summary_of(report)
    assert [row["builds on"] for row in outcome_rows(report)] == ["", "1", "1, 2"]
    async with await chained.images.open() as folder:
        sizes = await folder.list()
        for known in (report, None):
            shown = {
                entry.title: entry.builds_on
                for entry in (await read_contents(folder, sizes, known)).entries
            }
            assert shown == {"root": None, "stem": "root", "leaf": "root, stem"}
    many = report.model_copy(update={"outcomes": report.outcomes[:1]})
    assert "builds on" not in outcome_rows(many)[0]
    assert "Chains" not in summary_of(many)


async def test_one_of_several_images(chained: Chained) -> None:
    """Rule: `#2` is the second image of a row; one that has not come is told, and not paid for."""
    chained.sandbox.configure(submitted_task=TaskPlan(seconds=0, media_type="image/png"))
    manifest = chained.write({"prompt": "a", "name": "two", "numImages": 2}, on("two#2"))
    batch = await chained.run(manifest)
    assert statuses(batch) == ["landed", "landed"]
    second = batch.outcomes[1].images[1].sha256
    assert second in chained.sandbox.submits()[1].body["imageUrls"][0]


async def test_what_builds_on_a_failed_row_is_blocked(chained: Chained) -> None:
    """Rule: it is blocked by that row, at any distance, and not failed; nothing is paid for it."""
    failing = TaskPlan(seconds=0, outcome="generate-failed", error_message="No such thing")
    chained.sandbox.configure(submitted_task=failing)
    manifest = chained.write(
        {"prompt": "a", "name": "root"}, on("root", name="stem"), on("stem", name="leaf")
    )
    batch = await chained.run(manifest)
    assert statuses(batch) == ["failed", "blocked", "blocked"]
    leaf = batch.outcomes[3]
    assert (leaf.blocked_by, leaf.submitted, leaf.task_id) == (1, False, "")
    assert leaf.error is not None
    assert leaf.error.message.startswith("blocked by row 1 (root), whose image has not landed")
    assert len(chained.sandbox.submits()) == 1
    report = batch.report(finished=True)
    assert report.counts == {
        "landed": 0,
        "already_landed": 0,
        "failed": 1,
        "timed_out": 0,
        "blocked": 2,
    }
    assert report.failures == {"GenerationFailed": 1}
    assert "**Blocked** by row 1 (root)" in summary_of(report)
    assert "2 rows build on it (2, 3)" in summary_of(report)
    kept = (chained.folder / "images/rows.report.json").read_text()
    assert '"status":"blocked"' in kept
    chained.sandbox.configure(submitted_task=DONE)
    assert statuses(await chained.run(manifest)) == ["failed", "blocked", "blocked"]
    on_request = await chained.run(manifest, retry=[Failure.GENERATION_FAILED])
    assert statuses(on_request) == ["landed"] * 3
    assert len(chained.sandbox.submits()) == 4


async def test_a_chain_whose_rows_are_refused(chained: Chained) -> None:
    """Rule: what lands by its alternative prompt is built on, and keeps its images to work from."""
    chained.sandbox.configure(flagged_words=("nude",))
    manifest = chained.write(
        {"prompt": "A nude fig", "name": "root", "promptOnContentPolicy": "A fig"},
        on("root", prompt="Also nude", name="leaf", promptOnContentPolicy="Dressed"),
    )
    failed = await chained.run(manifest)
    assert statuses(failed) == ["failed", "blocked"]
    take = {"on_content_policy": OnContentPolicy.ALTERNATIVE_PROMPT}
    batch = await chained.run(manifest, **take)
    assert statuses(batch) == ["landed", "landed"]
    submits = chained.sandbox.submits()
    prompts = ["A nude fig", "A fig", "Also nude", "Dressed"]
    assert [submit.body["prompt"] for submit in submits] == prompts
    root = batch.outcomes[1].images[0].sha256
    for submit in submits[2:]:
        assert root in submit.body["imageUrls"][0]
    assert statuses(await chained.run(manifest, **take)) == ["already_landed"] * 2
    assert len(chained.sandbox.submits()) == 4


async def test_a_run_that_ends_in_the_middle_is_gone_on_with(chained: Chained) -> None:
    """Rule: what has landed is built on, what was submitted is waited for; none is paid twice."""
    manifest = chained.write(
        {"prompt": "a", "name": "root"}, on("root", name="stem"), on("stem", name="leaf")
    )
    async with opened(
        chained.sandbox, manifest, chained.images, public=chained.public, timeout=600.0
    ) as batch:
        running = asyncio.create_task(batch.process_each(batch.rows))
        await until(lambda: 1 in batch.outcomes)
        chained.sandbox.configure(submitted_task=TaskPlan(seconds=None))
        await until(lambda: len(chained.sandbox.submits()) >= 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    before = len(chained.sandbox.submits())
    chained.sandbox.configure(submitted_task=DONE)
    batch = await chained.run(manifest, timeout=1.0)
    submits = chained.sandbox.submits()
    assert len(submits) in (before, 3)
    assert len(
        {submit.body["prompt"] + str(submit.body.get("imageUrls")) for submit in submits}
    ) == len(submits)
    assert statuses(batch)[0] == "already_landed"
    if before == 2:
        assert statuses(batch)[1:] == ["timed_out", "blocked"]


async def test_a_refused_key_ends_all_who_wait(chained: Chained) -> None:
    """Rule: what ends the run ends the waits of rows for other rows."""
    chained.sandbox.add_fault(Fault(kind="body-code", code=401, on="submit"))
    manifest = chained.write({"prompt": "a", "name": "root"}, *(on("root") for _ in range(3)))
    async with opened(chained.sandbox, manifest, chained.images, public=chained.public) as batch:
        waiting = [asyncio.create_task(batch.process(row)) for row in batch.rows]
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [Unauthorized] * 4


async def test_a_place_that_cannot_be_fetched_from(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: chains into a local folder need a public place, which is told before the first row."""
    manifest = write_manifest(tmp_path, {"prompt": "a", "name": "root"}, on("root"))
    with pytest.raises(InvalidManifest, match=r"row 2, imageUrls: image 1 .*on this machine"):
        await run(sandbox, manifest, StorageLocation(str(tmp_path / "images")))
    assert not sandbox.submits()


async def test_another_beginning_makes_another_end(chained: Chained) -> None:
    """Rule: a row that builds on a changed one has changed; without a name, it is another row."""
    begin = {"prompt": "Begin", "name": "first"}
    manifest = chained.write(begin, on("first", name="second"), on("first", prompt="Third"))
    await chained.run(manifest)
    chained.write(
        begin | {"prompt": "Begin anew"}, on("first", name="second"), on("first", prompt="Third")
    )
    batch = await chained.run(manifest)
    assert [batch.outcomes[n].changed for n in (1, 2, 3)] == [True, True, False]
    assert batch.outcomes[3].status is LandingStatus.LANDED
    assert len(chained.sandbox.submits()) == 4
    anew = await chained.run(manifest, retry=[Failure.CHANGED])
    assert statuses(anew) == ["landed", "landed", "already_landed"]
    assert len(chained.sandbox.submits()) == 6
