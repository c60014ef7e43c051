"""The goals of benchmarks: what was measured, beside its goal and what a plain script has.

At smoke size only what counts something is judged, such as rows landed; times, ratios and memory
are printed and say that they are not.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import interrupt_on_sigterm

FIGURES_VARIABLE = "NANOBANANA_BENCHMARKS_FIGURES"
"""The file that gets a line for each goal, for the table at the end of all benchmarks."""

MET, MISSED, NOT_JUDGED = "met", "MISSED", "not judged at smoke size"


class Figure(NamedTuple):
    """One goal: what was measured, the goal, what a plain script has (or nothing), the verdict."""

    what: str
    measured: str
    goal: str
    plain: str
    verdict: str


class _Size:
    is_smoke = False


class Options(NamedTuple):
    """A benchmark's command line."""

    smoke: bool
    plot: Path | None
    chains: bool


def begin(doc: str | None, less: str) -> Options:
    """Read a benchmark's command line.

    Args:
        doc: The benchmark's heading.
        less: What is less with ``--smoke``.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help=f"a quick check: {less}")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw the picture, if any")
    parser.add_argument("--chains", action="store_true", help="rows that build on rows, if it can")
    found = parser.parse_args()
    _Size.is_smoke = bool(found.smoke)
    interrupt_on_sigterm()
    return Options(found.smoke, found.plot, found.chains)


def at_most(what: str, measured: float, most: float, unit: str = "", *, plain: str = "") -> None:
    """Judge a measurement that is to be small."""
    _judge(what, measured, "<=", most, unit, plain, met=measured <= most)


def at_least(what: str, measured: float, least: float, unit: str = "", *, plain: str = "") -> None:
    """Judge a measurement that is to be large."""
    _judge(what, measured, ">=", least, unit, plain, met=measured >= least)


def counts(what: str, found: int, wanted: int, *, plain: str = "") -> None:
    """Judge a count, such as of rows landed, at smoke size too."""
    verdict = MET if found == wanted else MISSED
    _tell(Figure(what, f"{found:,}", f"= {wanted:,}", plain, verdict))


def holds(what: str, *, met: bool) -> None:
    """Judge what is either so or not, at smoke size too."""
    _tell(Figure(what, "yes" if met else "no", "yes", "", MET if met else MISSED))


def _judge(
    what: str, measured: float, sign: str, limit: float, unit: str, plain: str, *, met: bool
) -> None:
    verdict = NOT_JUDGED if _Size.is_smoke else MET if met else MISSED
    measured_text = f"{shown(measured)}{unit}"
    _tell(Figure(what, measured_text, f"{sign} {limit:,.4g}{unit}", plain, verdict))


def shown(number: float) -> str:
    """A number as people read it: three digits that count, none of them before the point lost."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:#.3g}".rstrip(".")


def _tell(figure: Figure) -> None:
    beside = f"; plain script: {figure.plain}" if figure.plain else ""
    print(f"  [{figure.verdict}] {figure.what}: {figure.measured} (goal {figure.goal}{beside})")
    if path := os.environ.get(FIGURES_VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(figure)}\n")


def read_figures(path: Path) -> list[Figure]:
    """The goals that were told so far, in their order."""
    if not path.exists():
        return []
    return [Figure(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def print_table(figures: Iterable[tuple[str, Figure]]) -> None:
    """Print goals as a table; each has the name of its benchmark with it."""
    rows = [(name, *figure) for name, figure in figures]
    header = ("benchmark", "what", "measured", "goal", "plain script", "")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
