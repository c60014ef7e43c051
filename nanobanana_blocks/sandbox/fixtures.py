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

AT_ONCE = 1e-6


@pytest.fixture(scope="session")
def nanobanana_sandbox_server() -> Iterator[Sandbox]:
    """One sandbox on a free loopback port for the whole test session."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def nanobanana_sandbox_speed() -> float | None:
    """How many times faster than the service it generates; None, the default, is at once.

    Define a fixture of this name, in a module or a `conftest.py`, to have another speed there.
    """
    return None


@pytest.fixture
def nanobanana_sandbox(
    nanobanana_sandbox_server: Sandbox, nanobanana_sandbox_speed: float | None
) -> Sandbox:
    """A running sandbox that remembers nothing of earlier tests and generates at once."""
    nanobanana_sandbox_server.reset()
    if nanobanana_sandbox_speed is None:
        nanobanana_sandbox_server.configure(median_seconds=AT_ONCE, p99_seconds=AT_ONCE)
    else:
        nanobanana_sandbox_server.configure(speed=nanobanana_sandbox_speed)
    return nanobanana_sandbox_server
