"""Landing: every image once, whole, with its receipt last, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
from PIL import Image

from nanobanana_blocks import LandingOutcome, LandingStatus, NanoBananaClient, PollPolicy, errors
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.wait_state import Patience
from nanobanana_blocks.images import EgressRules, download
from nanobanana_blocks.images.download import ImageDownloader
from nanobanana_blocks.images.verification import VerifiedImage
from nanobanana_blocks.landing.lander import Lander, open_lander
from nanobanana_blocks.landing.receipt import Receipt
from nanobanana_blocks.sandbox import Fault, RateLimit, Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination
from tests.support.raw_http import raw_server, success
from tests.support.until import block_until, until

DONE = TaskPlan(seconds=0)
NEVER = TaskPlan(seconds=None)
QUICK = PollPolicy(mode="fixed", interval_seconds=0.05, requests_per_second=1000)
MAX_IMAGE_BYTES = 1 << 20


IMPATIENT = Patience(max_backoff_seconds=0.05, short_backoff_seconds=0.05, unknown_task_seconds=0.1)


@asynccontextmanager
async def opened(
    sandbox: Sandbox,
    task_ids: list[str],
    to: Path | str,
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    **options: Any,
) -> AsyncIterator[Lander]:
    client = NanoBananaClient(
        api_key or sandbox.api_key,
        base_url or sandbox.base_url,
        budget=RequestBudget(1000),
        patience=IMPATIENT,
    )
    downloader = ImageDownloader(
        EgressRules.for_api(client.base_url),
        max_bytes=MAX_IMAGE_BYTES,
        first_pause_seconds=0.01,
        fresh_url_seconds=0.01,
    )
    usual = {"timeout": 10.0, "poll": QUICK, "downloader": downloader}
    async with (
        client,
        aclosing(await Destination.open(str(to))) as destination,
        open_lander(task_ids, client, destination, **(usual | options)) as made,
    ):
        yield made


async def land(
    sandbox: Sandbox, task_ids: list[str], to: Path | str, **options: Any
) -> list[LandingOutcome]:
    """Land all of them; the outcomes are in the order asked."""
    async with opened(sandbox, task_ids, to, **options) as made:
        await made.land_each(made.unique_task_ids)
        return made.report().outcomes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def receipt_of(folder: Path, task_id: str) -> Receipt:
    return Receipt.model_validate_json((folder / f"{task_id}.json").read_bytes())


def assert_whole(folder: Path, task_id: str) -> Receipt:
    """The receipt is true of the images beside it."""
    receipt = receipt_of(folder, task_id)
    for image in receipt.images:
        data = (folder / image.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (image.size, image.sha256)
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.size == (image.width, image.height)
            assert picture.get_format_mimetype() == image.media_type
    return receipt


# --- what lies on storage


async def test_connections_are_kept_open(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: polls and images come over connections that are there; new ones cost handshakes."""
    connected = 0
    connect = httpcore.AnyIOBackend.connect_tcp

    async def counted(self: httpcore.AnyIOBackend, *args: Any, **kwargs: Any) -> Any:
        nonlocal connected
        connected += 1
        return await connect(self, *args, **kwargs)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", counted)
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0.5)] * 200)
    outcomes = await land(sandbox, task_ids, tmp_path)
    assert {outcome.status for outcome in outcomes} == {LandingStatus.LANDED}
    assert connected <= 60


async def test_one_image_and_its_receipt(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: `<task_id>.<ext>` and `<task_id>.json`, which tells everything about it."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, media_type="image/webp", prompt="secret fig"))
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.LANDED
    assert names(tmp_path) == [f"{task_id}.json", f"{task_id}.webp"]
    [image] = outcome.images
    assert image.path == str(tmp_path / f"{task_id}.webp")
    receipt = assert_whole(tmp_path, task_id)
    assert (receipt.task_id, receipt.version, receipt.images_asked_for) == (task_id, 1, 1)
    assert receipt.operation_type == "nanobanana_TEXTTOIAMGE"
    assert receipt.created_at is not None
    assert receipt.completed_at is not None
    assert abs(receipt.completed_at.timestamp() - time.time()) < 3600
    assert receipt.landed_at.utcoffset() is not None
    assert (receipt.polls, outcome.polls) == (1, 1)
    assert (receipt.images[0].sha256, receipt.prompt) == (image.sha256, None)
    assert "secret fig" not in (tmp_path / f"{task_id}.json").read_text()


@pytest.mark.parametrize("spelling", ["list", "resultImageUrls", "resultUrls"])
async def test_several_images_are_numbered(sandbox: Sandbox, tmp_path: Path, spelling: str) -> None:
    """Rule: several images of a task are `-1`, `-2` … and share one receipt."""
    task_id = sandbox.add_task(
        TaskPlan(seconds=0, images=4, media_type="image/png", urls_as=spelling)
    )
    [outcome] = await land(sandbox, [task_id], tmp_path)
    wanted = [f"{task_id}-{number}.png" for number in (1, 2, 3, 4)]
    assert [Path(image.path).name for image in outcome.images] == wanted
    assert names(tmp_path) == [*wanted, f"{task_id}.json"]
    receipt = assert_whole(tmp_path, task_id)
    assert len({image.sha256 for image in receipt.images}) == 4


async def test_in_memory(sandbox: Sandbox) -> None:
    """Rule: any fsspec URL will do; paths in outcomes are URLs then."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, media_type="image/jpeg"))
    to = f"memory://{uuid.uuid4().hex}"
    [outcome] = await land(sandbox, [task_id], to)
    assert [image.path for image in outcome.images] == [f"{to}/{task_id}.jpg"]
    [again] = await land(sandbox, [task_id], to)
    assert again.status is LandingStatus.ALREADY_LANDED
    assert again.images == outcome.images


@pytest.mark.parametrize("keep", [False, True])
async def test_prompts_are_kept_only_where_asked_for(
    sandbox: Sandbox, tmp_path: Path, keep: bool
) -> None:
    """Rule: a prompt is in the receipt only if the store is told to keep it."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, prompt="a private fig"))
    await land(sandbox, [task_id], tmp_path, keep_prompts=keep)
    assert receipt_of(tmp_path, task_id).prompt == ("a private fig" if keep else None)


async def test_half_a_surrogate_in_a_prompt_costs_no_image(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: a prompt that no UTF-8 file can hold is kept without its broken characters."""
    task_id = sandbox.add_task(DONE)
    [url] = await urls_of(sandbox, task_id)
    prompt = json.dumps({"prompt": "a \ud83d fig \ud83c\udf4c"})
    async with raw_server(success(task_id, url, paramJson=prompt)) as api:
        [outcome] = await land(sandbox, [task_id], tmp_path, base_url=api.url, keep_prompts=True)
    assert outcome.status is LandingStatus.LANDED
    assert receipt_of(tmp_path, task_id).prompt == "a \ufffd fig \U0001f34c"


async def test_times_in_a_receipt_are_utc(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: what the service writes in its own zone, or at the ends of time, is UTC or left out."""
    task_id = sandbox.add_task(DONE)
    [url] = await urls_of(sandbox, task_id)
    times = {"createTime": "0001-01-01 00:00:00", "completeTime": "2026-01-06 08:17:04"}
    async with raw_server(success(task_id, url, **times)) as api:
        await land(sandbox, [task_id], tmp_path, base_url=api.url)
    found = json.loads((tmp_path / f"{task_id}.json").read_text())
    assert found["completed_at"] == "2026-01-06T00:17:04Z"
    assert found["landed_at"].endswith("Z")
    assert "created_at" not in found


async def test_failed_writes_keep_no_image_in_memory(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: the errors that a run keeps hold no frames, which would hold the images' bytes."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0, images=2)] * 3)
    images: list[weakref.ref[VerifiedImage]] = []
    verify = download.verify_image

    def watched(*args: Any, **options: Any) -> VerifiedImage:
        image = verify(*args, **options)
        images.append(weakref.ref(image))
        return image

    async def full(self: Destination, name: str, data: bytes, media_type: str) -> None:
        raise errors.StorageError("no space left")

    monkeypatch.setattr(download, "verify_image", watched)
    monkeypatch.setattr(Destination, "publish", full)
    async with opened(sandbox, task_ids, tmp_path) as made:
        await made.land_each(task_ids)
        assert set(made.errors) == set(task_ids)
        assert all(error.__traceback__ is None for error in made.errors.values())
        assert len(images) == 6

        def all_freed() -> bool:
            gc.collect()
            return not any(image() for image in images)

        await until(all_freed)  # the thread that made the last one lets go of it a moment later


async def test_the_receipt_comes_last(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: at no moment is there a receipt without its images."""
    published: list[str] = []
    publish = Destination.publish

    async def watched(self: Destination, name: str, data: bytes, media_type: str) -> None:
        await publish(self, name, data, media_type)
        published.append(name)

    monkeypatch.setattr(Destination, "publish", watched)
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0, images=3)] * 4)
    await land(sandbox, task_ids, tmp_path)
    for task_id in task_ids:
        own = [name for name in published if name.startswith(task_id)]
        assert own[-1] == f"{task_id}.json"
        assert len(own) == 4


async def test_what_lies_by_the_url_or_header_does_not_matter(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: the extension and the media type are those of the content."""
    task_id = sandbox.add_task(
        TaskPlan(seconds=0, media_type="image/webp", content_type="text/html", url_extension="exe")
    )
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.images[0].media_type == "image/webp"
    assert names(tmp_path) == [f"{task_id}.json", f"{task_id}.webp"]


# --- what is there already


@pytest.mark.parametrize("count", [3, 25])
async def test_what_has_landed_costs_nothing(sandbox: Sandbox, tmp_path: Path, count: int) -> None:
    """Rule: with a receipt and its images there, nothing is asked and nothing fetched."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0, images=2, width=64, height=64)] * count)
    first = await land(sandbox, task_ids, tmp_path)
    before = sandbox.stats()
    again = await land(sandbox, task_ids, tmp_path)
    assert {outcome.status for outcome in again} == {LandingStatus.ALREADY_LANDED}
    assert [outcome.images for outcome in again] == [outcome.images for outcome in first]
    assert {outcome.polls for outcome in again} == {0}
    after = sandbox.stats()
    assert (after.requests, after.images_served) == (before.requests, before.images_served)


@pytest.mark.parametrize("count", [1, 25])
@pytest.mark.parametrize(
    "damage", ["missing", "cut", "no receipt", "torn receipt", "empty receipt", "no images"]
)
async def test_what_is_not_whole_is_landed_again(
    sandbox: Sandbox, tmp_path: Path, damage: str, count: int
) -> None:
    """Rule: a missing or wrong-sized image, or a receipt that is none, is landed anew."""
    plan = TaskPlan(seconds=0, media_type="image/png", width=64, height=64)
    task_ids = sandbox.add_tasks([plan] * count)
    await land(sandbox, task_ids, tmp_path)
    hurt = task_ids[0]
    image, receipt = tmp_path / f"{hurt}.png", tmp_path / f"{hurt}.json"
    if damage == "missing":
        image.unlink()
    elif damage == "cut":
        image.write_bytes(image.read_bytes()[:-1])
    elif damage == "no receipt":
        receipt.unlink()
    elif damage == "torn receipt":
        receipt.write_bytes(receipt.read_bytes()[:40])
    elif damage == "empty receipt":
        receipt.write_bytes(b"")
    else:
        receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"images": []}))
    outcomes = await land(sandbox, task_ids, tmp_path)
    assert outcomes[0].status is LandingStatus.LANDED
    assert {outcome.status for outcome in outcomes[1:]} <= {LandingStatus.ALREADY_LANDED}
    assert_whole(tmp_path, hurt)
    served = sandbox.stats().images_served
    assert [served[task_id] for task_id in task_ids] == [2] + [1] * (count - 1)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 25])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t0.json", b'{"name": "my-app", "version": "1.0.0"}', "is no receipt"),
        ("t0.json", b'["t0"]', "is no receipt"),
        ("t0.json", b"not json at all", "is no receipt"),
        ("t0.json", b'{"version": 2, "task_id": "t0"}', "receipt of version 2"),
        ("t0.png", b"somebody's holiday", "is another file"),
        ("t0.png", b"x" * 5_000_000, "is another file"),
    ],
)
async def test_a_file_of_somebody_else_is_not_replaced_unless_asked(
    sandbox: Sandbox, tmp_path: Path, name: str, content: bytes, words: str, count: int
) -> None:
    """Rule: a file that is not ours stays; its task fails and says so, and `overwrite` replaces."""
    plans = [
        TaskPlan(task_id=f"t{n}", seconds=0, media_type="image/png", width=64) for n in range(count)
    ]
    task_ids = sandbox.add_tasks(plans)
    (tmp_path / name).write_bytes(content)
    outcomes = await land(sandbox, task_ids, tmp_path)
    assert [o.status for o in outcomes[1:]] == [LandingStatus.LANDED] * (count - 1)
    assert outcomes[0].status is LandingStatus.FAILED
    assert outcomes[0].error
    assert outcomes[0].error.class_name == "DestinationError"
    assert words in outcomes[0].error.message
    assert (tmp_path / name).read_bytes() == content
    [again] = await land(sandbox, task_ids[:1], tmp_path, overwrite=True)
    assert again.status is LandingStatus.LANDED
    assert_whole(tmp_path, "t0")


@pytest.mark.parametrize("left", ["all of it", "its beginning", "nothing of it"])
async def test_what_a_killed_run_left_is_gone_on_with(
    sandbox: Sandbox, tmp_path: Path, left: str
) -> None:
    """Rule: an image without its receipt, even a torn one, is ours, and no obstacle."""
    [task_id] = sandbox.add_tasks([TaskPlan(seconds=0, media_type="image/png")])
    await land(sandbox, [task_id], tmp_path)
    (tmp_path / f"{task_id}.json").unlink()
    image = tmp_path / f"{task_id}.png"
    whole = image.read_bytes()
    image.write_bytes({"all of it": whole, "its beginning": whole[:100]}.get(left, b""))
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.LANDED
    assert_whole(tmp_path, task_id)


async def test_a_receipt_cannot_lead_out_of_the_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a receipt that names a file elsewhere is no receipt, and nothing there is touched."""
    folder = tmp_path / "images"
    task_id = sandbox.add_task(DONE)
    await land(sandbox, [task_id], folder)
    outside = tmp_path / "precious.txt"
    outside.write_text("mine")
    path = folder / f"{task_id}.json"
    for name in ("../precious.txt", str(outside), "a/../../precious.txt"):
        receipt = json.loads(path.read_text())
        receipt["images"][0]["name"] = name
        path.write_text(json.dumps(receipt))
        [outcome] = await land(sandbox, [task_id], folder, overwrite=True)
        assert outcome.status is LandingStatus.LANDED
        assert outside.read_text() == "mine"


async def test_somebody_elses_receipt_is_left_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a receipt of another task under this one's name is never replaced."""
    other, task_id = sandbox.add_tasks([DONE, DONE])
    await land(sandbox, [other], tmp_path)
    (tmp_path / f"{other}.json").rename(tmp_path / f"{task_id}.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.class_name == "DestinationError"
    assert other in outcome.error.message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


async def test_ids_that_number_each_other_do_not_share_a_file(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: no task writes over another's file, as `t` with two images and `t-1` would."""
    plans = [
        TaskPlan(task_id="t", seconds=0, images=2, media_type="image/png"),
        TaskPlan(task_id="t-1", seconds=0, media_type="image/png"),
    ]
    sandbox.add_tasks(plans)
    for folder, order in ((tmp_path / "a", ["t", "t-1"]), (tmp_path / "b", ["t-1", "t"])):
        [first] = await land(sandbox, order[:1], folder)
        before = [Path(image.path).read_bytes() for image in first.images]
        [second] = await land(sandbox, order[1:], folder)
        assert second.error
        assert f"task {order[0]}'s" in second.error.message
        assert [Path(image.path).read_bytes() for image in first.images] == before


async def test_overwriting_leaves_nothing_of_before(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: overwriting replaces images and receipt; what has another name now is removed."""
    plan = TaskPlan(task_id="t1", seconds=0, images=2, media_type="image/png")
    sandbox.add_task(plan)
    await land(sandbox, ["t1"], tmp_path)
    sandbox.reset()
    sandbox.add_task(TaskPlan(task_id="t1", seconds=0, media_type="image/webp"))
    [kept] = await land(sandbox, ["t1"], tmp_path)
    assert kept.status is LandingStatus.ALREADY_LANDED
    [replaced] = await land(sandbox, ["t1"], tmp_path, overwrite=True)
    assert replaced.status is LandingStatus.LANDED
    assert names(tmp_path) == ["t1.json", "t1.webp"]
    assert_whole(tmp_path, "t1")


async def test_overwriting_that_cannot_delete_is_not_done(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: images that an overwritten receipt names are deleted by a later run where this one
    could not, so none stays for ever."""
    sandbox.add_task(TaskPlan(task_id="t1", seconds=0, images=2, media_type="image/png"))
    await land(sandbox, ["t1"], tmp_path)
    sandbox.reset()
    sandbox.add_task(TaskPlan(task_id="t1", seconds=0, media_type="image/webp"))

    async def refused(self: Destination, name: str) -> None:
        raise errors.StorageError(f"cannot delete {name}")

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "delete", refused)
        [failed] = await land(sandbox, ["t1"], tmp_path, overwrite=True)
    assert failed.status is LandingStatus.FAILED
    [outcome] = await land(sandbox, ["t1"], tmp_path, overwrite=True)
    assert outcome.status is LandingStatus.LANDED
    assert names(tmp_path) == ["t1.json", "t1.webp"]


async def test_overwriting_what_fails_keeps_what_was_there(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: an image that cannot be fetched again does not cost the one that is there."""
    task_id = sandbox.add_task(DONE)
    await land(sandbox, [task_id], tmp_path)
    sandbox.add_fault(Fault(kind="html", on="files"))
    [outcome] = await land(sandbox, [task_id], tmp_path, overwrite=True)
    assert outcome.status is LandingStatus.FAILED
    assert_whole(tmp_path, task_id)


# --- order and repetitions


async def test_repetitions_land_once_and_are_reported_each_time(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: the report is in the order asked, repetitions included; each image comes once."""
    a, b, c = sandbox.add_tasks([TaskPlan(seconds=s) for s in (0.2, 0, 0.1)])
    told: list[str] = []
    asked = [a, b, a, c, b, a]
    outcomes = await land(
        sandbox, asked, tmp_path, on_outcome=lambda outcome: told.append(outcome.task_id)
    )
    assert [outcome.task_id for outcome in outcomes] == asked
    assert {outcome.status for outcome in outcomes} == {LandingStatus.LANDED}
    assert sorted(told) == sorted([a, b, c])
    assert sandbox.stats().images_served == {a: 1, b: 1, c: 1}


async def test_each_image_lands_as_soon_as_it_is_ready(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: nobody waits for the slowest."""
    slow, quick = sandbox.add_tasks([NEVER, DONE])
    landed: list[str] = []
    outcomes = await land(
        sandbox,
        [slow, quick],
        tmp_path,
        timeout=0.3,
        on_outcome=lambda outcome: landed.append(outcome.task_id),
    )
    assert landed == [quick, slow]
    assert [o.status for o in outcomes] == [LandingStatus.TIMED_OUT, LandingStatus.LANDED]
    assert outcomes[0].error is not None
    assert outcomes[0].error.retryable
    assert names(tmp_path)[0].startswith(quick)


# --- what goes wrong with an image


async def test_a_dead_result_url_gives_way_to_the_original(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: where the result URL is dead, the original is fetched while it lasts."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, dead_result_url="always"))
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.LANDED
    assert sandbox.stats().looks == {task_id: 1}
    assert_whole(tmp_path, task_id)


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_expired_urls_are_asked_for_once_again(
    sandbox: Sandbox, tmp_path: Path, status: int
) -> None:
    """Rule: where all URLs have expired, record-info is asked once for fresh ones."""
    sandbox.configure(expired_url_status=status)
    task_id = sandbox.add_task(
        TaskPlan(seconds=0, dead_result_url="first-look", dead_origin_url="first-look")
    )
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.LANDED
    assert sandbox.stats().looks == {task_id: 2}


async def test_urls_that_stay_dead_are_asked_for_once_only(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: an image that is gone for good fails; the service is not asked over and over."""
    task_id = sandbox.add_task(
        TaskPlan(seconds=0, dead_result_url="always", dead_origin_url="always")
    )
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.class_name == "ImageGone"
    assert outcome.error.retryable
    stats = sandbox.stats()
    assert (stats.looks, stats.requests["files"]) == ({task_id: 2}, 4)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(kind="html", on="files"), "ImageRejected"),
        (Fault(kind="truncated-image"), "ImageRejected"),
        (Fault(kind="truncated-chunked"), "ImageRejected"),
        (Fault(kind="until-close"), "ImageRejected"),
        (Fault(kind="truncated-transfer"), "ImageUnavailable"),
        (Fault(kind="chunked-cut"), "ImageUnavailable"),
        (Fault(kind="drop", on="files"), "ImageUnavailable"),
        (Fault(kind="redirect", on="files"), "ImageUnavailable"),
        (Fault(kind="http-status", on="files", status=503), "ImageUnavailable"),
        (Fault(kind="endless"), "ImageRejected"),
        (Fault(kind="bomb"), "ImageRejected"),
        (Fault(kind="empty"), "ImageRejected"),
        (Fault(kind="wrong-type"), "ImageRejected"),
        (Fault(kind="redirect", on="files", url="http://169.254.169.254/"), "ForbiddenAddress"),
        (Fault(kind="redirect", on="files", url="http://10.0.0.1/x.png"), "ForbiddenAddress"),
        (Fault(kind="redirect", on="files", url="file:///etc/passwd"), "ForbiddenAddress"),
    ],
    ids=lambda value: f"{value.kind}-{value.url}" if isinstance(value, Fault) else "",
)
async def test_a_bad_image_fails_alone(
    sandbox: Sandbox, tmp_path: Path, fault: Fault, kind: str
) -> None:
    """Rule: what is no whole, sound image is never published; the others land."""
    bad, *good = sandbox.add_tasks([TaskPlan(seconds=0, width=64, height=64)] * 3)
    sandbox.add_fault(fault.model_copy(update={"task_id": bad}))
    outcomes = await land(sandbox, [bad, *good], tmp_path)
    assert [o.status for o in outcomes[1:]] == [LandingStatus.LANDED] * 2
    failed = outcomes[0]
    assert (failed.status, failed.images) == (LandingStatus.FAILED, [])
    assert failed.error is not None
    assert failed.error.class_name == kind
    assert not [name for name in names(tmp_path) if bad in name or name.startswith(".")]
    sandbox.clear_faults()
    [again] = await land(sandbox, [bad], tmp_path)
    assert again.status is LandingStatus.LANDED
    assert_whole(tmp_path, bad)


@pytest.mark.parametrize("kind", ["truncated-transfer", "until-close", "drop", "http-status"])
async def test_what_passes_is_ridden_out(sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
    """Rule: an image host that fails once does not cost the image."""
    task_id = sandbox.add_task(DONE)
    sandbox.add_fault(Fault.model_validate({"kind": kind, "on": "files", "count": 1}))
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.LANDED
    assert sandbox.stats().looks == {task_id: 1}


async def urls_of(sandbox: Sandbox, task_id: str) -> list[str]:
    """The result URLs that record-info gives for a task."""
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    url = f"{sandbox.base_url}/api/v1/nanobanana/record-info"
    async with httpx.AsyncClient(headers=headers) as http:
        answer = (await http.get(url, params={"taskId": task_id})).json()
    urls: list[str] | str = answer["data"]["response"]["resultImageUrl"]
    return [urls] if isinstance(urls, str) else urls


@pytest.mark.parametrize("count", [1, 25])
@pytest.mark.parametrize("missing", [1, 2, 4])
async def test_one_image_of_several_that_is_gone_hides_no_other(
    sandbox: Sandbox, tmp_path: Path, missing: int, count: int
) -> None:
    """Rule: all that can be had is landed; there is no receipt before all is there; the outcome
    lists what is there and what is missing; a re-run fetches only the missing ones."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, images=4, media_type="image/png"))
    urls = await urls_of(sandbox, task_id)
    dead = [url.replace(f"_{missing}.", "_9.") for url in urls]
    assert dead != urls
    async with raw_server(success(task_id, *dead)) as api:
        [outcome] = await land(sandbox, [task_id], tmp_path, base_url=api.url)
    assert outcome.status is LandingStatus.FAILED
    there = [f"{task_id}-{number}.png" for number in (1, 2, 3, 4) if number != missing]
    assert [Path(image.path).name for image in outcome.images] == there
    assert outcome.missing_images == 1
    assert outcome.error
    assert outcome.error.class_name == "ImageGone"
    assert outcome.error.retryable
    assert f"3 of 4 images are in storage. Missing: image {missing}" in outcome.error.message
    assert [name for name in names(tmp_path) if not name.startswith(".")] == there
    served = sandbox.stats().images_served[task_id]
    others = sandbox.add_tasks([TaskPlan(seconds=0, width=64)] * (count - 1))
    outcome = (await land(sandbox, [task_id, *others], tmp_path))[0]
    assert outcome.status is LandingStatus.LANDED
    assert outcome.missing_images == 0
    assert len(assert_whole(tmp_path, task_id).images) == 4
    assert sandbox.stats().images_served[task_id] == served + 1
    assert not [name for name in names(tmp_path) if name.startswith(".")]


async def test_a_note_of_a_partial_landing_is_not_believed_blindly(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: what a note says is there is fetched again where it is not there any more."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, images=3, media_type="image/png"))
    urls = await urls_of(sandbox, task_id)
    async with raw_server(success(task_id, *urls[:2], urls[2].replace("_3.", "_9."))) as api:
        await land(sandbox, [task_id], tmp_path, base_url=api.url)
    (tmp_path / f"{task_id}-1.png").unlink()
    (tmp_path / f"{task_id}-2.png").write_bytes(b"cut")
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.LANDED
    assert len(assert_whole(tmp_path, task_id).images) == 3


async def test_a_gap_in_a_list_of_urls_moves_no_image(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the position of a URL says which image it is of, also where others are missing."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, images=2, media_type="image/png"))
    first, second = await urls_of(sandbox, task_id)
    await land(sandbox, [task_id], tmp_path / "plain")
    response = {
        "resultImageUrls": [None, second],
        "originImageUrls": [first, f"{second}?again"],
    }
    async with raw_server(success(task_id, response=response)) as api:
        [outcome] = await land(sandbox, [task_id], tmp_path / "gaps", base_url=api.url)
    assert outcome.status is LandingStatus.LANDED
    plain, gaps = (receipt_of(tmp_path / folder, task_id).images for folder in ("plain", "gaps"))
    assert [image.sha256 for image in gaps] == [image.sha256 for image in plain]


@pytest.mark.parametrize(
    "url",
    [
        *("not a url", "http://", "https://a..b/x.png", f"https://{'a' * 70}.invalid/x.png"),
        *("file:///etc/passwd", "data:image/png;base64,AAAA", "http://[::1", "//h/x.png"),
        *("http://user:pw@127.0.0.1/x.png", "http://127.0.0.1:99999/x.png", "http://\u2603/x"),
        *("http://169.254.169.254/latest", "http://127.0.0.1:1/x.png", "http://h\x00/x.png"),
        "https://xn--a-ecp.invalid/x.png",
    ],
)
async def test_a_hostile_url_is_a_typed_failure(
    sandbox: Sandbox, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule: whatever the API gives as a URL, the outcome is one of our errors, nothing else."""
    async with raw_server(success("t1", url)) as api:
        [outcome] = await land(sandbox, ["t1"], tmp_path, base_url=api.url)
    assert outcome.status is LandingStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.class_name in {"ImageUnavailable", "ForbiddenAddress", "ImageGone"}
    assert "a way that it should not" not in caplog.text
    assert names(tmp_path) == []


async def test_the_api_on_a_public_host_gives_no_way_in(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: image URLs on this machine are fetched only because the API is on it, too."""
    async with opened(sandbox, [sandbox.add_task(DONE)], tmp_path) as made:
        assert made._downloader.rules.reach.value == "loopback"
        made._downloader.rules = rules = type(made._downloader.rules).for_api("https://8.8.8.8")
        with pytest.raises(errors.ForbiddenAddress):
            rules.check_address("localhost", "127.0.0.1")


async def test_fewer_images_than_asked_for_is_said(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: what the service gives is landed, and what is missing is reported, then and later."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, images=3, urls_as="string"))
    for status in (LandingStatus.LANDED, LandingStatus.ALREADY_LANDED):
        [outcome] = await land(sandbox, [task_id], tmp_path)
        assert (outcome.status, len(outcome.images)) == (status, 1)
        assert outcome.missing_images == 2
        assert "2 fewer than asked for" in outcome.describe()
    assert receipt_of(tmp_path, task_id).images_asked_for == 3


async def test_success_without_a_url_is_looked_at_again(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a success may come before its URL; one that never gets a URL fails, retryably."""
    late, never = sandbox.add_tasks(
        [TaskPlan(seconds=0, looks_without_url=2), TaskPlan(seconds=0, images=0)]
    )
    outcomes = await land(sandbox, [late, never], tmp_path)
    assert [o.status for o in outcomes] == [LandingStatus.LANDED, LandingStatus.FAILED]
    assert outcomes[1].error is not None
    assert outcomes[1].error.class_name == "ImageUnavailable"
    assert outcomes[1].error.retryable


async def test_success_without_a_url_is_not_done_by_a_single_poll(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: a task that has no URL yet is not landed with nothing: it fails retryably, without a
    receipt, and lands once it has one."""
    late = sandbox.add_task(TaskPlan(seconds=0, looks_without_url=1))
    async with opened(sandbox, [late], tmp_path) as made:
        first = await made.land(late, wait=False)
        assert names(tmp_path) == []
        second = await made.land(late, wait=False)
    assert first.error
    assert (first.error.class_name, first.error.retryable) == ("ImageUnavailable", True)
    assert not first.is_settled
    assert second.status is LandingStatus.LANDED


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (TaskPlan(seconds=0, outcome="create-failed"), "CREATE_TASK_FAILED (code 501)"),
        (
            TaskPlan(seconds=0, outcome="generate-failed", error_code=400, error_message="flagged"),
            "GENERATE_FAILED (code 400): flagged",
        ),
        (
            TaskPlan(seconds=0, outcome="generate-failed", error_code=None, error_message=None),
            "no reason given",
        ),
    ],
)
async def test_a_failed_generation_says_why(
    sandbox: Sandbox, tmp_path: Path, plan: TaskPlan, message: str
) -> None:
    """Rule: a failed generation is an outcome with the service's reason, and not for retrying."""
    bad, good = sandbox.add_tasks([plan, DONE])
    outcomes = await land(sandbox, [bad, good], tmp_path)
    assert outcomes[0].error is not None
    assert outcomes[0].error.class_name == "GenerationFailed"
    assert message in outcomes[0].error.message
    assert not outcomes[0].error.retryable
    assert outcomes[1].status is LandingStatus.LANDED


async def test_an_unknown_task_fails_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: an id that the API does not know is one failed outcome among the others."""
    outcomes = await land(sandbox, ["nobody", sandbox.add_task(DONE)], tmp_path)
    assert [o.status for o in outcomes] == [LandingStatus.FAILED, LandingStatus.LANDED]
    assert outcomes[0].error is not None
    assert outcomes[0].error.class_name == "UnknownTask"


@pytest.mark.parametrize("style", ["24-oclock", "epoch-milliseconds", "garbage"])
async def test_no_time_can_fail_a_task(sandbox: Sandbox, tmp_path: Path, style: str) -> None:
    """Rule: a time in any form, or none, lands; the receipt leaves out what it cannot read."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, time_style=style))
    [outcome] = await land(sandbox, [task_id], tmp_path)
    assert outcome.status is LandingStatus.LANDED
    assert (receipt_of(tmp_path, task_id).completed_at is None) is (style == "garbage")


# --- ids from outside

HOSTILE_IDS = [
    *(
        "../x",
        "a/b",
        "/etc/passwd",
        "..",
        ".",
        ".hidden",
        "con",
        "NUL.txt",
        "a\\b",
        "C:x",
        "%2e%2e",
    ),
    *("a:b", "é", "图片", "x" * 255, "-", "--", "~", "*", "a--0123456789abcdef", "A", "t.json"),
]


async def test_hostile_ids_stay_in_their_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: any printable id lands in the folder itself, under a name of its own."""
    folder = tmp_path / "deep" / "images"
    plan = TaskPlan(seconds=0, media_type="image/png", width=64, height=64)
    sandbox.add_tasks([plan.model_copy(update={"task_id": t}) for t in HOSTILE_IDS])
    outcomes = await land(sandbox, HOSTILE_IDS, folder)
    assert {o.status for o in outcomes} == {LandingStatus.LANDED}
    for outcome in outcomes:
        assert Path(outcome.images[0].path).parent == folder
    assert len(names(folder)) == 2 * len(HOSTILE_IDS)
    assert [path.name for path in tmp_path.rglob("*") if path.parent != folder] == [
        "deep",
        "images",
    ]
    receipts = [Receipt.model_validate_json(p.read_bytes()) for p in folder.glob("*.json")]
    assert sorted(receipt.task_id for receipt in receipts) == sorted(HOSTILE_IDS)
    again = await land(sandbox, HOSTILE_IDS, folder)
    assert {o.status for o in again} == {LandingStatus.ALREADY_LANDED}


@pytest.mark.parametrize("bad", ["", "  ", "a\nb", "a\x00b", "x" * 5000, "a b", 7, None])
async def test_what_cannot_be_an_id_stops_the_run_at_once(
    sandbox: Sandbox, tmp_path: Path, bad: Any
) -> None:
    """Rule: an id that cannot be one is refused before anything is asked, made or written."""
    folder = tmp_path / "images"
    with pytest.raises(errors.InvalidInput, match="task id"):
        await land(sandbox, [sandbox.add_task(DONE), bad], folder)
    assert not folder.exists()
    assert sandbox.stats().requests == {}


@pytest.mark.parametrize("task_ids", [[], "933259930a1fc855a4e3835b7c60a028", b"t1"])
async def test_a_list_of_ids_is_wanted(sandbox: Sandbox, tmp_path: Path, task_ids: Any) -> None:
    """Rule: no ids, or one text instead of a list, is refused with words."""
    with pytest.raises(errors.InvalidInput, match="task_ids"):
        await land(sandbox, task_ids, tmp_path)


# --- what concerns the whole run


@pytest.mark.parametrize(
    "to",
    [
        *("s3:/one-slash/x", "http://example.com/x", "https://example.com", "S3://bucket", ""),
        *("nosuch://x", "s3://", "memory://a?b", "/proc/nowhere/x", "/dev/null/x"),
    ],
)
async def test_a_destination_that_cannot_be_meant_costs_no_request(
    sandbox: Sandbox, to: str
) -> None:
    """Rule: a misspelt or unwritable destination is refused before anything is asked."""
    with pytest.raises(errors.DestinationError):
        await land(sandbox, [sandbox.add_task(DONE)], to)
    assert sandbox.stats().requests == {}


async def test_a_file_in_place_of_the_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a file where the folder should be is refused and stays."""
    (tmp_path / "images").write_text("mine")
    with pytest.raises(errors.DestinationError, match="file"):
        await land(sandbox, [sandbox.add_task(DONE)], tmp_path / "images")
    assert (tmp_path / "images").read_text() == "mine"
    assert sandbox.stats().requests == {}


async def test_a_wrong_key_is_one_error(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a refused key ends the run with one error for all, and nothing is written."""
    task_ids = sandbox.add_tasks([DONE] * 30)
    told: list[LandingOutcome] = []
    with pytest.raises(errors.Unauthorized) as caught:
        await land(sandbox, task_ids, tmp_path, api_key="wrong", on_outcome=told.append)
    assert caught.value.is_fatal
    assert caught.value.task_id is None
    assert told == []
    assert names(tmp_path) == []
    assert sandbox.stats().requests["record-info"] <= 8


async def test_a_server_that_is_not_the_api_is_one_error(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a base URL that leads elsewhere is told once, with the next step."""
    sandbox.add_fault(Fault(kind="html", on="record-info"))
    with pytest.raises(errors.ProtocolError, match="Check the base URL") as caught:
        await land(sandbox, sandbox.add_tasks([DONE] * 5), tmp_path)
    assert caught.value.is_fatal


async def test_cancelling_leaves_nothing_running_and_nothing_partial(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: a cancelled landing ends at once, mid-download, and leaves no part of an image."""
    before = asyncio.all_tasks()
    task_ids = sandbox.add_tasks([*[DONE] * 8, *[NEVER] * 8])
    sandbox.add_fault(Fault(kind="drip", seconds=1))
    running = asyncio.create_task(land(sandbox, task_ids, tmp_path))
    await until(lambda: sandbox.stats().requests.get("files", 0) >= 4)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before
    assert names(tmp_path) == []


async def test_an_outcome_listener_that_fails_stops_nobody(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: telling of an image never costs another image."""
    task_ids = sandbox.add_tasks([DONE] * 3)

    def broken(_: LandingOutcome) -> None:
        raise RuntimeError("the terminal is gone")

    with suppress(RuntimeError):
        await land(sandbox, task_ids, tmp_path, on_outcome=broken)
    assert [name for name in names(tmp_path) if name.endswith(".json")] == sorted(
        f"{task_id}.json" for task_id in task_ids
    )


# --- storms and limits


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="body-code", code=429, retry_after=0.05, on="record-info", count=15),
        Fault(kind="http-status", status=503, on="api", count=25),
        Fault(kind="http-status", status=502, on="files", count=12),
    ],
    ids=["429", "503", "502 on files"],
)
async def test_a_storm_in_the_middle_costs_nothing_but_time(
    sandbox: Sandbox, tmp_path: Path, fault: Fault
) -> None:
    """Rule: refusals and failures that pass lose no image and fetch none twice."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=i % 5 / 20, width=64) for i in range(40)])
    stormy = asyncio.Event()

    def begin(_: LandingOutcome) -> None:
        if not stormy.is_set():
            stormy.set()
            sandbox.add_fault(fault)

    outcomes = await land(sandbox, task_ids, tmp_path, on_outcome=begin, timeout=60)
    assert {outcome.status for outcome in outcomes} == {LandingStatus.LANDED}
    stats = sandbox.stats()
    assert stats.faults_fired == {fault.kind: fault.count}
    assert set(stats.images_served.values()) == {1}


async def test_the_budget_keeps_below_the_services_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: with a budget below the service's limit, 300 tasks never see a 429."""
    sandbox.configure(rate_limits=(RateLimit(requests=200, per_seconds=1.0),), image_bytes=2_000)
    task_ids = sandbox.add_tasks([DONE] * 300)
    poll = QUICK.model_copy(update={"requests_per_second": 100.0})
    outcomes = await land(sandbox, task_ids, tmp_path, poll=poll, timeout=60)
    assert {outcome.status for outcome in outcomes} == {LandingStatus.LANDED}
    assert sandbox.stats().rate_limited == 0


# --- bad days: killed, interrupted, full

FORKS_LANDINGS = """
import asyncio, json, os, signal, sys
from contextlib import aclosing
from nanobanana_blocks import NanoBananaClient, PollPolicy
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.storage.destination import Destination

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it

async def main(base_url, key, to, *ids):
    poll = PollPolicy(mode="fixed", interval_seconds=0.05, requests_per_second=400)
    async with (
        NanoBananaClient(key, base_url) as client,
        aclosing(await Destination.open(to)) as place,
        open_lander(ids, client, place, timeout=30, poll=poll) as landing,
    ):
        await landing.land_each(landing.unique_task_ids)
        landing.report().raise_unless_complete()

for line in sys.stdin:
    process = os.fork()
    if process == 0:
        try:
            asyncio.run(main(*json.loads(line)))
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


class LandingProcesses:
    """Runs landings in processes of their own, one at a time, without importing anew for each."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def start(self, sandbox: Sandbox, task_ids: list[str], to: Path) -> int:
        """Begin to land; return the process id."""
        assert self._server.stdin is not None
        arguments = [sandbox.base_url, sandbox.api_key, str(to), *task_ids]
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        return self._line()

    def exit_code(self) -> int:
        """Wait for the end of the landing begun last."""
        return self._line()

    def _line(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


@pytest.fixture(scope="module")
def processes() -> Iterator[LandingProcesses]:
    command = [sys.executable, "-c", FORKS_LANDINGS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield LandingProcesses(server)


def receipts(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.json")} if folder.exists() else set()


def assert_only_whole_files(folder: Path, task_ids: list[str], sample: bytes) -> None:
    """Whatever has a final name is, byte by byte, what the sandbox serves; receipts are true.

    `sample` is the image of the first task; the others differ from it in the id they are marked by.
    """
    for path in folder.iterdir() if folder.exists() else ():
        if path.name.startswith("."):
            # What is learned, the check's probe, a note of a partial landing, an unfinished write.
            kept = path.name in (".nanobanana", ".nanobanana-check")
            assert kept or path.suffix in (".part", ".json")
            continue
        assert path.stem in task_ids
        if path.suffix == ".json":
            assert_whole(folder, path.stem)
        else:
            served = sample.replace(task_ids[0].encode(), path.stem.encode())
            assert path.read_bytes() == served


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow
def test_killed_at_many_moments_and_run_again(
    sandbox: Sandbox, tmp_path: Path, processes: LandingProcesses, seed: int
) -> None:
    """Rule: kill -9 leaves no part of an image under a final name; running again loses nothing,
    and fetches nothing that had a receipt."""
    dice = random.Random(seed)
    sandbox.configure(image_bytes=150_000)
    task_ids = sandbox.add_tasks([TaskPlan(seconds=dice.uniform(0, 0.8)) for _ in range(40)])
    asyncio.run(land(sandbox, task_ids[:1], tmp_path / "sample"))
    sample = (tmp_path / "sample" / f"{task_ids[0]}.jpg").read_bytes()
    folder = tmp_path / "images"
    for kills in range(8, -1, -1):
        done, served = receipts(folder), sandbox.stats().images_served
        process = processes.start(sandbox, task_ids, folder)
        if kills:
            time.sleep(dice.uniform(0.05, 0.25))
            os.kill(process, signal.SIGKILL)
        assert processes.exit_code() in ((0, -signal.SIGKILL) if kills else (0,))
        assert_only_whole_files(folder, task_ids, sample)
        now = sandbox.stats().images_served
        assert [t for t in done if now[t] != served[t]] == []
    assert receipts(folder) == set(task_ids)
    assert {f"{task_id}.jpg" for task_id in task_ids} <= set(names(folder))


def test_interrupted(sandbox: Sandbox, tmp_path: Path, processes: LandingProcesses) -> None:
    """Rule: Ctrl-C ends a landing, and leaves no part of an image, not even a hidden one."""
    task_ids = sandbox.add_tasks([*[DONE] * 10, *[NEVER] * 10])
    sandbox.add_fault(Fault(kind="drip", seconds=5, task_id=task_ids[0]))
    process = processes.start(sandbox, task_ids, tmp_path)
    block_until(lambda: len(receipts(tmp_path)) == 9)
    os.kill(process, signal.SIGINT)
    assert processes.exit_code() == 130
    assert receipts(tmp_path) == set(task_ids[1:10])
    for task_id in task_ids[1:10]:
        assert_whole(tmp_path, task_id)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system, and only where mounting is allowed")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_fails_one_and_not_the_rest(sandbox: Sandbox, small_disk: Path) -> None:
    """Rule: what does not fit fails and leaves nothing; a re-run with space lands it."""
    sandbox.configure(image_bytes=40_000)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 120_000)
    task_ids = sandbox.add_tasks([DONE] * 6)
    await land(sandbox, task_ids[:2], small_disk)
    outcomes = await land(sandbox, task_ids, small_disk)
    failed = [o for o in outcomes if o.status is LandingStatus.FAILED]
    landed = [o for o in outcomes if o.in_storage]
    assert {o.task_id for o in landed} >= set(task_ids[:2])
    assert failed
    assert {o.error.class_name for o in failed if o.error} == {"StorageError"}
    assert all(o.error and o.error.retryable and "no space left" in o.error.message for o in failed)
    assert receipts(small_disk) == {o.task_id for o in landed}
    assert not [name for name in names(small_disk) if name.startswith(".")]
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    again = await land(sandbox, task_ids, small_disk)
    assert {o.task_id for o in again if o.status is LandingStatus.LANDED} == {
        o.task_id for o in failed
    }
    for task_id in task_ids:
        assert_whole(small_disk, task_id)


async def test_a_disk_that_is_full_from_the_start(sandbox: Sandbox, small_disk: Path) -> None:
    """Rule: no space at all is told before anything is asked."""
    with suppress(OSError), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(b"x" * 4096)
            ballast.flush()
    with pytest.raises(errors.StorageError, match="no space left"):
        await land(sandbox, [sandbox.add_task(DONE)], small_disk)
    assert sandbox.stats().requests == {}
