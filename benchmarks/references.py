"""Measures batches whose rows work from images: one that all share, their own, other rows'.

*Shared*: every row works from the same local file, which goes through a public copy.
*Own*: every row works from a photo of its own in a private S3 bucket, 20 ms away, which checks
signatures (SeaweedFS); beside it rows with URLs that anyone can fetch of such photos. The sandbox
fetches each.
*Chains*: products of three rows each, of which each works from the image of the one before. Nobody
may wait for anything but the service: the batch takes as long as its slowest chain.

Run ``python -m benchmarks.references``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from PIL import Image

from benchmarks.goals import at_most, begin, counts
from benchmarks.processes import measure
from benchmarks.public_folder import public_folder
from benchmarks.pulse import Pulse
from benchmarks.sandbox_process import sandbox_process
from benchmarks.slow_storage import far_away
from nanobanana_blocks import NanoBananaClient, PollPolicy
from nanobanana_blocks.batches.ledger import SubmissionAttempt
from nanobanana_blocks.batches.manifest import RowDefaults
from nanobanana_blocks.batches.opening import finder_near, open_batch, read_manifest_near
from nanobanana_blocks.batches.reporting import keeping_report
from nanobanana_blocks.landing import read_receipt
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.sandbox import SandboxControl, SandboxSettings
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.storage_kinds import s3_client, seaweedfs

SHARED_ROWS, OWN_ROWS, PRODUCTS = 500, 2_000, 200
CHAIN = 3
IMAGE_BYTES = 20_000
PHOTO_BYTES = 50_000
S3_SECONDS = 0.02
IN_FLIGHT = 200
MAX_WALL = 1.10
MAX_MORE_MEBIBYTES = 64.0
MAX_CHAIN_WALL = 1.15
MAX_IDLE_SECONDS = 1.0


class Pace(NamedTuple):
    """How fast the service is, and when it is asked."""

    speed: float
    poll: dict[str, Any]


PACE = Pace(4.0, {"requests_per_second": 100.0})
CHAIN_PACE = PACE._replace(speed=2.0)
SMOKE_PACE = Pace(100.0, {"mode": "fixed", "interval_seconds": 0.2})


class Job(NamedTuple):
    """The manifest, where images and copies go, the service, and when it is asked."""

    manifest: str
    url: str
    base_url: str
    api_key: str
    options: dict[str, Any]
    public: tuple[str, str] | None
    poll: dict[str, Any]


async def run(job: Job) -> dict[str, Any]:
    """Do what the command `nanobanana batch` does, and tell what it took."""
    began, pulse = time.monotonic(), Pulse()
    beating = asyncio.create_task(pulse.beat())
    images = StorageLocation(job.url, job.options)
    public = PublicPlace(StorageLocation(job.public[0]), job.public[1]) if job.public else None
    found = await read_manifest_near(job.manifest, images, RowDefaults())
    async with (
        NanoBananaClient(job.api_key, job.base_url) as client,
        open_batch(
            client,
            images,
            job.manifest,
            found.digest,
            found.rows,
            finder=finder_near(job.manifest, images),
            public=public,
            timeout=600,
            in_flight=IN_FLIGHT,
            poll=PollPolicy(**job.poll),
            log=logging.getLogger(__name__),
        ) as batch,
    ):
        opened = time.monotonic() - began
        async with keeping_report(batch):
            await batch.process_each(batch.rows)
        landed = batch.report(finished=True).counts["landed"]
        copies = batch.references.copies if batch.references else None
    beating.cancel()
    return {
        "opened": opened,
        "wall": time.monotonic() - began,
        "landed": landed,
        "copies": copies.written if copies else 0,
        "mebibytes": pulse.peak_bytes / 2**20,
    }


def photo() -> bytes:
    """A small JPEG."""
    data = io.BytesIO()
    Image.effect_noise((64, 48), 60).save(data, "JPEG")
    return data.getvalue()


async def put_photos(place: StorageLocation, count: int) -> None:
    """Photos unlike each other, each as large as photos of the web are."""
    data = photo()
    async with await place.open() as folder:
        await folder.check_writable()
        # What follows a JPEG's end, as cameras write it, is part of the file.
        photos = (data + number.to_bytes(4) * (PHOTO_BYTES // 4) for number in range(count))
        await asyncio.gather(
            *(
                folder.publish(f"{number}.jpg", each, "image/jpeg")
                for number, each in enumerate(photos)
            )
        )


def signed_urls(url: str, options: dict[str, Any], count: int) -> list[str]:
    """URLs by which anyone can fetch the photos of a folder, made beforehand."""
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    client = s3_client(options)
    return [
        client.generate_presigned_url(
            "get_object", {"Bucket": bucket, "Key": f"{folder}/{number}.jpg"}, ExpiresIn=3600
        )
        for number in range(count)
    ]


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def edit(number: int, image: str) -> dict[str, Any]:
    return {"prompt": f"Product {number}, at night", "name": f"p-{number}", "imageUrls": [image]}


def chain(number: int) -> list[dict[str, Any]]:
    """The rows of a product: a picture, and edits of it, each of the one before."""
    first = {"prompt": f"Product {number}", "name": f"p-{number}-0"}
    return [
        first,
        *(
            edit(number, f"row:p-{number}-{step - 1}") | {"name": f"p-{number}-{step}"}
            for step in range(1, CHAIN)
        ),
    ]


def write_chains(path: Path, products: int) -> str:
    return write_manifest(path, (row for number in range(products) for row in chain(number)))


def run_job(
    manifest: str,
    url: str,
    sandbox: SandboxControl,
    pace: Pace,
    options: dict[str, Any] | None = None,
    public: tuple[str, str] | None = None,
) -> dict[str, Any]:
    job = Job(manifest, url, sandbox.base_url, sandbox.api_key, options or {}, public, pace.poll)
    return measure("benchmarks.references", job._asdict())


def service(pace: Pace) -> AbstractContextManager[SandboxControl]:
    """The sandbox, which fetches what rows work from."""
    return sandbox_process(
        SandboxSettings(
            image_bytes=IMAGE_BYTES, speed=pace.speed, credits=10**9, fetch_references=True
        )
    )


def measure_shared(folder: Path, rows: int, pace: Pace) -> None:
    (folder / "logo.jpg").write_bytes(photo())
    manifest = write_manifest(
        folder / "shared.jsonl", (edit(number, "logo.jpg") for number in range(rows))
    )
    public = folder / "public"
    with service(pace) as sandbox, public_folder(public) as world:
        done = run_job(
            manifest, str(folder / "shared"), sandbox, pace, public=(str(public), world.url)
        )
        fetched = sandbox.stats().references_fetched
    print(f"\n{rows:,} rows that share one local file: {done['wall']:.1f} s")
    counts("rows landed", done["landed"], rows)
    counts("copies written", done["copies"], 1)
    counts("checks as a stranger", world.checks, 1)
    counts("fetched by the service", fetched, rows)


def measure_own(folder: Path, rows: int, pace: Pace) -> None:
    with (
        far_away(seaweedfs, folder / "s3", S3_SECONDS) as (root, options),
        service(pace) as sandbox,
    ):
        done = {}
        for way in ("public", "private"):
            photos = f"{root}/{way}"
            asyncio.run(put_photos(StorageLocation(photos, options), rows))
            private = [f"{photos}/{number}.jpg" for number in range(rows)]
            images = private if way == "private" else signed_urls(photos, options, rows)
            manifest = write_manifest(folder / f"{way}.jsonl", map(edit, range(rows), images))
            done[way] = run_job(manifest, str(folder / way), sandbox, pace, options)
        fetched = sandbox.stats().references_fetched
    print(f"\n{rows:,} rows with a photo of {PHOTO_BYTES:,} bytes each on S3, into a local folder")
    for way, took in done.items():
        print(
            f"  {way:<8}{took['wall']:7.1f} s, of which {took['opened']:.1f} s of checks before "
            f"the first row; {took['mebibytes']:.0f} MiB"
        )
    counts("rows landed", sum(took["landed"] for took in done.values()), 2 * rows)
    counts("fetched by the service", fetched, 2 * rows)
    at_most(
        "wall, signed URLs / public URLs",
        done["private"]["wall"] / done["public"]["wall"],
        MAX_WALL,
    )
    more = done["private"]["mebibytes"] - done["public"]["mebibytes"]
    at_most("more resident with signed URLs", more, MAX_MORE_MEBIBYTES, " MiB")


class Step(NamedTuple):
    """A row of a chain: epoch seconds of its submit's answer and landing, and its generation."""

    submitted: float
    landed: float
    generation: float


def read_step(images: Path, name: str) -> Step:
    """What ledger and receipt tell of a row; the service tells times in whole seconds."""
    receipt = read_receipt((images / f"{name}.json").read_bytes())
    noted = images / ".nanobanana/ledger" / f"{name}.1.json"
    attempt = SubmissionAttempt.model_validate_json(noted.read_bytes())
    if not (receipt and receipt.created_at and receipt.completed_at and attempt.submitted_at):
        raise RuntimeError(f"{name} tells no times")
    return Step(
        attempt.submitted_at.timestamp(),
        receipt.landed_at.timestamp(),
        (receipt.completed_at - receipt.created_at).total_seconds(),
    )


def measure_chains(folder: Path, products: int, pace: Pace) -> None:
    rows = products * CHAIN
    manifest = write_chains(folder / "chains.jsonl", products)
    public, images = folder / "chained-copies", folder / "chains"
    with service(pace) as sandbox, public_folder(public) as world:
        done = run_job(manifest, str(images), sandbox, pace, public=(str(public), world.url))
        stats = sandbox.stats()
    print(f"\n{products} chains of {CHAIN} rows: {done['wall']:.1f} s")
    counts("rows landed", done["landed"], rows)
    counts("submits", stats.submits, rows)
    counts("fetched by the service", stats.references_fetched, rows - products)
    steps = [
        [read_step(images, f"p-{number}-{step}") for step in range(CHAIN)]
        for number in range(products)
    ]
    idle = [
        later.submitted - earlier.landed
        for each in steps
        for earlier, later in itertools.pairwise(each)
    ]
    slowest = max(steps, key=lambda each: each[-1].landed - each[0].submitted)
    took = slowest[-1].landed - slowest[0].submitted
    generated = sum(
        step.generation for step in max(steps, key=lambda each: sum(s.generation for s in each))
    )
    print(
        f"  slowest chain: {took:.1f} s, of which {sum(s.generation for s in slowest):.0f} s of "
        f"generation; longest generation of a chain: {generated:.0f} s"
    )
    at_most("wall / slowest chain", done["wall"] / took, MAX_CHAIN_WALL)
    at_most("wall / most generation in a chain", done["wall"] / generated, MAX_CHAIN_WALL)
    at_most("from landed to the next row's submit, median", median(idle), MAX_IDLE_SECONDS, " s")
    at_most("from landed to the next row's submit, longest", max(idle), MAX_IDLE_SECONDS, " s")


def main() -> None:
    smoke = begin(__doc__, "few rows").smoke
    shared, own, products = (20, 20, 5) if smoke else (SHARED_ROWS, OWN_ROWS, PRODUCTS)
    pace, chain_pace = (SMOKE_PACE, SMOKE_PACE) if smoke else (PACE, CHAIN_PACE)
    with tempfile.TemporaryDirectory(prefix="nanobanana-references-") as temporary:
        folder = Path(temporary)
        measure_shared(folder, shared, pace)
        measure_own(folder, own, pace)
        measure_chains(folder, products, chain_pace)


if __name__ == "__main__":
    if len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        print(json.dumps(asyncio.run(run(Job(**json.loads(sys.argv[1]))))))
    else:
        main()
