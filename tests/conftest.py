"""What all tests share: a real Prefect server, a real API sandbox, and nothing of the user's."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

for _name in [name for name in os.environ if name.startswith(("PREFECT_", "NANOBANANA_"))]:
    del os.environ[_name]
_home = tempfile.TemporaryDirectory(prefix="nanobanana-tests-")
os.environ["PREFECT_HOME"] = _home.name
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it

from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402  # after the above

from nanobanana_blocks.cli.demo import own_prefect  # noqa: E402
from nanobanana_blocks.sandbox import Sandbox  # noqa: E402
from tests.support.prefect_runs import forget_all  # noqa: E402

SERVERS = {"nanobanana_sandbox", "s3"}
"""The fixtures that start a server which is not Prefect's."""

_SERVERS: list[str] = []
"""The API URL of the session's Prefect server, once it was started."""

pytest_plugins = ["nanobanana_blocks.sandbox.fixtures"]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API URL of a Prefect server that lasts for the whole test session."""
    with own_prefect(tmp_path_factory.mktemp("prefect")) as environment:
        _SERVERS.append(environment["PREFECT_API_URL"])
        yield environment["PREFECT_API_URL"]
        _SERVERS.clear()


@pytest.fixture(scope="module", autouse=True)
def nothing_left_in_prefect() -> Iterator[None]:
    """Leave no deployment and no saved block to the next module, where its name would mean it."""
    yield
    for api in _SERVERS:
        forget_all(api, "deployments")
        forget_all(api, "block_documents")


@pytest.fixture
def prefect_api(prefect_server: str) -> Iterator[str]:
    """Have Prefect in this process use the session's server."""
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield prefect_server


@pytest.fixture
def nanobanana_sandbox_speed() -> float:
    """As slow as the service, unless a test says how long its tasks take."""
    return 1.0


@pytest.fixture
def sandbox(nanobanana_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """An API sandbox, fresh, which the environment's credentials lead to."""
    monkeypatch.setenv("NANOBANANA_API_KEY", nanobanana_sandbox.api_key)
    monkeypatch.setenv("NANOBANANA_BASE_URL", nanobanana_sandbox.base_url)
    return nanobanana_sandbox


@pytest.fixture
def samples() -> Path:
    """The folder of recorded answers and callbacks."""
    return Path(__file__).parent / "samples"


def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: half of the time of most tests is waiting."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests by what they start, which their fixtures tell."""
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        if {"prefect_server", "prefect_api"} & needs:
            item.add_marker("prefect")
        elif needs & SERVERS or item.get_closest_marker("storage"):
            item.add_marker("integration")
        else:
            item.add_marker("unit")
