"""What made a picture: in its receipt as far as it is known, and nothing secret with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanobanana_blocks import NanoBananaClient
from nanobanana_blocks.api.details import TaskDetails, TaskStatus
from nanobanana_blocks.api.requests import Generate2Request, GenerateRequest
from nanobanana_blocks.landing import Provenance, Reference, read_receipt
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.landing.provenance import source_of
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination
from tests.support.batches import QUICK

SAMPLES = Path(__file__).parent / "samples-0.1"
SIGNED = "https://bucket.example/photo.jpg?X-Amz-Signature=5ecret#part"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (SIGNED, "https://bucket.example/photo.jpg"),
        ("https://me:5ecret@host.example:8443/a.png", "https://host.example:8443/a.png"),
        ("HTTPS://token5ecret@host.example", "HTTPS://host.example"),
        ("ftp://me:5ecret@host.example/a.png", "ftp://me@host.example/a.png"),
        ("s3://bucket/a.png?versionId=5ecret", "s3:…"),
        ("photos/plate.png", "photos/plate.png"),
        ("products/a b.png", "products/a b.png"),
        ("row:plate#2", "row:plate#2"),
    ],
)
def test_a_source_holds_no_secret(given: str, shown: str) -> None:
    """Rule: passwords, queries and fragments of a reference are cut off; the rest is as given."""
    assert source_of(given) == shown
    assert len(source_of("https://h/" + "a" * 9000)) == 500


def test_what_is_known_of_a_request() -> None:
    """Rule: endpoint, options in the API's words, references; the prompt is no part of it."""
    request = Generate2Request(
        prompt="A fig", resolution="2K", image_urls=("a.png", SIGNED), output_format="png"
    )
    made = Provenance.of(request, {"a.png": "ab" * 32}, credits_estimated=12)
    assert json.loads(made.model_dump_json(exclude_none=True)) == {
        "endpoint": "generate-2",
        "options": {"resolution": "2K", "outputFormat": "png"},
        "references": [
            {"source": "a.png", "sha256": "ab" * 32},
            {"source": "https://bucket.example/photo.jpg"},
        ],
        "credits_estimated": 12,
    }


def test_what_record_info_tells_of_a_request_that_is_not_known() -> None:
    """Rule: documented options and bare URLs only; no endpoint is guessed; what is odd is left."""
    details = TaskDetails(
        task_id="t",
        status=TaskStatus.SUCCESS,
        parameters={
            "prompt": "A fig",
            "numImages": 2,
            "aspectRatio": "1:1",
            "resolution": {"odd": 1},
            "watermark": "half \ud83d",
            "callBackUrl": "https://h/5ecret",
            "imageUrls": [SIGNED, 7, "row:x"],
        },
    )
    made = Provenance(flow_run="run").completed_by(details)
    assert made == Provenance(
        flow_run="run",
        options={"aspectRatio": "1:1", "numImages": 2, "watermark": "half \ufffd"},
        references=[Reference(source="https://bucket.example/photo.jpg")],
    )
    known = Provenance.of(GenerateRequest(prompt="A fig"))
    assert known.completed_by(details) == known


async def land(
    sandbox: Sandbox, folder: Path, task_id: str, *, keep: bool = False, **known: Provenance
) -> str:
    """Land a task and return its receipt."""
    async with (
        NanoBananaClient(sandbox.api_key, sandbox.base_url) as client,
        await Destination.open(str(folder)) as destination,
        open_lander(
            [task_id], client, destination, timeout=10, poll=QUICK, keep_prompts=keep
        ) as lander,
    ):
        assert (await lander.land(task_id, **known)).in_storage
    return (folder / f"{task_id}.json").read_text()


async def test_a_bare_task_id(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: what paramJson tells is there, what nobody knows is absent, the prompt is not kept."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, prompt="A secret fig"))
    text = await land(sandbox, tmp_path, task_id)
    receipt = read_receipt(text.encode())
    assert receipt is not None
    assert receipt.provenance is not None
    assert receipt.provenance.options == {"numImages": 1, "type": "TEXTTOIAMGE"}
    assert set(json.loads(text)["provenance"]) == {"options"}
    assert "secret fig" not in text


async def test_the_prompt_is_kept_only_on_request(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a request's own prompt is kept where prompts are, also where record-info has none."""
    plan = TaskPlan(seconds=0, prompt="as the service says")
    known = Provenance.of(GenerateRequest(prompt="as it was asked"))
    kept = await land(sandbox, tmp_path, sandbox.add_task(plan), keep=True, provenance=known)
    assert json.loads(kept)["prompt"] == "as it was asked"
    assert "prompt" not in json.loads(kept)["provenance"]
    bare = await land(sandbox, tmp_path, sandbox.add_task(plan), keep=True)
    assert json.loads(bare)["prompt"] == "as the service says"
    unkept = await land(sandbox, tmp_path, sandbox.add_task(plan), provenance=known)
    assert "as it was asked" not in unkept


@pytest.mark.parametrize("name", ["fig.json", "two.json"])
def test_older_receipts_stay_readable(name: str) -> None:
    """Rule: a receipt without it is one, and so is one with what this version cannot understand."""
    data = (SAMPLES / name).read_bytes()
    receipt = read_receipt(data)
    assert receipt is not None
    assert receipt.provenance is None
    odd = json.dumps(json.loads(data) | {"provenance": {"options": 7}}).encode()
    assert read_receipt(odd) == receipt
    later = json.dumps(json.loads(data) | {"provenance": {"endpoint": "generate-9", "new": 1}})
    found = read_receipt(later.encode())
    assert found is not None
    assert found.provenance == Provenance(endpoint="generate-9")
