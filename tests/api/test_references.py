"""Reference images that the service can never fetch are refused before they are paid for."""

from __future__ import annotations

import json

import pytest

from nanobanana_blocks import (
    Generate2Request,
    GenerateRequest,
    GenericRequest,
    NanoBananaClient,
)
from nanobanana_blocks.api.protocol import read_record_info
from nanobanana_blocks.api.references import unfetchable_reference
from nanobanana_blocks.errors import APIError, InvalidInput
from nanobanana_blocks.sandbox import Sandbox

PUBLIC = "https://api.nanobananaapi.ai"


def request_with(*urls: str) -> Generate2Request:
    return Generate2Request(prompt="a fig", image_urls=urls)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "a.localhost",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "１２７.0.0.1",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",
        "10.0.0.1",
        "192.168.1.9:9000",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104 - an address to refuse
        "169.254.169.254",
        "192.0.2.1",
    ],
)
def test_a_host_that_a_public_service_cannot_reach(host: str) -> None:
    """Rule: with a public API, no reference image is on a loopback, private or reserved address."""
    request = request_with("https://example.com/a.png", f"HTTP://user@{host}/secret.png?sig=s3cr3t")
    problem = unfetchable_reference(request, PUBLIC)
    assert problem is not None
    assert problem.startswith("image URL 2 is on ")
    assert "secret" not in problem
    assert "s3cr3t" not in problem


@pytest.mark.parametrize("urls", ["{}", ["https://example.com/a.png", "{}"]])
def test_a_url_in_a_field_of_a_newer_endpoint(urls: str | list[str]) -> None:
    """Rule: the same holds for every URL that such a request has; its field is named."""
    for host, is_refused in (("10.0.0.1", True), ("example.com", False)):
        url = f"http://{host}/secret.png"
        value = json.loads(json.dumps(urls).replace("{}", url))
        request = GenericRequest(endpoint="generate-3", fields={"maskUrl": value}, credits=6)
        problem = unfetchable_reference(request, PUBLIC) or ""
        assert ("fields: the URL in 'maskUrl' is on 10.0.0.1" in problem) is is_refused
        assert "secret" not in problem


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "HTTPS://cdn.example.com./a",
        "http://8.8.8.8/",
        "https://ex-10.0/a",
    ],
)
def test_a_host_that_may_be_public(url: str) -> None:
    """Rule: what may be public is the service's to judge."""
    assert unfetchable_reference(request_with(url), PUBLIC) is None


@pytest.mark.parametrize("api", ["http://localhost:8000", "http://127.0.0.1:1", "http://10.0.0.8"])
def test_an_api_nearby_may_fetch_from_nearby(api: str) -> None:
    """Rule: an API on loopback or in a private network may fetch from there."""
    assert unfetchable_reference(request_with("http://192.168.0.1/a.png"), api) is None


async def test_such_a_request_is_not_sent() -> None:
    """Rule: the client refuses it, naming the host, before anything is sent."""
    async with NanoBananaClient("a-key-that-is-never-sent", PUBLIC) as client:
        with pytest.raises(InvalidInput, match=r"on 10\.0\.0\.1, a private address"):
            await client.submit(request_with("http://10.0.0.1/a.png"))


async def test_a_file_is_not_sent_as_it_is() -> None:
    """Rule: the client sends URLs only; what makes files reachable is named."""
    async with NanoBananaClient("a-key-that-is-never-sent", PUBLIC) as client:
        with pytest.raises(InvalidInput, match=r"image 2 is a file.*nanobanana generate"):
            await client.submit(request_with("https://example.com/a.png", "photos/a.png"))


async def test_schemes_in_capitals_are_urls(sandbox: Sandbox) -> None:
    """Rule: schemes are case-insensitive, to the request and to the sandbox."""
    request = GenerateRequest(prompt="a fig", image_urls=("HTTPS://example.com/a.png",))
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url) as client:
        assert await client.submit(request)


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "Http"])
def test_a_signature_in_a_message_is_redacted(scheme: str) -> None:
    """Rule: no query of a URL in the service's text reaches an error, whatever its case."""
    body = f'{{"code": 500, "msg": "no {scheme}://h/i.png?Signature=s3cr3t", "data": null}}'
    with pytest.raises(APIError) as caught:
        read_record_info(200, body.encode(), task_id="t1")
    assert "s3cr3t" not in str(caught.value)
    assert f"{scheme}://h/i.png?…" in str(caught.value)
