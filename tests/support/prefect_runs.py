"""Prefect's command and what Prefect has recorded of runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort

from tests.support.until import block_until

PROJECT = Path(__file__).parents[2]


def prefect(*arguments: str, cwd: Path = PROJECT, **environment: str) -> str:
    """Run Prefect's command in `cwd`, as a program does: its PWD stays what it was."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def forget_all(api_url: str, what: str) -> None:
    """Delete all ``deployments``, or whatever else the server lists under such a name."""
    with httpx.Client(base_url=api_url, trust_env=False, timeout=60) as server:

        def is_empty() -> bool:
            # SQLite answers 503 while something else is writing, and a kept connection may be cut.
            try:
                listed = server.post(f"{what}/filter", json={})
                found = listed.json() if listed.is_success else [None]
                for one in filter(None, found):
                    server.delete(f"{what}/{one['id']}")
            except httpx.TransportError:
                return False
            return not found

        block_until(is_empty)


async def last_run() -> FlowRun:
    async with get_client() as client:
        [run] = await client.read_flow_runs(limit=1, sort=FlowRunSort.START_TIME_DESC)
        return run


async def task_runs_of(run: FlowRun) -> dict[str, TaskRun]:
    async with get_client() as client:
        found = await client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        )
    return {task_run.name: task_run for task_run in found}


async def artifact_of(run: FlowRun, key: str) -> Artifact:
    async with get_client() as client:
        [found] = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        )
    return found
