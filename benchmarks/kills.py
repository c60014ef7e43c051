"""Kills participants of a batch with SIGKILL, again and again, and counts what was paid and landed.

A manifest is done in shards by child runs on two process workers, with a real Prefect server, a
real callback receiver, and the sandbox that counts the money. Every so many submits a random one of
the processes at work (a parent run, a child run, a worker) is killed; a worker is started again,
and the batch is run again when its parent run was hit. At the end it is run until nothing is
missing: once as it is, which must say what it does not know of, and once with retry=unconfirmed.

Run ``python -m benchmarks.kills``; ``--smoke`` is a quick check that it works. With ``--chains``
the rows are chains of three, each row made from the image of the one before, which the sandbox
fetches from a public copy.
"""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.batch import IMAGE_BYTES, DeployedBatch, write_manifest
from benchmarks.goals import begin, counts
from benchmarks.prefect_server import prefect_server
from benchmarks.processes import ROOT, ending
from benchmarks.public_folder import public_folder
from benchmarks.references import CHAIN, write_chains
from benchmarks.sandbox_process import sandbox_process
from benchmarks.workers import deploy, start_worker
from nanobanana_blocks import ImageStore
from nanobanana_blocks.api.client import BASE_URL_VARIABLE, KEY_VARIABLE
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.callbacks import SECRET_VARIABLE
from nanobanana_blocks.sandbox import SandboxControl, SandboxSettings

SPEED = 3.0
REQUESTS_PER_SECOND = 10.0
TIMEOUT_SECONDS = 90.0
KILL_LOOK_SECONDS = 0.5
QUIET_SECONDS = 25.0
QUIET_LOOKS = 4
LOOK_SECONDS = 2.0


class Victim(NamedTuple):
    """A process that takes part in a batch, and what it is."""

    role: str
    process: psutil.Process


@contextmanager
def receiver(environment: Mapping[str, str]) -> Iterator[str]:
    """Receive callbacks for as long as the block lasts; give the receiver's address."""
    command = [sys.executable, "-m", "nanobanana_blocks", "callbacks", "--port", "0"]
    with tempfile.TemporaryDirectory(prefix="nanobanana-spool-") as folder:
        process = subprocess.Popen(
            [*command, "--spool", f"{folder}/spool.db"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=ROOT,
            text=True,
        )
        with ending(process):
            assert process.stdout
            line = next((line for line in process.stdout if "/callbacks/" in line), None)
            if line is None:
                raise RuntimeError("the receiver did not start")
            yield line.strip().partition("/callbacks/")[0]


class Workers:
    """Two workers, started again when they are gone."""

    def __init__(self, environment: Mapping[str, str], log: int) -> None:
        self._environment = environment
        self._log = log
        self._started = 0
        self._processes: list[subprocess.Popen[str]] = []

    def keep_two(self) -> None:
        self._processes = [process for process in self._processes if process.poll() is None]
        while len(self._processes) < 2:
            self._started += 1
            name = f"worker-{self._started}"
            self._processes.append(start_worker(name, self._environment, self._log))

    def end_runs(self) -> None:
        """Kill all runs, until the workers find none in Prefect's queue either."""
        quiet_looks = 0
        while quiet_looks < QUIET_LOOKS:
            runs = self.runs()
            for victim in runs:
                victim.process.kill()
            quiet_looks = 0 if runs else quiet_looks + 1
            time.sleep(LOOK_SECONDS)

    def end(self) -> None:
        for process in self._processes:
            with ending(process, 20.0):
                pass
        for victim in self.runs():
            victim.process.kill()

    def at_work(self) -> list[Victim]:
        """All processes that take part, runs whose worker is gone included."""
        alive = [process.pid for process in self._processes if process.poll() is None]
        return [*(Victim("worker", psutil.Process(pid)) for pid in alive), *self.runs()]

    def runs(self) -> list[Victim]:
        """The processes of runs, by the runs' ids."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = " ".join(process.info["cmdline"] or ())
            if "prefect.flow_engine" not in command and "prefect.engine" not in command:
                continue
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            if environment.get("PREFECT_API_URL") == self._environment["PREFECT_API_URL"]:
                found.append(Victim(environment["PREFECT__FLOW_RUN_ID"], process))
        return found


def kill_one(batch: DeployedBatch, workers: Workers, dice: random.Random) -> str | None:
    """Kill a random participant and tell what it was; None where nothing was at work."""
    victims = workers.at_work()
    roles = {
        victim: "worker" if victim.role == "worker" else batch.flow_of(victim.role)
        for victim in victims
    }
    present = sorted(set(roles.values()))
    if "run-shard" not in present:
        return None
    role = dice.choice(present)
    victim = dice.choice([victim for victim in victims if roles[victim] == role])
    try:
        victim.process.kill()
        victim.process.wait(10)
    except psutil.Error:
        return None
    return role


def kill_again_and_again(
    batch: DeployedBatch,
    workers: Workers,
    sandbox: SandboxControl,
    parameters: Mapping[str, Any],
    rows: int,
    kills: int,
) -> Counter[str]:
    """Run a batch, and again whenever its run is gone, while participants are killed.

    The kills are spread over the submits: each is due at a random one of its share of them.
    """
    dice = random.Random(7)
    killed: Counter[str] = Counter()
    due = sorted(dice.uniform(n, n + 1) * rows / kills for n in range(kills))
    run, seen_at = batch.start(parameters), time.monotonic()
    while True:
        time.sleep(KILL_LOOK_SECONDS)
        submits = sandbox.stats().submits
        role = kill_one(batch, workers, dice) if submits > due[killed.total()] else None
        if role:
            killed[role] += 1
            print(f"  killed a {role} at {submits} submits", flush=True)
            workers.keep_two()
        if killed.total() == kills or batch.state(run) == "COMPLETED":
            return killed
        # Prefect leaves a run pending for ever whose worker was killed before it began.
        if workers.runs():
            seen_at = time.monotonic()
        is_quiet = time.monotonic() - seen_at > QUIET_SECONDS
        if batch.has_ended(run) or role == "run-batch" or is_quiet:
            run, seen_at = batch.start(parameters), time.monotonic()


@contextmanager
def public_copies(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Save a block of a place for public copies, and give its name."""
    with (
        public_folder(folder) as world,
        temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}),
    ):
        ImageStore(url=str(folder), public_url=world.url).save("copies", overwrite=True)
        yield "copies"


def main() -> None:
    options = begin(__doc__, "one kill")
    smoke = options.smoke
    rows, shards, kills, speed = (16, 2, 1, 10 * SPEED) if smoke else (200, 3, 10, SPEED)
    settings = SandboxSettings(
        image_bytes=IMAGE_BYTES, speed=speed, credits=10**6, fetch_references=True
    )
    with ExitStack() as stack:
        environment = stack.enter_context(prefect_server())
        sandbox = stack.enter_context(sandbox_process(settings))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nanobanana-kills-")))
        log = stack.enter_context((folder / "workers.log").open("w"))
        environment |= {
            KEY_VARIABLE: sandbox.api_key,
            BASE_URL_VARIABLE: sandbox.base_url,
            SECRET_VARIABLE: secrets.token_hex(16),
        }
        parameters: dict[str, Any] = {
            "manifest": str(write_manifest(folder, rows)),
            "destination": str(folder / "images"),
            "shards": shards,
            "receiver_url": stack.enter_context(receiver(environment)),
            "timeout": TIMEOUT_SECONDS,
            "poll": {"requests_per_second": REQUESTS_PER_SECOND if not smoke else 100.0},
        }
        if options.chains:
            rows -= rows % CHAIN
            parameters["manifest"] = write_chains(folder / "prompts.jsonl", rows // CHAIN)
            copies = public_copies(folder / "copies", environment)
            parameters["references"] = stack.enter_context(copies)
        deploy(environment)
        batch = stack.enter_context(DeployedBatch(environment))
        workers = Workers(environment, log.fileno())
        stack.callback(workers.end)
        workers.keep_two()
        killed = kill_again_and_again(batch, workers, sandbox, parameters, rows, kills)
        workers.end_runs()
        reports = []
        for retry in [["unconfirmed"]] if smoke else [[], ["unconfirmed"]]:
            batch.wait(batch.start({**parameters, "retry": retry}))
            told = (folder / "images" / "prompts.report.json").read_bytes()
            reports.append(BatchReport.model_validate_json(told))
        done = reports[-1]
        print(f"{rows} rows, killed: {dict(killed)}")
        for said in reports[:-1]:
            print(f"  run again: {said.describe()}; not landed: {said.failures}")
        print(f"  with retry=unconfirmed: {done.describe()}")
        stats = sandbox.stats()
        in_storage = sum(outcome.in_storage for outcome in done.outcomes)
        fetched = sum(stats.images_served.values())
        print(f"  {stats.submits} submits paid for, {fetched} images fetched")
        counts("rows in storage", in_storage, rows)
        counts("submits paid for", stats.submits, rows)
        if options.chains:
            # A submit whose process is killed may have been fetched for, or not.
            print(f"  {stats.references_fetched} images to work from fetched by the service")
            counts("images to work from refused by the service", stats.references_refused, 0)


if __name__ == "__main__":
    main()
