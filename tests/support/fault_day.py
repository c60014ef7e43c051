"""A bad day: a batch of its own process, what goes wrong meanwhile, and the account of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nanobanana_blocks.errors import ImageError
from nanobanana_blocks.images.verification import verify_image
from nanobanana_blocks.landing import read_receipt
from nanobanana_blocks.sandbox import SandboxControl
from nanobanana_blocks.sandbox.settings import SIGNATURE_MARK

PROJECT = Path(__file__).parents[2]
MAX_SECONDS = 240.0
"""A run that has not ended then is stuck, unless the day itself is longer."""

_TEMPORARY = re.compile(r"\.nanobanana-(?!landed-\d\.jsonl).+|.+\.part")


@dataclass(frozen=True)
class Account:
    """What a day has cost.

    Attributes:
        rows: How many were asked for.
        lost: Rows without an image in the end, of which nobody was told that they may be paid for.
        paid_twice: Tasks that were paid for beyond the first of each row.
        partial: Image files under a final name that are not whole.
        leaked: Temporary files left, and files and outputs that show the key or a signed URL.
        stuck: Runs that did not end.
        told: Rows without an image that the last run names as unconfirmed.
    """

    rows: int
    lost: int
    paid_twice: int
    partial: int
    leaked: int
    stuck: int
    told: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def faults(self) -> dict[str, int]:
        """The columns that are to be zero."""
        return {
            "lost": self.lost,
            "paid twice": self.paid_twice,
            "partial": self.partial,
            "leaked": self.leaked,
            "stuck": self.stuck,
        }


@dataclass
class Run:
    """A run of a batch in a process of its own."""

    process: subprocess.Popen[bytes]
    output: Path
    started: float = field(default_factory=time.monotonic)


class Day:
    """A manifest, the folder that its images go to, and the runs that do it.

    Attributes:
        rows: How many rows the manifest has.
        images: The destination, a folder of this machine.
        stuck: How many runs had to be killed because they did not end.
        max_seconds: How long a run, or what is waited for, may take.
    """

    def __init__(
        self, folder: Path, sandbox: SandboxControl, rows: int, images: Path | None = None
    ) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.rows = rows
        self.images = images or folder / "images"
        self.manifest = folder / "rows.jsonl"
        self.manifest.write_text(
            "".join(json.dumps({"prompt": p, "name": f"b{n}"}) + "\n" for n, p in self._prompts())
        )
        self.environment = os.environ | {
            "NANOBANANA_API_KEY": sandbox.api_key,
            "NANOBANANA_BASE_URL": sandbox.base_url,
            "PYTHONPATH": str(PROJECT),
        }
        self.stuck = 0
        self.max_seconds = MAX_SECONDS
        self.secrets = [sandbox.api_key, SIGNATURE_MARK]
        self._runs: list[Run] = []
        self._report: dict[str, Any] = {}

    def _prompts(self) -> Iterator[tuple[int, str]]:
        for number in range(self.rows):
            yield number, f"Banana {number} of {self.folder.name}"

    def start(self, *options: str, command: list[str] | None = None, **environment: str) -> Run:
        """Begin a run: `nanobanana batch` with these options, or another command."""
        default = [sys.executable, "-m", "nanobanana_blocks", "batch", str(self.manifest)]
        default += ["--to", str(self.images), "--no-gallery", "--json"]
        default += ["--requests-per-second", "300", *options]
        output = self.folder / f"run-{len(self._runs)}"
        with output.open("wb") as file, output.with_suffix(".err").open("wb") as errors:
            process = subprocess.Popen(
                command or default,
                cwd=PROJECT,
                env=self.environment | environment,
                stdout=file,
                stderr=errors,
                start_new_session=True,
            )
        self._runs.append(Run(process, output))
        return self._runs[-1]

    def end(self, run: Run) -> int:
        """Wait for a run's end; one that is stuck is killed, and counted."""
        try:
            code = run.process.wait(max(1.0, run.started + self.max_seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.stuck += 1
            self.kill(run)
            return -9
        text = run.output.read_text()
        if text.startswith("{"):
            self._report = json.loads(text)
        return code

    def run(self, *options: str, **environment: str) -> int:
        """Do a whole run; return its exit code."""
        return self.end(self.start(*options, **environment))

    def kill(self, run: Run) -> None:
        """Kill a run with SIGKILL."""
        run.process.kill()
        run.process.wait()

    def close(self) -> None:
        """Kill what still runs."""
        for run in self._runs:
            self.kill(run)

    def said(self) -> str:
        """All that the runs have said."""
        files = [
            path for run in self._runs for path in (run.output, run.output.with_suffix(".err"))
        ]
        return "\n".join(path.read_text(errors="replace") for path in files)

    def wait_for(self, condition: Callable[[], object], run: Run | None = None) -> None:
        """Wait until something has come about, or the run has ended before it did."""
        deadline = time.monotonic() + self.max_seconds
        while not condition():
            if run is not None and run.process.poll() is not None:
                raise AssertionError(f"the run ended before: {self.said()[-2000:]}")
            if time.monotonic() > deadline:
                raise AssertionError("it has not come to be")
            time.sleep(0.05)

    def landed(self) -> int:
        """How many receipts there are."""
        return sum(1 for _ in self.images.glob("b*.json"))

    def submitted(self) -> int:
        """How many tasks were paid for."""
        return self.sandbox.stats().submits

    def settle(self) -> Account:
        """Count what is there in the end."""
        ours = {prompt for _, prompt in self._prompts()}
        paid = Counter(
            one.body["prompt"]
            for one in self.sandbox.submits()
            if one.task_id and one.body["prompt"] in ours
        )
        receipts = [read_receipt(path.read_bytes()) for path in self.images.glob("b*.json")]
        missing = self.rows - sum(1 for found in receipts if found is not None)
        told = sum(
            1
            for row in self._report.get("outcomes", ())
            if (row.get("error") or {}).get("class_name") == "UnconfirmedSubmit"
        )
        return Account(
            rows=self.rows,
            lost=missing - told,
            paid_twice=sum(times - 1 for times in paid.values()),
            partial=sum(1 for path in self._pictures() if not _is_whole(path)),
            leaked=len(self.leaks()),
            stuck=self.stuck,
            told=told,
        )

    def _pictures(self) -> Iterator[Path]:
        for suffix in ("png", "jpg", "webp"):
            yield from self.images.glob(f"[!.]*.{suffix}")

    def leaks(self) -> list[str]:
        """Temporary files that are left, and what shows a secret."""
        files = [path for path in self.images.rglob("*") if path.is_file()]
        left = [path.name for path in files if _TEMPORARY.fullmatch(path.name)]
        texts = {
            str(path): path.read_text(errors="replace")
            for path in files
            if path.suffix in (".json", ".jsonl", ".html")
        }
        texts["what the runs said"] = self.said()
        return left + [
            name for name, text in texts.items() if any(one in text for one in self.secrets)
        ]


def _is_whole(path: Path) -> bool:
    try:
        verify_image(path.read_bytes(), max_pixels=10**9)
    except ImageError:
        return False
    return True


FLOW = """
import asyncio, json, sys
from nanobanana_blocks import PollPolicy
from nanobanana_blocks.flows.run_batch import run_batch

manifest, images, options = sys.argv[1:]
budget = PollPolicy(requests_per_second=300)
report = asyncio.run(run_batch(manifest, images, poll=budget, allow_partial=True, gallery=False,
                               **json.loads(options)))
print(report.model_dump_json())
"""


def flow_command(day: Day, **options: Any) -> list[str]:
    """The command that does a day's batch as a Prefect flow run."""
    arguments = [str(day.manifest), str(day.images), json.dumps(options)]
    return [sys.executable, "-c", FLOW, *arguments]


def halt(worker: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to a worker and to the runs that it has started."""
    try:
        found = psutil.Process(worker.pid)
        processes = [*found.children(recursive=True), found]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, in memory; it needs root.

    Raises:
        PermissionError: It cannot be mounted here.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
