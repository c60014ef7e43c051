"""The storage servers, each started once where a test asks for it, and the table of the results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.storage_kinds import KINDS, WITHOUT_SERVER, Kind

CONFORMANCE = "tests/storage/test_conformance.py"
HEADING = """# What each kind of storage was seen to do

Made by `make storage-table`, from the results of `tests/storage/test_conformance.py` on the servers
that `tests/support/storage_kinds` starts. ✓ held, ✗ did not, – does not apply to that server or
could not be tried here (the reason is below).

"""
_results: dict[str, dict[str, str]] = defaultdict(dict)
_reasons: dict[tuple[str, str], str] = {}
_tried: dict[str, Kind] = {}
EXCEPTIONS = {
    "no exclusive creation, which the check notices: two runs of one batch at once may pay twice": (
        lambda kind: not kind.exclusive
    ),
    "while a file is replaced, a reader may find none, never part of one": (
        lambda kind: not kind.replaces_at_once
    ),
    "a full disk is an error, but its protocol has no code to tell the cause by": (
        lambda kind: not kind.says_full
    ),
    "a bucket that is missing is made by the service itself": lambda kind: kind.makes_buckets,
}
"""What a ✓ holds only in part for, by what the suite expects of a kind."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the table."""
    parser.addoption("--storage-table", help="write what each kind of storage did to this file")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind]]:
    """The servers that run so far, by name."""
    running: dict[str, Kind] = {}
    with ExitStack() as stack:
        running["stack"] = stack  # type: ignore[assignment]  # closed with the last test
        yield running


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in WITHOUT_SERVER else pytest.mark.slow)
        for name in sorted(KINDS)
    ]
)
def kind(
    request: pytest.FixtureRequest,
    kinds: dict[str, Kind],
    tmp_path_factory: pytest.TempPathFactory,
) -> Kind:
    """Each kind of storage, on a server of its own."""
    name = request.param
    if name not in kinds:
        folder = tmp_path_factory.mktemp(name)
        kinds[name] = kinds["stack"].enter_context(KINDS[name](folder))  # type: ignore[attr-defined]
        _tried[name] = kinds[name]
    return kinds[name]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what became of a test of the conformance suite."""
    path, _, rest = report.nodeid.partition("::")
    name, _, parameters = rest.partition("[")
    kind = parameters.rstrip("]").split("-")[0]
    if path != CONFORMANCE or kind not in KINDS:
        return
    rule = name.removeprefix("test_").replace("_", " ")
    if report.failed:
        _results[rule][kind] = "✗"
    elif report.skipped:
        _results[rule].setdefault(kind, "–")
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _reasons[rule, kind] = reason.removeprefix("Skipped: ")
    elif report.when == "call" and _results[rule].get(kind) != "✗":
        _results[rule][kind] = "✓"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, where it was asked for."""
    place = session.config.getoption("--storage-table", None)
    if not place or hasattr(session.config, "workerinput"):
        return
    shown = [kind for kind in KINDS if any(kind in row for row in _results.values())]
    lines = ["| | " + " | ".join(shown) + " |", "|---|" + ":-:|" * len(shown)]
    for rule, row in _results.items():
        lines.append(f"| {rule} | " + " | ".join(row.get(kind, "–") for kind in shown) + " |")
    lines += ["", "## Exceptions", ""]
    for exception, holds in EXCEPTIONS.items():
        if who := [name for name in KINDS if name in _tried and holds(_tried[name])]:
            lines.append(f"* {', '.join(who)}: {exception}")
    lines += ["", "## Not tried", ""]
    reasons: dict[str, set[str]] = defaultdict(set)
    for (_, kind), reason in _reasons.items():
        reasons[reason].add(kind)
    lines += [f"* {', '.join(sorted(who))}: {why}" for why, who in sorted(reasons.items())]
    Path(place).write_text(HEADING + "\n".join(lines) + "\n")
