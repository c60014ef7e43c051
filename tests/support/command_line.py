"""Runs the `nanobanana` command in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanobanana_blocks.sandbox import Sandbox
from tests.support.until import block_until

FORKS_COMMANDS = """
import json, os, signal, sys, traceback
import nanobanana_blocks.cli, nanobanana_blocks.cli.app

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
for line in sys.stdin:
    command = json.loads(line)
    process = os.fork()
    if process == 0:
        for number, (path, flags) in enumerate(
            [
                (command["stdin"], os.O_RDONLY),
                (command["stdout"], os.O_WRONLY | os.O_CREAT),
                (command["stderr"], os.O_WRONLY | os.O_CREAT),
            ]
        ):
            os.dup2(os.open(path, flags, 0o600), number)
        sys.stdin = open(0)
        os.environ.update(command["environment"])
        os.chdir(command["folder"])
        sys.argv = ["nanobanana", *command["arguments"]]
        code = 0
        try:
            nanobanana_blocks.cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Command:
    """Runs `nanobanana` in processes of their own, without importing anew for each."""

    def __init__(self, server: subprocess.Popen[str], folder: Path, sandbox: Sandbox) -> None:
        self._server = server
        self._folder = folder
        self._environment = {
            "NANOBANANA_API_KEY": sandbox.api_key,
            "NANOBANANA_BASE_URL": sandbox.base_url,
        }
        self._secrets = [sandbox.api_key]
        self._running: int | None = None

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        """Run to the end; no output may hold a key or a traceback."""
        self.start(*arguments, stdin=stdin, **environment)
        return self.ended()

    def start(self, *arguments: str, stdin: str = "", **environment: str) -> int:
        """Begin to run; return the process id."""
        (self._folder / "stdin").write_text(stdin)
        for name in ("stdout", "stderr"):
            (self._folder / name).unlink(missing_ok=True)
        self._secrets.append(environment.get("NANOBANANA_API_KEY", "").strip())
        command = {
            "arguments": arguments,
            "environment": self._environment | environment,
            "folder": str(self._folder),
            **{name: str(self._folder / name) for name in ("stdin", "stdout", "stderr")},
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        self._running = self._line()
        return self._running

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until the started command has brought something about; fail where it ends first."""
        block_until(lambda: condition() or self._has_ended())
        if not condition():
            raise AssertionError(f"it ended before: {self.ended()}")

    def wait(self) -> int:
        """Wait until the started command has ended; return its exit code."""
        code = self._line()
        self._running = None
        return code

    def ended(self) -> Result:
        code = self.wait()
        stdout, stderr = ((self._folder / name).read_text() for name in ("stdout", "stderr"))
        assert "Traceback" not in stdout + stderr, stderr
        for secret in filter(None, self._secrets):
            assert secret not in stdout + stderr
        return Result(code, stdout, stderr)

    def close(self) -> None:
        """End what a failed test left running, so that the next one finds the server free."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.kill(self._running, signal.SIGKILL)
            self._line()

    def _has_ended(self) -> bool:
        try:
            os.kill(self._running or 0, 0)
        except ProcessLookupError:
            return True
        return False

    def _line(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


@contextmanager
def command_server(prefect_api_url: str) -> Iterator[subprocess.Popen[str]]:
    """What forks commands, with everything imported already."""
    environment = os.environ | {"PREFECT_API_URL": prefect_api_url, "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-c", FORKS_COMMANDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        yield server
