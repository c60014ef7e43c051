"""The day's account, and the table of all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.workers import deploy
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.fault_day import Account, Day
from tests.support.prefect_servers import PrefectServer

HEADING = """# Bad days that were lived through

Made by `make test-faults`: each line is a test in `tests/faults/`, with real processes, and with
the [sandbox](testing.md) in the place of the API, which counts what was paid. A day ends when the
last run of it has ended.

* *lost*: rows that have no image in the end, and of which nobody was told;
* *paid twice*: tasks paid for beyond the first of each row;
* *partial*: images under a final name that are not whole;
* *leaked*: temporary files left over, and files or outputs that show the key or a signed URL;
* *stuck*: runs that did not end;
* *told*: rows without an image that the last run names as perhaps paid for, for a person to decide.

"""
COLUMNS = ("rows", "lost", "paid twice", "partial", "leaked", "stuck", "told")
_lines: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that write the table, and that add the days which mostly wait."""
    parser.addoption(
        "--by-the-clock", action="store_true", help="live through the days that take minutes, too"
    )
    parser.addoption("--faults-table", help="write what each bad day has cost to this file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All of them are slow; those by the clock are for who asks for them."""
    left_out = [
        item
        for item in items
        if item.get_closest_marker("by_the_clock")
        and not config.getoption("--by-the-clock", default=False)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if "tests/faults/" in item.nodeid and "test_fuzz" not in item.nodeid:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Prefect server with all deployments; the environment that reaches it."""
    folder = tmp_path_factory.mktemp("deployed")
    with PrefectServer(folder / "prefect") as server:
        environment = os.environ | {"PREFECT_API_URL": server.api_url}
        deploy(environment)
        yield environment


@pytest.fixture
def make_day(tmp_path: Path, sandbox: Sandbox) -> Iterator[Callable[..., Day]]:
    """Make a day of so many rows, whose images take a moment each."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0.3), image_bytes=20_000, credits=10**6)

    days = []

    def make(rows: int = 60, images: Path | None = None) -> Day:
        folder = tmp_path / f"day-{len(days)}"
        folder.mkdir()
        days.append(Day(folder, sandbox, rows, images))
        return days[-1]

    yield make
    for day in days:
        day.close()


@pytest.fixture
def settle(request: pytest.FixtureRequest) -> Callable[..., Account]:
    """Count a day's cost, note it for the table, and fail where anything is not zero.

    `exception` names what the table says beside a day that cannot be all zeros, with the columns
    that are not. Each run that was `killed` in mid-write may leave temporary files.
    """

    def count(
        day: Day,
        what: str,
        *others: Day,
        told: int = 0,
        killed: int = 0,
        exception: str = "",
        **costs: int,
    ) -> Account:
        account = sum((other.settle() for other in others), day.settle())
        left = [name for one in (day, *others) for name in one.leaks()]
        if killed and left and all(name.endswith(".part") for name in left):
            assert len(left) <= 10 * killed, left
            costs["leaked"] = len(left)
            removed = "leaked: temporary files, which a run removes after a day"
            exception = f"{exception}; {removed}" if exception else removed
        faults = {name.replace(" ", "_"): number for name, number in account.faults.items()}
        numbers = [account.rows, *faults.values(), account.told]
        note = f" ({exception})" if exception else ""
        _lines[what] = f"| {what}{note} | " + " | ".join(map(str, numbers)) + " |"
        assert faults == dict.fromkeys(faults, 0) | costs, f"{left} {day.said()[-3000:]}"
        assert account.told == told
        return account

    return count


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note which days could not be lived through here."""
    if report.skipped and report.nodeid.startswith("tests/faults/"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        name = report.nodeid.rpartition("::test_")[2].replace("_", " ")
        _lines[name] = f"| {name}: not run here, {reason.removeprefix('Skipped: ')} |" + " |" * 7


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, where it was asked for."""
    place = session.config.getoption("--faults-table", None)
    if place and not hasattr(session.config, "workerinput"):
        head = "| the day | " + " | ".join(COLUMNS) + " |\n|---|" + "--:|" * len(COLUMNS) + "\n"
        Path(place).write_text(HEADING + head + "\n".join(_lines.values()) + "\n")
