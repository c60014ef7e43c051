"""Flows, tasks, blocks and commands that work from files, against real servers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.blocks.fields import SecretDict
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort

from flows.run_batch import run_batch
from nanobanana_blocks import (
    GenerateRequest,
    ImageStore,
    NanoBananaCredentials,
    NanoBananaGeneration,
    PollPolicy,
    errors,
)
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.tasks import submit_generation
from tests.support.pictures import PublicFolder, picture, public_folder
from tests.support.storage_servers import S3Server, s3_server

pytestmark = pytest.mark.usefixtures("prefect_api")

SIGNATURE = "X-Amz-Signature"
SOON = PollPolicy.fixed(0.05)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        server.client.put_object(Bucket="bucket", Key="shop/mug.jpg", Body=picture(3))
        yield server


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PublicFolder]:
    with public_folder(tmp_path / "world") as served:
        yield served


@pytest.fixture(autouse=True)
def _really_fetching(sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=TaskPlan(seconds=0), fetch_references=True)


async def save(name: str, **fields: Any) -> None:
    await ImageStore(**fields).asave(name, overwrite=True)


async def all_that_prefect_keeps() -> str:
    """Runs with their parameters and states, logs and artifacts, as the server has them."""
    kept = []
    async with get_client() as client:
        runs = await client.read_flow_runs(limit=5, sort=FlowRunSort.START_TIME_DESC)
        kept += [run.model_dump_json() for run in runs]
        tasks = await client.read_task_runs(flow_run_filter=FlowRunFilter())
        kept += [run.model_dump_json() for run in tasks]
        kept += [entry.model_dump_json() for entry in await client.read_logs()]
        kept += [artifact.model_dump_json() for artifact in await client.read_artifacts()]
    return "\n".join(kept)


async def test_a_flow_edits_photos_of_a_saved_store(
    sandbox: Sandbox, tmp_path: Path, s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule: `store/path` is reached with the store's keys; Prefect keeps nothing of a signature."""
    await save("shop-photos", url="s3://bucket/shop", storage_options=SecretDict(s3.options()))
    manifest = tmp_path / "rows.jsonl"
    row = {"prompt": "At night", "name": "mug", "imageUrls": ["shop-photos/mug.jpg"]}
    manifest.write_text(json.dumps(row))
    caplog.set_level(logging.DEBUG)
    report = await run_batch(str(manifest), str(tmp_path / "images"), poll=SOON)
    assert report.counts["landed"] == 1
    (submit,) = sandbox.submits()
    assert SIGNATURE in submit.body["imageUrls"][0]
    assert sandbox.stats().references_fetched == 1
    kept = await all_that_prefect_keeps()
    assert str(manifest) in kept
    assert SIGNATURE not in kept
    assert submit.body["imageUrls"][0].rpartition("=")[2] not in kept
    ours = [
        record.getMessage()
        for record in caplog.records
        if record.threadName != "nanobanana-sandbox" and record.name != "werkzeug"  # the servers'
    ]
    assert ours
    assert not [line for line in ours if SIGNATURE in line]


async def test_a_flow_copies_local_photos(
    sandbox: Sandbox, tmp_path: Path, world: PublicFolder
) -> None:
    """Rule: `references` names a store with a public URL; one without is told before."""
    await save("public-copies", url=str(world.folder), public_url=world.url)
    await save("no-public-url", url=str(world.folder))
    (tmp_path / "mug.jpg").write_bytes(picture(4))
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({"prompt": "At night", "imageUrls": ["mug.jpg"]}))
    images = str(tmp_path / "images")
    with pytest.raises(errors.InvalidInput, match="'no-public-url' has no public URL"):
        await run_batch(str(manifest), images, poll=SOON, references="no-public-url")
    report = await run_batch(str(manifest), images, poll=SOON, references="public-copies")
    assert report.counts["landed"] == 1
    assert sandbox.stats().references_fetched == 1


async def test_a_task_and_a_block_take_files(
    sandbox: Sandbox, tmp_path: Path, s3: S3Server, world: PublicFolder
) -> None:
    """Rule: single requests work from files as well, and tell what cannot be sent."""
    await save("shop-photos", url="s3://bucket/shop", storage_options=SecretDict(s3.options()))
    await save("public-copies", url=str(world.folder), public_url=world.url)
    (tmp_path / "mug.jpg").write_bytes(picture(5))
    local = GenerateRequest(prompt="At night", image_urls=(str(tmp_path / "mug.jpg"),))
    stored = GenerateRequest(prompt="At night", image_urls=("shop-photos/mug.jpg",))

    @flow
    async def submits() -> list[str]:
        return [
            await submit_generation(stored),
            await submit_generation(local, references="public-copies"),
        ]

    @flow
    async def cannot() -> None:
        await submit_generation(local)

    assert len(await submits()) == 2
    with pytest.raises(errors.UnusableReference, match=r"image 1 .*on this machine"):
        await cannot()
    credentials = NanoBananaCredentials(api_key=sandbox.api_key, base_url=sandbox.base_url)
    generation = NanoBananaGeneration(
        credentials=credentials, request=local, references="public-copies"
    )
    await generation.atrigger()
    assert sandbox.stats().references_fetched == 3
    assert SIGNATURE not in await all_that_prefect_keeps()


def test_a_public_url_is_checked_when_a_store_is_saved() -> None:
    """Rule: what cannot be a public URL is refused by the block."""
    with pytest.raises(ValueError, match="must be like"):
        ImageStore(url="s3://bucket", public_url="https://cdn.example.com/?x=1")
