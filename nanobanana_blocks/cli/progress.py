"""A line on the terminal that follows a run: counts, elapsed time, and what is left of a batch.

Where standard error is no terminal, nothing moves: only lines about outcomes are printed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from nanobanana_blocks.cli.output import messages, print_message
from nanobanana_blocks.landing.report import LandingOutcome, LandingStatus

ESTIMATE_AFTER = 3
"""Rows that must have settled in this run before what is left is estimated."""

REFRESHES_PER_SECOND = 4
MAX_LINES = 50
"""Runs of more get no line for each that lands, and no more lines about failures."""


class Progress:
    """How far a run has come.

    Args:
        doing: What is being done, in a word or two.
        total: How many tasks or rows there are, as soon as that is known.
        estimates: Whether to estimate how long the rest takes.
        now: The seconds of a clock that only goes forward.

    Attributes:
        waits: Tells what is waited for other than generations, in words, where something is.
    """

    def __init__(
        self,
        doing: str,
        total: int = 0,
        *,
        estimates: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.doing = doing
        self.total = total
        self.waits: Callable[[], str] | None = None
        self._estimates = estimates
        self._now = now
        self._started = now()
        self._counts: Counter[LandingStatus] = Counter()
        self._lines = 0
        self._spinner = Spinner("dots")

    def settle(self, outcome: LandingOutcome) -> None:
        """Count an outcome, and print a line about it unless there are too many."""
        self._counts[outcome.status] += 1
        if self.total > MAX_LINES and (outcome.in_storage or self._lines >= MAX_LINES):
            return
        self._lines += 1
        print_message(f"{outcome.label}  {outcome.describe()}")

    def describe(self) -> str:
        """The progress in a line."""
        settled = self._counts.total()
        parts = [f"{self.doing} …"]
        if self.total > 1:
            parts.append(f"{settled:,} of {self.total:,} settled")
            parts += [
                f"{count:,} {status.value.replace('_', ' ')}"
                for status, count in self._counts.items()
            ]
        elapsed = self._now() - self._started
        parts.append(f"{_clock(elapsed)} elapsed")
        if (left := self._seconds_left(elapsed)) is not None:
            parts.append(f"about {_clock(left)} left")
        if self.waits and (waits := self.waits()):
            parts.append(waits)
        return " · ".join(parts)

    def _seconds_left(self, elapsed: float) -> float | None:
        """What the rest takes at the rate so far; what had landed before took no time."""
        slow = self._counts.total() - self._counts[LandingStatus.ALREADY_LANDED]
        if not self._estimates or slow < ESTIMATE_AFTER:
            return None
        return (self.total - self._counts.total()) * elapsed / slow

    def __rich__(self) -> Table:
        line = Table.grid(padding=(0, 1))
        line.add_row(self._spinner, Text(self.describe(), overflow="ellipsis", no_wrap=True))
        return line

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line for as long as the block lasts, where there is a terminal."""
        if not messages.is_terminal:
            yield
            return
        with Live(self, console=messages, refresh_per_second=REFRESHES_PER_SECOND, transient=True):
            yield


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
