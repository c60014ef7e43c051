"""Prefect servers that can be stopped and started again, with databases of any kind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.storage_kinds import free_port

START_SECONDS = 180.0


class PrefectServer:
    """One Prefect server, by its home folder and its port; a context manager.

    Attributes:
        api_url: Where its API is, also while it is stopped.
    """

    def __init__(self, home: Path, **environment: str) -> None:
        self._port = free_port()
        self._home = home
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.api_url = f"http://127.0.0.1:{self._port}/api"

    def __enter__(self) -> PrefectServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._home.mkdir(exist_ok=True)
        log = self._home / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--port", str(self._port)],
                env=os.environ | {"PREFECT_HOME": str(self._home)} | self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.api_url}/health", timeout=5, trust_env=False).is_success:
                    return
            time.sleep(0.2)
        self.kill()
        raise AssertionError(f"Prefect's server did not start: {log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL server of Debian's; give the URL by which Prefect reaches its database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    # It refuses to run as root.
    become = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="nanobanana-postgresql-"))
    port = free_port()
    if become:
        shutil.chown(folder, "postgres")
    programs, data = found[-1].parent, folder / "data"
    initdb = [*become, str(programs / "initdb"), "-D", str(data), "-U", "prefect", "-A", "trust"]
    subprocess.run([*initdb, "--no-sync"], check=True, capture_output=True, cwd=folder)
    server = [*become, str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        subprocess.run(
            [*server, "-o", options, "start"], check=True, capture_output=True, cwd=folder
        )
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        stop = [*server, "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, capture_output=True, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)
