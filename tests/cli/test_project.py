"""`nanobanana init`: a folder from which every flow can be deployed and run, by any worker."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanobanana_blocks.batches.manifest import RowDefaults, read_manifest
from nanobanana_blocks.cli.project import write_project
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.sandbox import Sandbox
from tests.support.prefect_runs import PROJECT, forget_all, prefect


def configuration(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def test_the_project_has_the_deployments_of_the_checkout(tmp_path: Path) -> None:
    """Rule: tags, triggers, schedules and limits are as in the repository; places are absolute."""
    folder = tmp_path / 'of "mine" \\ and yours'
    write_project(folder)
    written, own = configuration(folder / "prefect.yaml"), configuration(PROJECT / "prefect.yaml")
    assert written["pull"] == []
    for deployment, expected in zip(written["deployments"], own["deployments"], strict=True):
        for name in ("destination", "manifest"):
            if name in deployment.get("parameters", {}):
                place = deployment["parameters"].pop(name)
                assert place.startswith(f"{folder}/")
                relative = expected["parameters"].pop(name, "manifest.jsonl")
                assert place == f"{folder}/{relative}"
        assert deployment == expected


async def test_the_example_manifest_is_valid(tmp_path: Path) -> None:
    """Rule: what the first run does is a batch of a few rows, as written."""
    write_project(tmp_path)
    manifest = await read_manifest(str(tmp_path / "manifest.jsonl"), defaults=RowDefaults())
    assert 1 <= len(manifest.rows) <= 3


@pytest.mark.parametrize("name", ["prefect.yaml", "manifest.jsonl"])
def test_nothing_is_replaced(tmp_path: Path, name: str) -> None:
    """Rule: a file that is there stays as it is, and no other is written beside it."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(InvalidInput, match=f"{name} is there already"):
        write_project(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """Rule: the error names the folder and the cause."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="file/folder cannot be written to: Not a directory"):
        write_project(tmp_path / "file" / "folder")


def test_a_wheel_has_the_flows_and_the_templates(tmp_path: Path) -> None:
    """Rule: what is deployed by module is installed, under the name that the checkout uses."""
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    entrypoints = [d["entrypoint"] for d in configuration(PROJECT / "prefect.yaml")["deployments"]]
    for entrypoint in entrypoints:
        assert f"{entrypoint.rpartition('.')[0].replace('.', '/')}.py" in names
    assert {
        f"nanobanana_blocks/cli/templates/{n}" for n in ("prefect.yaml", "manifest.jsonl")
    } <= names
    assert not [name for name in names if name.startswith("flows/")]


@pytest.fixture
def nothing_left(prefect_api: str) -> Iterator[None]:
    """The session's server keeps no trigger of these deployments."""
    yield
    forget_all(prefect_api, "automations")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.slow
def test_init_deploy_run(prefect_api: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: deployed from the new folder by any process, a worker elsewhere lands the example."""
    folder, elsewhere = tmp_path / "my project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = subprocess.run(
        [sys.executable, "-m", "nanobanana_blocks", "init", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "prefect --no-prompt deploy --all" in made.stdout
    environment = {
        "PREFECT_API_URL": prefect_api,
        "NANOBANANA_API_KEY": sandbox.api_key,
        "NANOBANANA_BASE_URL": sandbox.base_url,
        "PYTHONPATH": str(PROJECT),
        "PWD": "/nowhere",
    }
    prefect("work-pool", "create", "nanobanana", "--type", "process", "--overwrite", **environment)
    prefect("deploy", "--all", cwd=folder, **environment)
    prefect("deployment", "run", "run-batch/on-demand", cwd=elsewhere, **environment)
    prefect("worker", "start", "--pool", "nanobanana", "--run-once", cwd=elsewhere, **environment)
    report = json.loads((folder / "images" / "manifest.report.json").read_bytes())
    assert report["counts"]["landed"] == 2
