"""What the sandbox's submit endpoints accept, refuse and bill."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from nanobanana_blocks.sandbox import (
    Fault,
    Sandbox,
)
from tests.support.sandbox_api import API, DONE, PROMPT, fetch, record, result_url, submit


def test_the_three_endpoints_create_and_bill(sandbox: Sandbox, api: httpx.Client) -> None:
    """Each answers with a task id, takes its price, and its task can be looked at."""
    sandbox.configure(credits=100, submitted_task=DONE)
    first = submit(api, numImages=2, image_size="16:9")
    second = submit(api, "generate-pro", resolution="2K", aspectRatio="auto")
    third = submit(api, "generate-2", resolution="4K", outputFormat="png", aspectRatio="1:8")
    assert first["msg"] == "success"
    assert second["message"] == "success"
    assert "msg" not in second
    stats = sandbox.stats()
    assert (stats.submits, stats.credits_spent, stats.credits_left) == (3, 4 + 24 + 18, 54)
    assert api.get("/api/v1/common/credit").json()["data"] == 54
    operations = []
    for answer in (first, second, third):
        data = record(api, answer["data"]["taskId"])
        operations.append(data["operationType"])
        assert json.loads(data["paramJson"])["prompt"] == "a banana"
    assert operations == ["nanobanana_TEXTTOIAMGE", "nano-banana-pro_2k", "nano-banana-2_4k"]
    wide = record(api, first["data"]["taskId"])["response"]["resultImageUrl"]
    assert len(wide) == 2
    with Image.open(io.BytesIO(fetch(wide[0]).content)) as image:
        assert abs(image.width / image.height - 16 / 9) < 0.01
    tall = fetch(result_url(api, third["data"]["taskId"]))
    assert tall.headers["content-type"] == "image/png"
    kept = sandbox.submits()
    assert [one.endpoint for one in kept] == ["generate", "generate-pro", "generate-2"]
    assert kept[1].body["resolution"] == "2K"


@pytest.mark.parametrize(
    ("endpoint", "changes", "message"),
    [
        ("generate", {"prompt": None}, "prompt can not be blank"),
        ("generate", {"prompt": "  "}, "prompt can not be blank"),
        ("generate", {"prompt": 3}, "Incorrect prompt"),
        ("generate", {"type": None}, "type can not be blank"),
        ("generate", {"type": "TEXTTOIMAGE"}, "Incorrect type"),
        ("generate", {"callBackUrl": None}, "callBackUrl can not be null"),
        ("generate", {"image_size": "7:5"}, "Incorrect image_size"),
        ("generate", {"image_size": ["1:1"]}, "Incorrect image_size"),
        ("generate", {"numImages": 5}, "Incorrect numImages"),
        ("generate", {"numImages": True}, "Incorrect numImages"),
        ("generate", {"type": "IMAGETOIAMGE"}, "imageUrls can not be blank"),
        ("generate", {"imageUrls": "http://x"}, "Incorrect imageUrls"),
        ("generate-pro", {"imageUrls": ["http://x"] * 9}, "imageUrls can not hold more than 8"),
        ("generate-pro", {"resolution": "8K"}, "Incorrect resolution"),
        ("generate-2", {"imageUrls": ["http://x"] * 15}, "imageUrls can not hold more than 14"),
        ("generate-2", {"prompt": "x" * 20_001}, "prompt is longer than 20000 characters"),
        ("generate-2", {"outputFormat": "webp"}, "Incorrect outputFormat"),
        ("generate-2", {"googleSearch": "yes"}, "Incorrect googleSearch"),
        ("generate-2", {"aspectRatio": "2:1"}, "Incorrect aspectRatio"),
    ],
)
def test_unacceptable_submits(
    sandbox: Sandbox, api: httpx.Client, endpoint: str, changes: dict[str, Any], message: str
) -> None:
    """What the documents do not allow is refused with 422, creates nothing and costs nothing."""
    answer = submit(api, endpoint, **changes)
    key = "message" if endpoint == "generate-pro" else "msg"
    assert (answer["code"], answer[key], answer["data"]) == (422, message, None)
    stats = sandbox.stats()
    assert (stats.submits, stats.submits_refused, stats.credits_spent) == (0, 1, 0)


def test_bodies_that_are_no_request(sandbox: Sandbox, api: httpx.Client) -> None:
    """Not JSON, or not an object: 400; too large: 413; no key: 401 and not even kept."""
    assert api.post(f"{API}/generate", content=b"{").json()["code"] == 400
    assert api.post(f"{API}/generate", json=[1]).json()["code"] == 400
    sandbox.configure(max_body_bytes=100)
    assert submit(api, prompt="x" * 200)["code"] == 413
    anonymous = api.post(f"{API}/generate", json=PROMPT, headers={"authorization": ""})
    assert anonymous.json()["code"] == 401
    assert len(sandbox.submits()) == 3


def test_credits_run_out(sandbox: Sandbox, api: httpx.Client) -> None:
    """What the account cannot pay for is refused with 402."""
    sandbox.configure(credits=7)
    assert submit(api)["code"] == 200
    refused = submit(api)
    assert refused["code"] == 402
    assert refused["msg"] == "The current credits are insufficient. Please top up."
    assert sandbox.stats().credits_left == 3


def test_a_lost_answer_can_still_cost(sandbox: Sandbox, api: httpx.Client) -> None:
    """A fault that takes effect creates and bills the task before its answer is lost."""
    sandbox.add_fault(Fault(kind="drop", on="submit", count=1, takes_effect=True))
    with pytest.raises(httpx.TransportError):
        submit(api)
    sandbox.add_fault(Fault(kind="drop", on="submit", count=1))
    with pytest.raises(httpx.TransportError):
        submit(api)
    assert sandbox.stats().submits == 1
    assert record(api, str(sandbox.submits()[0].task_id))["successFlag"] == 0
