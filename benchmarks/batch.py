"""Measures a batch on several workers, its use of the request budget, and what its ledger costs.

*Shards*: a manifest of prompts is submitted and landed by child runs on two process workers, with a
real Prefect server; the sandbox enforces the request budget strictly and answers 429 beyond it.
Budget use is requests sent over requests allowed, from the first submit until nothing more waits
to be submitted.

*Ledger*: the same rows without Prefect, with the ledger and with one that keeps nothing, in turns.

Run ``python -m benchmarks.batch``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.polling import goal
from benchmarks.prefect_server import prefect_server
from benchmarks.processes import interrupt_on_sigterm
from benchmarks.sandbox_process import sandbox_process
from benchmarks.workers import deploy, workers
from nanobanana_blocks.client import BASE_URL_VARIABLE, KEY_VARIABLE
from nanobanana_blocks.sandbox import RateLimit, SandboxControl, SandboxSettings

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


def run_deployed(
    parameters: Mapping[str, Any], sandbox: SandboxControl, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run a batch from its deployment and sample the sandbox until it has ended."""
    deadline = time.monotonic() + MOST_SECONDS
    samples: list[tuple[float, int, int]] = []
    api = environment["PREFECT_API_URL"]
    with httpx.Client(base_url=api, trust_env=False, timeout=30) as http:
        deployment = http.get("/deployments/name/run-batch/on-demand").json()["id"]
        started = http.post(
            f"/deployments/{deployment}/create_flow_run",
            json={"parameters": parameters, "state": {"type": "SCHEDULED"}},
        )
        run_id = started.raise_for_status().json()["id"]
        while time.monotonic() < deadline:
            stats = sandbox.stats()
            samples.append((time.monotonic(), stats.submits, sum(stats.requests.values())))
            run = http.get(f"/flow_runs/{run_id}").json()
            if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return {"state": run["state"], "samples": samples}
            time.sleep(LOOK_SECONDS)
    raise RuntimeError("the batch did not end")
