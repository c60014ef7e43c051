"""`prefect.yaml` says only what Prefect understands, and a worker runs what it deploys."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from prefect import get_client
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    WorkPoolConfig,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.flows import load_flow_from_entrypoint
from pydantic import BaseModel

from nanobanana_blocks import ImageStore
from nanobanana_blocks.orchestration.observability.events import CALLBACK_RECEIVED, resource_of
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.prefect_runs import PROJECT, forget_all, prefect
from tests.support.until import until

CONFIGURATION: dict[str, Any] = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = CONFIGURATION["deployments"]


def unknown_keys(given: dict[str, Any], model: type[BaseModel]) -> set[str]:
    known = {field.alias or name for name, field in model.model_fields.items()}
    return set(given) - known


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
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    properties = flow.parameters.properties
    assert set(deployment.get("parameters", {})) <= set(properties)
    for name, schema in properties.items():
        assert schema.get("description", "").endswith("."), name
    for definition in flow.parameters.definitions.values():
        for name, schema in definition.get("properties", {}).items():
            assert schema["description"].endswith("."), name


@pytest.fixture
def deployed(prefect_api: str, sandbox: Sandbox) -> Iterator[dict[str, str]]:
    """Deploy everything without a question asked; give the environment of its workers."""
    environment = {
        "PREFECT_API_URL": prefect_api,
        "NANOBANANA_API_KEY": sandbox.api_key,
        "NANOBANANA_BASE_URL": sandbox.base_url,
    }
    prefect("work-pool", "create", "nanobanana", "--type", "process", "--overwrite", **environment)
    # A program that starts `prefect` in another folder does not change PWD.
    prefect("deploy", "--all", PWD="/nowhere", **environment)
    yield environment
    forget_all(prefect_api, "automations")


async def runs_of(task_id: str) -> list[FlowRun]:
    async with get_client() as client:
        runs = await client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    return [run for run in runs if run.parameters.get("task_ids") == [task_id]]


@pytest.mark.slow
async def test_a_worker_runs_the_deployment(
    deployed: dict[str, str], sandbox: Sandbox, tmp_path: Path
) -> None:
    """Started with parameters, the deployed flow runs under a process worker and lands."""
    task_id = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=0))
    parameters = json.dumps({"task_ids": [task_id], "destination": str(tmp_path)})
    prefect("deployment", "run", "land-images/on-demand", "--params", parameters, **deployed)
    prefect("worker", "start", "--pool", "nanobanana", "--run-once", **deployed)
    [run] = await runs_of(task_id)
    assert run.state
    assert run.state.is_completed(), run.state
    assert (tmp_path / f"{task_id}.json").exists()


@pytest.mark.slow
async def test_a_relative_destination_is_in_the_folder_deployed_from(
    deployed: dict[str, str], sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: runs work in the folder that `prefect deploy` was started in, whatever PWD says."""
    task_id = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=0))
    (tmp_path / "prefect.yaml").write_text((PROJECT / "prefect.yaml").read_text())
    prefect("deploy", "--all", cwd=tmp_path, PWD="/nowhere", **deployed)
    parameters = json.dumps({"task_ids": [task_id], "destination": "./landed"})
    prefect("deployment", "run", "land-images/on-demand", "--params", parameters, **deployed)
    prefect("worker", "start", "--pool", "nanobanana", "--run-once", **deployed)
    assert (tmp_path / "landed" / f"{task_id}.json").exists()


@pytest.mark.parametrize("entrypoint", [d["entrypoint"] for d in DEPLOYMENTS])
def test_the_folder_of_a_checkout_has_the_same_flows(entrypoint: str) -> None:
    """Rule: a flow has one definition, and `flows/<file>.py:<flow>` leads to it too."""
    _, _, file, name = entrypoint.split(".")
    by_path = load_flow_from_entrypoint(f"{PROJECT / 'flows' / file}.py:{name}")
    assert by_path is load_flow_from_entrypoint(entrypoint)


async def tell_of_callback(prefect_api: str, task_id: str, job_key: str | None = None) -> None:
    event = {
        "id": str(uuid4()),
        "event": CALLBACK_RECEIVED,
        "resource": resource_of(task_id, job_key),
        "occurred": datetime.now(UTC).isoformat(),
        "payload": {"task_id": task_id, "job_key": job_key},
    }
    httpx.post(f"{prefect_api}/events", json=[event]).raise_for_status()


@pytest.mark.slow
async def test_a_callback_starts_a_run(
    prefect_api: str, deployed: dict[str, str], sandbox: Sandbox, tmp_path: Path
) -> None:
    """The event of a callback starts a run of its task, its parameters of the right types.

    A batch's own runs land what its callbacks are about: those start nothing.
    """
    await ImageStore(url=str(tmp_path)).asave("images", overwrite=True)
    task_id = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=0))
    of_a_batch = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=0))
    await tell_of_callback(prefect_api, of_a_batch, "batch-0123456789abcdef")
    await tell_of_callback(prefect_api, task_id, "a-job-of-my-own")
    await until(lambda: runs_of(task_id))
    prefect("worker", "start", "--pool", "nanobanana", "--run-once", **deployed)
    [run] = await runs_of(task_id)
    assert run.state
    assert run.state.is_completed(), run.state
    assert (tmp_path / f"{task_id}.json").exists()
    assert await runs_of(of_a_batch) == []


@pytest.mark.slow
async def test_an_active_schedule_makes_runs(prefect_api: str, deployed: dict[str, str]) -> None:
    """The nightly batch is scheduled once its schedule is active, as the libraries locked here are.

    With SQLAlchemy 2.1, Prefect 3.8 deploys schedules and never makes a run of them.
    """
    nightly = httpx.get(f"{prefect_api}/deployments/name/run-batch/nightly").json()
    [schedule] = nightly["schedules"]
    assert not schedule["active"]
    address = f"{prefect_api}/deployments/{nightly['id']}"
    httpx.patch(f"{address}/schedules/{schedule['id']}", json={"active": True}).raise_for_status()
    filters = {"deployments": {"id": {"any_": [nightly["id"]]}}}
    runs = await until(lambda: httpx.post(f"{prefect_api}/flow_runs/filter", json=filters).json())
    assert runs[0]["auto_scheduled"]
    httpx.delete(address).raise_for_status()
