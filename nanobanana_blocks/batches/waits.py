"""What rows of a batch wait for, other than for their own generation; told to the log and progress.

It waits for nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Log: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"

REPEAT_SECONDS = 60.0
"""The pause before the log says again what is waited for."""


@dataclass
class _Wait:
    """Rows that wait for one kind of thing, and when the last of them gives up."""

    rows: int = 0
    until: float = 0.0
    logged_at: float = field(default=float("-inf"))


class Waits:
    """The waits of a batch, by what is waited for.

    Args:
        log: Where each kind is reported when it begins, and every minute while it lasts.
    """

    def __init__(self, log: Log | None = None) -> None:
        self._log = log or logging.getLogger(__name__)
        self._waits: dict[str, _Wait] = {}

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """Count a row as waiting for `what`, which it does for `seconds` at most."""
        wait = self._waits.setdefault(what, _Wait())
        wait.rows += 1
        wait.until = max(wait.until, _now() + seconds)
        try:
            # Those that begin together are counted before the log says how many.
            asyncio.get_running_loop().call_soon(self._report, what, wait)
            yield
        finally:
            wait.rows -= 1
            if not wait.rows:
                wait.until = 0.0

    def describe(self) -> str:
        """What is waited for now: ``4 rows wait for another run's answer (up to 45 s)``."""
        return "; ".join(_words(what, wait) for what, wait in self._waits.items() if wait.rows)

    def _report(self, what: str, wait: _Wait) -> None:
        if wait.rows and _now() - wait.logged_at >= REPEAT_SECONDS:
            wait.logged_at = _now()
            self._log.info("%s", _words(what, wait))


def _words(what: str, wait: _Wait) -> str:
    rows = "1 row waits" if wait.rows == 1 else f"{wait.rows:,} rows wait"
    left = 10 * math.ceil(max(0.0, wait.until - _now()) / 10)  # so that it seldom changes
    return f"{rows} for {what} (up to {left:,} s)"


def _now() -> float:
    return asyncio.get_running_loop().time()
