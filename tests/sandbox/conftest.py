"""A sandbox that was reset for each test, a client of its API, and an address for its callbacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest

from nanobanana_blocks.sandbox import Sandbox
from tests.support.sandbox_api import Receiver


@pytest.fixture
def sandbox(nanobanana_sandbox: Sandbox) -> Sandbox:
    return nanobanana_sandbox


@pytest.fixture(scope="session")
def connection(nanobanana_sandbox_server: Sandbox) -> Iterator[httpx.Client]:
    server = nanobanana_sandbox_server
    headers = {"authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.base_url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def api(sandbox: Sandbox, connection: httpx.Client) -> httpx.Client:
    """A client with the key, of a sandbox that was reset for this test."""
    return connection


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
