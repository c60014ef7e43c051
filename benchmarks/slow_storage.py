"""Real storage servers behind the slow proxy, as if they were far away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.slow_proxy import slow_proxy
from tests.support.storage_kinds import Kind


@contextmanager
def far_away(
    kind: Callable[[Path], AbstractContextManager[Kind]], folder: Path, latency: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A kind of storage whose every answer comes `latency` seconds later: its URL and options."""
    folder.mkdir()
    with kind(folder) as running:
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", str(running.options))[0])
        assert running.at_port
        with slow_proxy(port, latency) as own_port:
            yield running.at_port("127.0.0.1", own_port)
