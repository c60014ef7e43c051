"""What a run can go without: bounded in time, and reported where it fails; never raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
import httpx
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

ARTIFACT_SECONDS = 5.0
"""For one artifact. Prefect's client alone would retry for over a minute where its API is down, and
a worker that stops kills its runs after 30 s."""

PREFECT_FAILED = (PrefectException, httpx.HTTPError, OSError)  # TimeoutError is an OSError


@dataclass
class Attempt:
    """How an attempt to write something optional ended."""

    prefect_is_down: bool = False
    """Prefect's API did not answer in time: the next attempt would fare no better."""


@contextmanager
def optional(
    what: str, seconds: float = ARTIFACT_SECONDS, *, quiet: bool = False
) -> Iterator[Attempt]:
    """Try something within `seconds`; where that fails, log that the run continues without it.

    For async code: what blocks the event loop is not interrupted. `quiet` logs for debugging only.
    """
    attempt = Attempt()
    try:
        with anyio.fail_after(seconds):
            yield attempt
    except PREFECT_FAILED as error:
        attempt.prefect_is_down = isinstance(error, (TimeoutError, httpx.TransportError))
        log = get_run_logger().debug if quiet else get_run_logger().warning
        log("Could not write %s (%s); continuing", what, type(error).__name__)
