"""A Prefect server for benchmarks: one of its own, or the one that several of them share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanobanana_blocks.cli.demo import own_prefect

SHARED = "NANOBANANA_BENCHMARKS_SHARE_PREFECT"


@contextmanager
def prefect_server() -> Iterator[dict[str, str]]:
    """Give the environment that uses a Prefect server; where `SHARED` is set, it is this one's."""
    if SHARED in os.environ:
        yield dict(os.environ)
        return
    with (
        tempfile.TemporaryDirectory(prefix="nanobanana-benchmarks-") as home,
        own_prefect(Path(home)) as environment,
    ):
        yield environment
