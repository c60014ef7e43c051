"""Pages in a browser can use the sandbox, wherever they come from."""

from __future__ import annotations

import httpx

from nanobanana_blocks.sandbox import Fault, Sandbox
from tests.support.sandbox_api import DONE, result_url

PAGE = {"origin": "https://app.example"}


def test_a_preflight_lets_the_key_and_json_through(sandbox: Sandbox, api: httpx.Client) -> None:
    """Rule: a browser that asks first may send what the API takes; it counts as no request."""
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    answer = httpx.options(
        f"{sandbox.base_url}/api/v1/nanobanana/generate", headers=PAGE | asks, trust_env=False
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert sandbox.stats().requests == {}


def test_answers_and_images_can_be_read(sandbox: Sandbox, api: httpx.Client) -> None:
    """Rule: a page may read every answer, refusals, faults and images included."""
    url = result_url(api, sandbox.add_task(DONE))
    sandbox.add_fault(Fault(kind="http-status", status=503, count=1))
    for answer in (
        api.get("/api/v1/common/credit", headers=PAGE),
        api.get("/api/v1/common/credit", headers=PAGE),
        httpx.get(f"{sandbox.base_url}/api/v1/common/credit", headers=PAGE, trust_env=False),
        httpx.get(url, headers=PAGE, trust_env=False),
    ):
        assert answer.headers["access-control-allow-origin"] == "*"


def test_no_page_controls_it(sandbox: Sandbox) -> None:
    """Rule: the control interface is for who runs the sandbox, not for pages."""
    answer = httpx.get(f"{sandbox.base_url}/sandbox", headers=PAGE, trust_env=False)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_other_clients_see_no_such_headers(api: httpx.Client) -> None:
    """Rule: what is no browser gets what the service would send."""
    assert "access-control-allow-origin" not in api.get("/api/v1/common/credit").headers
