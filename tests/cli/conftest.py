"""Fixtures of the command line's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanobanana_blocks.sandbox import Sandbox
from tests.support.command_line import Command, command_server


@pytest.fixture(scope="module")
def commands(prefect_server: str) -> Iterator[subprocess.Popen[str]]:
    with command_server(prefect_server) as server:
        yield server


@pytest.fixture
def nanobanana(
    commands: subprocess.Popen[str], tmp_path: Path, sandbox: Sandbox
) -> Iterator[Command]:
    command = Command(commands, tmp_path, sandbox)
    yield command
    command.close()
