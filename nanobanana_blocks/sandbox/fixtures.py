"""A pytest fixture for tests of code that talks to the NanoBanana API.

Add it with `pytest_plugins = ["nanobanana_blocks.sandbox.fixtures"]` in a top-level
`conftest.py`. Nothing else in the package imports pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nanobanana_blocks.sandbox.server import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def nanobanana_sandbox_server() -> Iterator[Sandbox]:
    """One sandbox on a free loopback port for the whole test session."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def nanobanana_sandbox(nanobanana_sandbox_server: Sandbox) -> Sandbox:
    """A running sandbox that remembers nothing of earlier tests."""
    nanobanana_sandbox_server.reset()
    return nanobanana_sandbox_server
