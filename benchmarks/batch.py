"""Measures a batch on several workers, its use of the request budget, and what its ledger costs.

*Shards*: a manifest of prompts is submitted and landed by child runs on two process workers, with a
real Prefect server; the sandbox enforces the request budget strictly and answers 429 beyond it.
Budget use is requests sent over requests allowed, from the first submit until nothing more waits
to be submitted.

*Ledger*: the same rows without Prefect, with the ledger and with one that keeps nothing, in turns.

Run ``python -m benchmarks.batch``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx

from benchmarks.goals import at_least, at_most, begin, counts
from benchmarks.prefect_server import prefect_server
from benchmarks.sandbox_process import sandbox_process
from benchmarks.workers import deploy, workers
from nanobanana_blocks import NanoBananaClient, PollPolicy
from nanobanana_blocks.api.client import BASE_URL_VARIABLE, KEY_VARIABLE
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.ledger import Ledger, SubmissionAttempt, open_ledger
from nanobanana_blocks.batches.manifest import Row, parse_manifest
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.batches.submitter import Submitter
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.sandbox import RateLimit, SandboxControl, SandboxSettings
from nanobanana_blocks.storage.destination import Destination, StorageLocation

IMAGE_BYTES = 60_000
SPEED = 3.0
LOOK_SECONDS = 0.5
MAX_SECONDS = 1500.0
MAX_ATTEMPTS = 10
AMPLE_REQUESTS_PER_SECOND = 1000.0
LEAST_USE = 0.85
MAX_LEDGER = 1.1


def write_manifest(folder: Path, rows: int) -> Path:
    manifest = folder / "prompts.jsonl"
    with manifest.open("w") as file:
        for number in range(rows):
            file.write(json.dumps({"prompt": f"Product {number}", "name": f"p-{number}"}) + "\n")
    return manifest


class DeployedBatch:
    """Runs of the batch's deployment, through Prefect's API; a context manager."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._http = httpx.Client(
            base_url=environment["PREFECT_API_URL"], trust_env=False, timeout=30
        )

    def __enter__(self) -> DeployedBatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def start(self, parameters: Mapping[str, Any]) -> str:
        """Start a run and return its id."""
        deployment = self._ask("GET", "/deployments/name/run-batch/on-demand")["id"]
        body = {
            "parameters": parameters,
            "state": {"type": "SCHEDULED"},
            "idempotency_key": secrets.token_hex(8),
        }
        return str(self._ask("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])

    def state(self, run_id: str) -> str:
        """The type of a run's state, such as COMPLETED."""
        return str(self._ask("GET", f"/flow_runs/{run_id}")["state"]["type"])

    def has_ended(self, run_id: str) -> bool:
        return self.state(run_id) in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def wait(self, run_id: str) -> None:
        """Wait for a run's end."""
        deadline = time.monotonic() + MAX_SECONDS
        while not self.has_ended(run_id):
            if time.monotonic() > deadline:
                raise RuntimeError("the batch did not end")
            time.sleep(LOOK_SECONDS)

    def flow_of(self, run_id: str) -> str:
        """The name of a run's flow."""
        flow = self._ask("GET", f"/flow_runs/{run_id}")["flow_id"]
        return str(self._ask("GET", f"/flows/{flow}")["name"])

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask Prefect's API, again while it is too busy to answer."""
        for _ in range(MAX_ATTEMPTS):
            with suppress(httpx.TransportError):
                answer = self._http.request(method, path, json=body)
                if answer.status_code != 503:  # what Prefect says while its SQLite is busy
                    found: dict[str, Any] = answer.raise_for_status().json()
                    return found
            time.sleep(LOOK_SECONDS)
        raise RuntimeError(f"the Prefect server does not answer {method} {path}")


class Sample(NamedTuple):
    """What the sandbox had counted at a moment; `at` in seconds."""

    at: float
    submits: int
    requests: int


def sample(sandbox: SandboxControl) -> Sample:
    stats = sandbox.stats()
    requests = sum(n for route, n in stats.requests.items() if route != "files")
    return Sample(time.monotonic(), stats.submits, requests)


def measure_shards(rows: int, shards: int, rate: int, speed: float) -> None:
    limit = RateLimit(on="api", requests=rate, per_seconds=1.0, algorithm="token-bucket")
    settings = SandboxSettings(
        image_bytes=IMAGE_BYTES, speed=speed, credits=10**6, rate_limits=(limit,)
    )
    with ExitStack() as stack:
        environment = stack.enter_context(prefect_server())
        sandbox = stack.enter_context(sandbox_process(settings))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nanobanana-batch-")))
        environment |= {KEY_VARIABLE: sandbox.api_key, BASE_URL_VARIABLE: sandbox.base_url}
        deploy(environment)
        stack.enter_context(workers(2, environment))
        batch = stack.enter_context(DeployedBatch(environment))
        parameters = {
            "manifest": str(write_manifest(folder, rows)),
            "destination": str(folder / "images"),
            "shards": shards,
            "poll": {"requests_per_second": rate},
        }
        run = batch.start(parameters)
        samples = []
        while not batch.has_ended(run):
            samples.append(sample(sandbox))
            time.sleep(LOOK_SECONDS)
        told = (folder / "images" / "prompts.report.json").read_bytes()
        report = BatchReport.model_validate_json(told)
        stats = sandbox.stats()
    print(f"\n{rows:,} rows, {shards} shards, 2 workers, {rate} requests/s allowed")
    print(f"  {report.describe()}; {stats.submits:,} submits, {stats.rate_limited} refused (429)")
    at_work = [s for s in samples if 0 < s.submits < rows]
    if len(at_work) > 1:
        first, last = at_work[0], at_work[-1]
        use = (last.requests - first.requests) / (rate * (last.at - first.at))
        print(f"  {last.requests - first.requests:,} requests while rows waited to be submitted")
        at_least("budget used while rows wait to be submitted", use, LEAST_USE)
    counts("rows landed", report.counts["landed"], rows)
    counts("requests beyond the budget", stats.rate_limited, 0)


class ForgetfulLedger(Ledger):
    """A ledger that keeps nothing, to compare with."""

    async def load(self, keys: Iterable[str] | None = None) -> None:
        """There is nothing to read."""

    async def _create(self, _: SubmissionAttempt) -> bool:
        return True

    async def _update(self, entry: SubmissionAttempt, **changes: Any) -> SubmissionAttempt:
        updated = entry.model_copy(update=changes)
        self._keep(updated)
        return updated


async def seconds_for(rows: Sequence[Row], sandbox: SandboxControl, *, with_ledger: bool) -> float:
    with tempfile.TemporaryDirectory(prefix="nanobanana-ledger-") as folder:
        poll = PollPolicy(requests_per_second=AMPLE_REQUESTS_PER_SECOND)
        async with AsyncExitStack() as stack:
            client = NanoBananaClient(sandbox.api_key, sandbox.base_url)
            await stack.enter_async_context(client)
            place = await stack.enter_async_context(await Destination.open(folder))
            landing = await stack.enter_async_context(
                open_lander((), client, place, poll=poll, expecting=len(rows))
            )
            ledger: Ledger = ForgetfulLedger(place)
            if with_ledger:
                ledger = await stack.enter_async_context(open_ledger(StorageLocation(folder)))
            await ledger.load()
            submitter = Submitter(client, ledger, timeout=300)
            batch = Batch("", "", rows, submitter, landing, in_flight=200)
            began = time.monotonic()
            await batch.process_each(rows)
            return time.monotonic() - began


def measure_ledger(count: int, pairs: int, speed: float) -> None:
    settings = SandboxSettings(image_bytes=IMAGE_BYTES, speed=speed, credits=10**6)
    text = "".join(f'{{"prompt": "Product {number}"}}\n' for number in range(count))
    rows = parse_manifest(text.encode(), source="rows.jsonl").rows
    ratios = []
    with sandbox_process(settings) as sandbox:
        for _ in range(pairs):
            without, kept = (
                asyncio.run(seconds_for(rows, sandbox, with_ledger=with_ledger))
                for with_ledger in (False, True)
            )
            ratios.append(kept / without)
    spread = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\n{count:,} rows in one process, ample budget: with the ledger / without: {spread}")
    at_most("wall with the ledger / without", median(ratios), MAX_LEDGER, "x")


def main() -> None:
    smoke = begin(__doc__, "few rows").smoke
    if smoke:
        measure_ledger(40, 1, 10 * SPEED)
        measure_shards(20, 2, 100, 10 * SPEED)
        return
    measure_ledger(500, 3, SPEED)
    measure_shards(2000, 4, 60, SPEED)


if __name__ == "__main__":
    main()
