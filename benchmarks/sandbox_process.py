"""An API sandbox in a process of its own, so that its work is not counted as the benchmark's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.processes import ending, start
from nanobanana_blocks.sandbox import SandboxControl, SandboxSettings, serve

ADDRESS = "NANOBANANA_BASE_URL="


@contextmanager
def sandbox_process(settings: SandboxSettings) -> Iterator[SandboxControl]:
    """Serve a sandbox for as long as the block lasts."""
    process = start(__name__, settings.model_dump(mode="json", exclude_unset=True))
    with ending(process):
        assert process.stdout
        address = next((line for line in process.stdout if ADDRESS in line), None)
        if address is None:
            raise RuntimeError("the sandbox did not start")
        control = SandboxControl(address.partition(ADDRESS)[2].strip(), settings.api_key)
        try:
            yield control
        finally:
            control.close()


if __name__ == "__main__":
    serve(
        port=0,
        settings=SandboxSettings.model_validate_json(sys.argv[1]),
        announce=partial(print, flush=True),
    )
