"""What the terminal shows while a run is under way."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nanobanana_blocks.cli import output, progress
from nanobanana_blocks.cli.progress import MAX_LINES, Progress
from nanobanana_blocks.landing.report import LandingOutcome, LandingStatus


class Clock:
    """Seconds that go forward when they are told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed on standard error, of which this makes no terminal."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    monkeypatch.setattr(output, "messages", console)
    monkeypatch.setattr(progress, "messages", console)
    return text


def settle(run: Progress, count: int, status: LandingStatus = LandingStatus.LANDED) -> None:
    for number in range(count):
        run.settle(LandingOutcome(task_id=f"t{number}", status=status))


def test_counts_elapsed_and_what_is_left(said: io.StringIO) -> None:
    """Rule: the rest is estimated at the rate so far, without what had landed before."""
    clock = Clock()
    run = Progress("Batch", 40, estimates=True, now=clock)
    assert run.describe() == "Batch … · 0 of 40 settled · 0:00 elapsed"
    settle(run, 10, LandingStatus.ALREADY_LANDED)
    clock.seconds += 20
    settle(run, 2)
    assert run.describe().endswith("0:20 elapsed")
    settle(run, 3)
    clock.seconds += 55
    assert run.describe() == (
        "Batch … · 15 of 40 settled · 10 already landed · 5 landed · 1:15 elapsed · about 6:15 left"
    )


def test_hours_are_hours(said: io.StringIO) -> None:
    """Rule: a night is told in hours."""
    clock = Clock()
    run = Progress("Batch", 1000, estimates=True, now=clock)
    settle(run, 10)
    clock.seconds += 600
    assert run.describe().endswith("10:00 elapsed · about 16:30:00 left")


def test_one_task_has_no_counts(said: io.StringIO) -> None:
    """Rule: of one generation there is only the time to tell."""
    assert Progress("Generating", 1, now=Clock()).describe() == "Generating … · 0:00 elapsed"


def test_what_is_waited_for_is_told(said: io.StringIO) -> None:
    """Rule: who waits for another run sees for what, and until when."""
    run = Progress("Generating", 1, now=Clock())
    run.waits = lambda: "1 row waits for another run (up to 30 s)"
    assert run.describe().endswith("elapsed · 1 row waits for another run (up to 30 s)")


def test_a_large_run_prints_a_few_failures_only(said: io.StringIO) -> None:
    """Rule: a line each for small runs; of large ones the first failures."""
    small = Progress("Landing", MAX_LINES, now=Clock())
    settle(small, MAX_LINES)
    assert len(said.getvalue().splitlines()) == MAX_LINES
    large = Progress("Landing", 10 * MAX_LINES, now=Clock())
    settle(large, 8 * MAX_LINES)
    settle(large, 2 * MAX_LINES, LandingStatus.FAILED)
    lines = said.getvalue().splitlines()[MAX_LINES:]
    assert len(lines) == MAX_LINES
    assert all("failed" in line for line in lines)


def test_nothing_moves_where_there_is_no_terminal(said: io.StringIO) -> None:
    """Rule: a log file gets lines, and no spinner."""
    with Progress("Landing", 3).shown():
        pass
    assert said.getvalue() == ""


def test_the_line_goes_away_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a terminal shows the progress while it lasts, and the lines about outcomes stay."""
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True)
    monkeypatch.setattr(progress, "messages", console)
    with Progress("Landing", 3).shown():
        console.print("an outcome")
    assert "0 of 3 settled" in text.getvalue()
    assert text.getvalue().endswith("\x1b[2K")
