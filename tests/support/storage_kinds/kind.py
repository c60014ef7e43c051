"""What the conformance suite knows of a kind of storage, and how its server is run.

Each server is a process or a thread of this machine, on free ports, and ends with its fixture.
What cannot be had here is skipped with the reason.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Kind:
    """A kind of storage, running.

    Attributes:
        url: Where tests may make folders.
        options: Storage options that reach it.
        exclusive: Whether one of many creators wins there.
        replaces_at_once: Whether a reader always finds a file that is being replaced.
        wrong: Options with credentials that it does not know; None where it asks for none.
        missing: The URL of a bucket or container that does not exist.
        limited: Options that lack the right to list, read, write or delete, by that name.
        at_port: The URL and options that reach the same kind at another host and port.
        media_type: How to ask for a file's media type without fsspec, by its URL below `url`.
        folder: The folder on this machine that it serves, where there is one.
        says_full: Whether its protocol has a way to say that the disk is full.
        makes_buckets: Whether the service itself makes a bucket that is written to.
    """

    url: str
    options: dict[str, Any]
    exclusive: bool = True
    replaces_at_once: bool = True
    wrong: dict[str, Any] | None = None
    missing: str | None = None
    limited: dict[str, dict[str, Any]] = field(default_factory=dict)
    at_port: Callable[[str, int], tuple[str, dict[str, Any]]] | None = None
    media_type: Callable[[str], str] | None = None
    folder: Path | None = None
    says_full: bool = True
    makes_buckets: bool = False


def free_port(*offsets: int) -> int:
    """A port that is free, and so are those at each offset from it."""
    for _ in range(200):
        port = random.randint(12_000, 22_000)  # the system gives none of these, nor 10,000 above
        if all(_is_free(port + offset) for offset in (0, *offsets)):
            return port
    raise AssertionError("no free port was found")


def _is_free(port: int) -> bool:
    with socket.socket() as tried, suppress(OSError):
        tried.bind(("127.0.0.1", port))
        return True
    return False


@contextmanager
def process(command: list[str], port: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, which begins when its port answers."""
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        for _ in range(1200):
            if running.poll() is not None:
                raise AssertionError(f"{command[0]} ended with {running.returncode}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield running
    finally:
        running.terminate()
        try:
            running.wait(1)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def program(name: str, package: str) -> str:
    """Where a program of this environment is."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        pytest.skip(f"{name} is not installed (pip install {package})")
    return str(found)
