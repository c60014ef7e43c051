"""The sandbox's image host: real pictures under signed, expiring URLs, and its faults."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from nanobanana_blocks.sandbox import (
    SIGNATURE_MARK,
    Fault,
    Sandbox,
    TaskPlan,
)
from tests.support.sandbox_api import DONE, KEYLESS, fetch, record, result_url
from tests.support.until import block_until

# --- images


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
def test_images_are_real(sandbox: Sandbox, api: httpx.Client, media_type: Any) -> None:
    """Each type decodes at the size asked for, says what it is and how long it is."""
    task_id = sandbox.add_task(
        TaskPlan(seconds=0, media_type=media_type, width=200, height=120, task_id="fixed")
    )
    response = fetch(result_url(api, task_id))
    assert response.headers["content-type"] == media_type
    assert int(response.headers["content-length"]) == len(response.content)
    with Image.open(io.BytesIO(response.content)) as image:
        image.load()
        assert (image.size, Image.MIME[str(image.format)]) == ((200, 120), media_type)
    assert fetch(result_url(api, task_id)).content == response.content
    head = KEYLESS.head(result_url(api, task_id))
    assert head.headers["content-length"] == response.headers["content-length"]
    assert sandbox.stats().images_served == {"fixed": 2}


def test_an_answer_under_way_at_a_reset_is_not_counted_after_it(
    sandbox: Sandbox, api: httpx.Client
) -> None:
    """Rule: what an earlier test has asked for is none of the next one's."""
    url = result_url(api, sandbox.add_task(TaskPlan(seconds=0, task_id="same")))
    sandbox.add_fault(Fault(kind="latency", on="files", seconds=1))
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(fetch, url)
        block_until(lambda: sandbox.stats().faults_fired)
        sandbox.reset()
        sandbox.add_task(TaskPlan(seconds=0, task_id="same"))
        assert slow.result().status_code == 200
    assert sandbox.stats().images_served == {}


def test_images_differ_between_tasks(sandbox: Sandbox, api: httpx.Client) -> None:
    """No two tasks, and no two images of a task, share their bytes; types and sizes vary."""
    tasks = sandbox.add_tasks([TaskPlan(seconds=0, images=2)] * 6)
    urls = [url for task_id in tasks for url in record(api, task_id)["response"]["resultImageUrl"]]
    answers = [fetch(url) for url in urls]
    assert len({answer.content for answer in answers}) == 12
    assert len({answer.headers["content-type"] for answer in answers}) > 1


def test_headers_and_extensions_can_lie(sandbox: Sandbox, api: httpx.Client) -> None:
    """The URL's extension and the media type may say other than the bytes."""
    plan = TaskPlan(
        seconds=0, media_type="image/jpeg", url_extension="png", content_type="text/plain"
    )
    url = result_url(api, sandbox.add_task(plan))
    assert httpx.URL(url).path.endswith(".png")
    response = fetch(url)
    assert response.headers["content-type"] == "text/plain"
    assert response.content.startswith(b"\xff\xd8")


def test_the_image_host_refuses_nameless_clients(sandbox: Sandbox, api: httpx.Client) -> None:
    """An empty User-Agent and urllib's own get 403."""
    url = result_url(api, sandbox.add_task(DONE))
    for agent in ("", "Python-urllib/3.12"):
        response = fetch(url, headers={"user-agent": agent})
        assert response.status_code == 403
    assert fetch(url).status_code == 200


def test_urls_expire(sandbox: Sandbox, api: httpx.Client) -> None:
    """The origin lives 10 minutes, the result longer, both scaled by speed."""
    response = record(api, sandbox.add_task(DONE))["response"]
    sandbox.advance(601)
    assert fetch(response["originImageUrl"]).status_code == 403
    assert fetch(response["resultImageUrl"]).status_code == 200
    sandbox.advance(14 * 86_400)
    assert fetch(response["resultImageUrl"]).status_code == 403
    sandbox.configure(speed=100.0, expired_url_status=410)
    brief = record(api, sandbox.add_task(DONE))["response"]["originImageUrl"]
    sandbox.advance(7)
    assert fetch(brief).status_code == 410


def test_urls_are_signed(sandbox: Sandbox, api: httpx.Client) -> None:
    """A URL without its signature, or with another's, is refused; the mark is in each."""
    url = result_url(api, sandbox.add_task(DONE))
    other = result_url(api, sandbox.add_task(DONE))
    assert SIGNATURE_MARK in url
    assert fetch(url.partition("?")[0]).status_code == 403
    assert fetch(url.partition("?")[0] + "?" + other.partition("?")[2]).status_code == 403
    assert fetch(f"{sandbox.base_url}/files/result/nobody_1.png").status_code == 404


def test_a_key_on_the_image_host_is_noticed(sandbox: Sandbox, api: httpx.Client) -> None:
    """Requests that bring the key where it does not belong are counted."""
    url = result_url(api, sandbox.add_task(DONE))
    fetch(url)
    assert sandbox.stats().keys_on_image_host == 0
    api.get(url)
    fetch(f"{url}&key={sandbox.api_key}")
    assert sandbox.stats().keys_on_image_host == 2


@pytest.mark.parametrize("size", [2_000, 60_000, 200_000])
def test_images_of_one_size_for_benchmarks(sandbox: Sandbox, api: httpx.Client, size: int) -> None:
    """With `image_bytes`, every image is a valid JPEG of about that size, yet its own."""
    sandbox.configure(image_bytes=size)
    urls = [result_url(api, task_id) for task_id in sandbox.add_tasks([DONE] * 3)]
    assert all(".jpg?" in url for url in urls)
    bodies = [fetch(url).content for url in urls]
    assert len(set(bodies)) == 3
    for body in bodies:
        assert 0.9 * size <= len(body) <= size
        with Image.open(io.BytesIO(body)) as image:
            image.load()


# --- faults of the image host


def test_images_that_are_no_images(sandbox: Sandbox, api: httpx.Client) -> None:
    """HTML with 200, another type, nothing at all, and the statuses of lost files."""
    url = result_url(api, sandbox.add_task(DONE))
    sandbox.add_fault(Fault(kind="html", on="files", count=1))
    assert fetch(url).text.startswith("<!DOCTYPE")
    sandbox.add_fault(Fault(kind="wrong-type", count=1))
    assert fetch(url).content.startswith(b"%PDF")
    sandbox.add_fault(Fault(kind="empty", count=1))
    assert fetch(url).content == b""
    for status in (403, 404, 410):
        sandbox.add_fault(Fault(kind="http-status", on="files", status=status, count=1))
        assert fetch(url).status_code == status
    assert sandbox.stats().images_served == {}


def test_images_cut_short_look_whole_or_broken(sandbox: Sandbox, api: httpx.Client) -> None:
    """Half an image comes as a whole answer in three ways, and as a broken one in two."""
    url = result_url(api, sandbox.add_task(DONE))
    whole = fetch(url).content
    for kind in ("truncated-image", "truncated-chunked", "until-close"):
        sandbox.add_fault(Fault(kind=kind, count=1))
        response = fetch(url)
        assert response.content == whole[: len(whole) // 2], kind
        assert ("content-length" in response.headers) == (kind == "truncated-image")
    for kind in ("truncated-transfer", "chunked-cut"):
        sandbox.add_fault(Fault(kind=kind, count=1))
        with pytest.raises(httpx.RemoteProtocolError):
            fetch(url)
    assert fetch(url).content == whole


def test_endless_and_slow_images(sandbox: Sandbox, api: httpx.Client) -> None:
    """An endless body goes on past any cap until the client leaves; a drip comes in pieces."""
    url = result_url(api, sandbox.add_task(DONE))
    sandbox.add_fault(Fault(kind="endless", size=10**12, count=1))
    received = 0
    with KEYLESS.stream("GET", url) as response:
        for part in response.iter_bytes():
            received += len(part)
            if received > 2_000_000:
                break
    sandbox.configure(image_bytes=10_000)
    sandbox.add_fault(Fault(kind="drip", seconds=0.001, count=1))
    assert len(fetch(url).content) == pytest.approx(10_000, rel=0.1)


def test_a_decompression_bomb(sandbox: Sandbox, api: httpx.Client) -> None:
    """A small PNG that holds too many pixels to be decoded."""
    url = result_url(api, sandbox.add_task(DONE))
    sandbox.add_fault(Fault(kind="bomb", count=1))
    body = fetch(url).content
    assert len(body) < 100_000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(body))


def test_redirects_of_images(sandbox: Sandbox, api: httpx.Client) -> None:
    """A redirect leads anywhere, and to itself without end."""
    url = result_url(api, sandbox.add_task(DONE))
    target = "http://169.254.169.254/latest"
    sandbox.add_fault(Fault(kind="redirect", on="files", url=target, count=1))
    assert fetch(url).headers["location"] == target
    sandbox.add_fault(Fault(kind="redirect", on="files"))
    with pytest.raises(httpx.TooManyRedirects):
        fetch(url, follow_redirects=True)
