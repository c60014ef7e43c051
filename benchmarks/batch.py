"""Measures a batch on several workers, its use of the request budget, and what its ledger costs.

*Shards*: a manifest of prompts is submitted and landed by child runs on two process workers, with a
real Prefect server; the sandbox enforces the request budget strictly and answers 429 beyond it.
Budget use is requests sent over requests allowed, from the first submit until nothing more waits
to be submitted.

*Ledger*: the same rows without Prefect, with the ledger and with one that keeps nothing, in turns.

Run ``python -m benchmarks.batch``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

IMAGE_BYTES = 60_000
SPEED = 3.0
LOOK_SECONDS = 0.5
MOST_SECONDS = 1500.0


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
            base_url=environment["PREFECT_API_URL"], trust_env=False, timeout=60
        )

    def __enter__(self) -> DeployedBatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def start(self, parameters: Mapping[str, Any]) -> str:
        """Start a run and return its id."""
        deployment = self._http.get("/deployments/name/run-batch/on-demand").json()["id"]
        body = {
            "parameters": parameters,
            "state": {"type": "SCHEDULED"},
            "idempotency_key": secrets.token_hex(8),
        }
        while True:
            started = self._http.post(f"/deployments/{deployment}/create_flow_run", json=body)
            if started.status_code != 503:  # what Prefect says while its SQLite is busy
                return str(started.raise_for_status().json()["id"])
            time.sleep(LOOK_SECONDS)

    def state(self, run_id: str) -> dict[str, Any]:
        state: dict[str, Any] = self._http.get(f"/flow_runs/{run_id}").json()["state"]
        return state

    def has_ended(self, run_id: str) -> bool:
        return self.state(run_id)["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def wait(self, run_id: str) -> dict[str, Any]:
        """Wait for a run's end and return its last state."""
        deadline = time.monotonic() + MOST_SECONDS
        while not self.has_ended(run_id):
            if time.monotonic() > deadline:
                raise RuntimeError("the batch did not end")
            time.sleep(LOOK_SECONDS)
        return self.state(run_id)

    def flow_of(self, run_id: str) -> str:
        """The name of a run's flow."""
        flow = self._http.get(f"/flow_runs/{run_id}").json()["flow_id"]
        return str(self._http.get(f"/flows/{flow}").json()["name"])
