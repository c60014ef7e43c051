"""`prefect.yaml` says only what Prefect understands, and a worker runs what it deploys."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import get_client
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    WorkPoolConfig,
)
from prefect.flows import load_flow_from_entrypoint
from pydantic import BaseModel

from nanobanana_blocks.sandbox import Sandbox, TaskPlan

PROJECT = Path(__file__).parent.parent
CONFIGURATION: dict[str, Any] = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = CONFIGURATION["deployments"]


def unknown_keys(given: dict[str, Any], model: type[BaseModel]) -> set[str]:
    known = {field.alias or name for name, field in model.model_fields.items()}
    return set(given) - known


def prefect(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=PROJECT,
        env=os.environ | {"PWD": str(PROJECT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_key_is_ignored() -> None:
    """Prefect ignores keys that it does not know, so a misspelt one must be caught here."""
    assert unknown_keys(CONFIGURATION, PrefectYamlModel) == set()
    for deployment in DEPLOYMENTS:
        assert unknown_keys(deployment, DeploymentConfig) == set()
        assert unknown_keys(deployment["work_pool"], WorkPoolConfig) == set()
        limit = deployment.get("concurrency_limit", {})
        assert unknown_keys(limit, ConcurrencyLimitSpec) == set()


def test_no_secret_is_expanded() -> None:
    """A block reference in a parameter would be stored as plain text at deployment."""
    assert "prefect.blocks" not in (PROJECT / "prefect.yaml").read_text()


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_parameters_exist_and_are_described(deployment: dict[str, Any]) -> None:
    """A deployment's parameters are its flow's, and each has a description in the UI's form."""
    flow = load_flow_from_entrypoint(str(PROJECT / deployment["entrypoint"]))
    properties = flow.parameters.properties
    assert set(deployment.get("parameters", {})) <= set(properties)
    for name, schema in properties.items():
        assert schema.get("description", "").endswith("."), name
    for definition in flow.parameters.definitions.values():
        for name, schema in definition["properties"].items():
            assert schema["description"].endswith("."), name


async def test_a_worker_runs_the_deployment(
    prefect_api: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Deployed without a question asked, the flow runs under a process worker and lands."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * 2)
    environment = {
        "PREFECT_API_URL": prefect_api,
        "NANOBANANA_API_KEY": sandbox.api_key,
        "NANOBANANA_BASE_URL": sandbox.base_url,
    }
    prefect("work-pool", "create", "nanobanana", "--type", "process", **environment)
    prefect("deploy", "--all", **environment)
    parameters = json.dumps({"task_ids": task_ids, "destination": str(tmp_path)})
    prefect("deployment", "run", "land-images/on-demand", "--params", parameters, **environment)
    prefect("worker", "start", "--pool", "nanobanana", "--run-once", **environment)
    async with get_client() as client:
        [run] = await client.read_flow_runs(limit=1)
    assert run.state
    assert run.state.is_completed(), run.state
    assert {path.stem for path in tmp_path.glob("*.json")} == set(task_ids)
