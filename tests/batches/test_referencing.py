"""Batches that work from files: found, checked before anything is spent, fetched by the service."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.manifest import InvalidManifest, RowDefaults
from nanobanana_blocks.batches.opening import read_manifest_near
from nanobanana_blocks.batches.reporting import keeping_report
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.pictures import PublicFolder, picture, public_folder
from tests.support.referencing import opened, run, write_manifest
from tests.support.storage_kinds import Kind, seaweedfs
from tests.support.storage_servers import S3Server, s3_server

DONE = TaskPlan(seconds=0, media_type="image/png")
SANDBOX = "nanobanana-sandbox"  # the thread of its server, which is the service


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    """A bucket that gives nothing to strangers, and checks signatures."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as kind:
        yield kind


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PublicFolder]:
    with public_folder(tmp_path / "world") as served:
        yield served


@pytest.fixture(autouse=True)
def _really_fetching(sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=DONE, fetch_references=True)


def edit(images: list[str] | str, **fields: Any) -> dict[str, Any]:
    listed = [images] if isinstance(images, str) else images
    return {"prompt": "The same, at night", "imageUrls": listed, **fields}


def results(batch: Batch) -> list[str]:
    return [batch.outcomes[row.number].describe() for row in batch.rows]


def landed(batch: Batch) -> int:
    return sum(batch.outcomes[row.number].in_storage for row in batch.rows)


async def test_local_photos_go_through_public_copies(
    sandbox: Sandbox, tmp_path: Path, world: PublicFolder
) -> None:
    """Rule: a file beside the manifest is copied once, checked once, and fetched by the service."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "logo.png").write_bytes(picture(1, "PNG"))
    for number in range(3):
        (photos / f"a {number}.jpg").write_bytes(picture(number))
    rows = [edit([f"photos/a {n % 3}.jpg", "photos/logo.png"], name=f"n{n}") for n in range(12)]
    manifest = write_manifest(tmp_path, *rows)
    images = StorageLocation(str(tmp_path / "images"))
    public = PublicPlace(StorageLocation(str(world.folder)), world.url)
    batch = await run(sandbox, manifest, images, public=public)
    assert landed(batch) == 12, results(batch)
    stats = sandbox.stats()
    assert (stats.references_fetched, stats.references_refused) == (24, 0)
    assert len(list(world.folder.glob("*.jpg"))) == 3
    asked = [path for path in world.asked if path.endswith(".png")]
    assert len(asked) == 1 + 12  # one check of ours, and the service's own
    again = await run(sandbox, manifest, images, public=public)
    assert landed(again) == 12
    assert sandbox.stats().submits == 12


async def test_a_private_bucket_is_reached_by_signed_urls(
    sandbox: Sandbox, tmp_path: Path, private: Kind
) -> None:
    """Rule: photos in a bucket that checks signatures are edited into another place."""
    async with await StorageLocation(f"{private.url}/photos", private.options).open() as folder:
        for number in range(3):
            await folder.publish(f"{number}.jpg", picture(number), "image/jpeg")
    rows = [edit(f"{private.url}/photos/{n}.jpg", endpoint="generate-2") for n in range(3)]
    images = StorageLocation(f"{private.url}/images", private.options)
    batch = await run(sandbox, write_manifest(tmp_path, *rows), images)
    assert landed(batch) == 3, results(batch)
    sent = [url for submit in sandbox.submits() for url in submit.body["imageUrls"]]
    assert all("X-Amz-Signature=" in url and "X-Amz-Expires=3610" in url for url in sent)
    assert sandbox.stats().references_fetched == 3


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    lines: list[str] = []

    class Everything(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.name} {record.getMessage()} {record.args!r}")

    handler, root = Everything(), logging.getLogger()
    before = root.level
    handler.addFilter(lambda record: record.threadName != SANDBOX)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


async def test_a_signed_url_is_nowhere(sandbox: Sandbox, tmp_path: Path, private: Kind) -> None:
    """Rule: no log, receipt, report, ledger entry or error holds a signature, also of refusals."""
    async with await StorageLocation(f"{private.url}/secret", private.options).open() as folder:
        await folder.publish("a.jpg", picture(7), "image/jpeg")
    rows = [edit(f"{private.url}/secret/a.jpg", name=f"n{n}") for n in range(2)]
    manifest = write_manifest(tmp_path, *rows)
    images = StorageLocation(str(tmp_path / "images"), private.options)
    with everything_logged() as lines:
        async with opened(sandbox, manifest, images, keep_prompts=True) as batch:
            async with keeping_report(batch):
                await batch.process(batch.rows[0])
                async with await StorageLocation(
                    f"{private.url}/secret", private.options
                ).open() as folder:
                    await folder.delete("a.jpg")
                await batch.process(batch.rows[1])
            told = repr(batch.outcomes) + repr(batch.rows) + repr(vars(batch.submitter))
    assert batch.outcomes[1].in_storage
    assert batch.outcomes[2].error
    assert "Failed to fetch the image" in batch.outcomes[2].error.message
    written = [path.read_bytes() for path in (tmp_path / "images").rglob("*") if path.is_file()]
    assert len(written) > 5
    sent = {url for submit in sandbox.submits() for url in submit.body["imageUrls"]}
    signatures = [url.partition("X-Amz-Signature=")[2] for url in sent]
    assert all(len(signature) == 64 for signature in signatures)
    for secret in [*signatures, "X-Amz-Signature"]:
        assert secret not in told
        assert not [line for line in lines if secret in line]
        assert not [data for data in written if secret.encode() in data]


async def test_all_that_cannot_be_sent_is_told_before_anything_is_spent(
    sandbox: Sandbox, tmp_path: Path, world: PublicFolder
) -> None:
    """Rule: every row whose image the service would not get is named, with the reason."""
    (tmp_path / "page.png").write_text("<!doctype html>")
    (tmp_path / "good.jpg").write_bytes(picture(1))
    (tmp_path / "half.jpg").write_bytes(picture(1, size=(400, 400), noisy=True)[:9000])
    (tmp_path / "moving.gif").write_bytes(picture(1, "GIF"))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "large.png").write_bytes(picture(1, "PNG") + bytes(30_000_000))
    (world.folder / "page.html").write_text("<html></html>")
    manifest = write_manifest(
        tmp_path,
        edit(["good.jpg", "none.jpg"]),
        edit("page.png"),
        edit("half.jpg"),
        edit("folder.png"),
        edit("large.png"),
        edit(f"{world.url}/none.jpg?sig=s3cr3t"),
        edit(f"{world.url}/page.html"),
        edit("moving.gif"),
        edit("good.jpg"),
        {"prompt": "without"},
    )
    public = PublicPlace(StorageLocation(str(world.folder)), world.url)
    images = StorageLocation(str(tmp_path / "images"))
    with pytest.raises(InvalidManifest) as caught:
        await run(sandbox, manifest, images, public=public)
    told = {problem.row: problem.message for problem in caught.value.problems}
    assert list(told) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert told[1].startswith("image 2 ")
    for row, says in enumerate(
        [
            "does not exist",
            "no image",
            "cut short",
            "a folder",
            "at most",
            "404",
            "HTML",
            "is a GIF",
        ],
        start=1,
    ):
        assert says in told[row], told[row]
    assert "s3cr3t" not in str(caught.value)
    assert not sandbox.submits()


async def test_local_files_without_a_public_place(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a backend that cannot sign is told before, with what to do."""
    (tmp_path / "a.jpg").write_bytes(picture(1))
    manifest = write_manifest(tmp_path, edit("a.jpg"), edit(["a.jpg"], prompt="Another"))
    with pytest.raises(InvalidManifest, match=r"on this machine.*Give `references`") as caught:
        await run(sandbox, manifest, StorageLocation(str(tmp_path / "images")))
    assert [problem.row for problem in caught.value.problems] == [1, 2]
    assert not sandbox.submits()


async def test_a_public_place_that_the_world_cannot_read(
    sandbox: Sandbox, tmp_path: Path, world: PublicFolder
) -> None:
    """Rule: what is readable to us and not to the world is found out by asking without keys."""
    (tmp_path / "a.jpg").write_bytes(picture(1))
    world.refuses = True
    public = PublicPlace(StorageLocation(str(world.folder)), world.url)
    with pytest.raises(
        InvalidManifest, match=r"does not give it to the world.*403.*Check that its public"
    ):
        await run(
            sandbox,
            write_manifest(tmp_path, edit("a.jpg")),
            StorageLocation(str(tmp_path / "images")),
            public=public,
        )
    assert not sandbox.submits()


async def test_a_storage_that_only_we_can_reach(
    sandbox: Sandbox, tmp_path: Path, s3: S3Server
) -> None:
    """Rule: with a public API, a signed URL on a private address is refused, not paid for."""
    s3.client.put_object(Bucket="bucket", Key="photos/a.jpg", Body=picture(1))
    images = StorageLocation("s3://bucket/images", s3.options())
    with pytest.raises(InvalidManifest, match=r"127\.0\.0\.1, a loopback address"):
        await run(
            sandbox,
            write_manifest(tmp_path, edit("s3://bucket/photos/a.jpg")),
            images,
            base_url="https://api.nanobananaapi.ai",
        )


async def test_a_wait_that_outlasts_every_signature(
    sandbox: Sandbox, tmp_path: Path, s3: S3Server
) -> None:
    """Rule: a signature that would expire first is told before."""
    s3.client.put_object(Bucket="bucket", Key="photos/a.jpg", Body=picture(1))
    with pytest.raises(
        InvalidManifest, match=r"a week at most.*Lower timeout\. Or give `references`"
    ):
        await run(
            sandbox,
            write_manifest(tmp_path, edit("s3://bucket/photos/a.jpg")),
            StorageLocation("s3://bucket/images", s3.options()),
            timeout=7 * 86_400.0,
        )


async def test_a_row_is_its_source_and_its_content(
    sandbox: Sandbox, tmp_path: Path, world: PublicFolder
) -> None:
    """Rule: another content is another row; with a name, a changed one; the same is never paid."""
    (tmp_path / "a.jpg").write_bytes(picture(1))
    manifest = write_manifest(tmp_path, edit("a.jpg"), edit("a.jpg", name="named"))
    images = StorageLocation(str(tmp_path / "images"))
    public = PublicPlace(StorageLocation(str(world.folder)), world.url)
    await run(sandbox, manifest, images, public=public)
    (tmp_path / "a.jpg").touch()
    await run(sandbox, manifest, images, public=public)
    assert sandbox.stats().submits == 2
    (tmp_path / "a.jpg").write_bytes(picture(2))
    batch = await run(sandbox, manifest, images, public=public)
    assert sandbox.stats().submits == 3
    assert [batch.outcomes[n].changed for n in (1, 2)] == [False, True]


async def test_a_source_that_is_gone_after_its_row_has_landed(
    sandbox: Sandbox, tmp_path: Path, world: PublicFolder
) -> None:
    """Rule: rows that were paid for are left alone, whatever became of their files."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        (photos / f"{number}.jpg").write_bytes(picture(number))
    rows = [edit("photos/0.jpg"), edit("photos/1.jpg", name="named")]
    manifest = write_manifest(tmp_path, *rows)
    images = StorageLocation(str(tmp_path / "images"))
    public = PublicPlace(StorageLocation(str(world.folder)), world.url)
    await run(sandbox, manifest, images, public=public)
    shutil.rmtree(photos)
    batch = await run(sandbox, manifest, images, public=public)
    assert landed(batch) == 2
    assert sandbox.stats().submits == 2
    assert not any(batch.outcomes[row.number].changed for row in batch.rows)
    (tmp_path / "images/.nanobanana/references/known.json").unlink()
    write_manifest(tmp_path, rows[1])
    assert landed(await run(sandbox, manifest, images, public=public)) == 1


async def test_a_file_that_changes_in_mid_run(
    sandbox: Sandbox, tmp_path: Path, world: PublicFolder
) -> None:
    """Rule: what is copied is what the row was recognised by, or the row is not submitted."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(picture(len(name)))
    (tmp_path / "b.jpg").write_bytes(picture(9))
    manifest = write_manifest(tmp_path, edit("a.jpg"), edit("b.jpg"))
    images = StorageLocation(str(tmp_path / "images"))
    public = PublicPlace(StorageLocation(str(world.folder)), world.url)
    async with opened(sandbox, manifest, images, public=public) as batch:
        (tmp_path / "b.jpg").write_bytes(picture(10))
        await batch.process_each(batch.rows)
    assert batch.outcomes[1].in_storage
    error = batch.outcomes[2].error
    assert error is not None
    assert (error.class_name, "has changed" in error.message) == ("UnusableReference", True)
    assert sandbox.stats().submits == 1
    assert landed(await run(sandbox, manifest, images, public=public)) == 2


async def test_rows_with_urls_are_what_they_were(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the identity of rows with URLs only is that of earlier versions."""
    rows = [edit("https://example.com/plate.png", endpoint="generate-2"), {"prompt": "a fig"}]
    found = await read_manifest_near(
        write_manifest(tmp_path, *rows), StorageLocation(str(tmp_path)), RowDefaults()
    )
    assert [row.digest for row in found.rows] == [
        "7178b94d263df23902f18d07a3e26ae1",
        "17eee404f8923963b1815fb96fd796df",
    ]
