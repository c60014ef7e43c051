"""A folder of images is one Prefect asset with its manifest upstream, as Prefect's own would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from prefect.assets import Asset, materialize

from nanobanana_blocks import PollPolicy
from nanobanana_blocks.flows.run_batch import run_batch
from nanobanana_blocks.landing.report import LandingReport
from nanobanana_blocks.orchestration.observability import assets
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.until import until


def asset_events_of(api_url: str, prefix: str) -> list[dict[str, Any]]:
    """The asset events that the server has stored about resources with this prefix."""
    wanted = {
        "event": {"prefix": ["prefect.asset."]},
        "resource": {"id_prefix": [prefix]},
    }
    page = httpx.post(f"{api_url}/events/filter", json={"filter": wanted, "limit": 50}).json()
    return list(page["events"])


async def batch_in(folder: Path, sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    manifest = folder / "rows.jsonl"
    rows = [{"prompt": f"fig {number}", "name": f"fig-{number}"} for number in range(3)]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    await run_batch(str(manifest), str(folder / "images"), poll=PollPolicy.fixed(0.05))


async def test_a_batch_is_one_asset(prefect_api: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the folder is materialized from the manifest, with counts and bytes, whatever many."""
    folder = tmp_path / "of mine"
    folder.mkdir()
    await batch_in(folder, sandbox)
    prefix = f"file://{str(folder).replace(' ', '_')}"
    await until(lambda: len(asset_events_of(prefect_api, prefix)) >= 2)
    found = asset_events_of(prefect_api, prefix)
    by_name = {event["event"]: event for event in found}
    assert len(found) == 2
    made = by_name["prefect.asset.materialization.succeeded"]
    assert made["resource"]["prefect.resource.id"] == f"{prefix}/images"
    related = [r["prefect.resource.id"] for r in made["related"]]
    assert f"{prefix}/rows.jsonl" in related
    assert any(name.startswith("prefect.flow-run.") for name in related)
    size = sum(p.stat().st_size for p in (folder / "images").iterdir() if p.stem.startswith("fig"))
    receipts = sum(p.stat().st_size for p in (folder / "images").glob("fig*.json"))
    assert made["payload"]["images"] == made["payload"]["landed"] == 3
    assert made["payload"]["bytes"] == size - receipts
    assert by_name["prefect.asset.referenced"]["resource"]["prefect.resource.id"] in related


@pytest.mark.parametrize("value", ["off", "0", "False"])
async def test_a_setting_turns_them_off(
    prefect_api: str,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    """Rule: with the variable set, no event of an asset is posted."""

    async def fail(*_: Any) -> None:
        raise AssertionError("an event was posted")

    monkeypatch.setenv(assets.ASSETS_VARIABLE, value)
    monkeypatch.setattr(assets, "post_events", fail)
    await batch_in(tmp_path, sandbox)


async def test_they_are_as_prefects_own(prefect_api: str) -> None:
    """Rule: whatever reads Prefect's assets reads ours: the same events, resources and roles."""
    own = f"s3://bucket/{uuid4().hex}"

    @materialize(
        Asset(key=f"{own}/images"), by=assets.MATERIALIZED_BY, asset_deps=[f"{own}/rows.jsonl"]
    )
    async def fill() -> None:
        """Nothing is done: the events matter."""

    @flow
    async def materializing() -> None:
        await fill()

    await materializing()
    prefects = await until(
        lambda: (found := asset_events_of(prefect_api, own)) and len(found) == 2 and found
    )
    ours = {
        event["event"]: event
        for event in [
            assets._event(
                "prefect.asset.referenced", Asset(key=f"{own}/rows.jsonl"), related=[], payload={}
            ),
            *assets.asset_events(LandingReport(destination=f"{own}/images", outcomes=[])),
        ]
    }
    assert {event["event"] for event in prefects} == set(ours)
    for event in prefects:
        mine = ours[event["event"]]
        assert event["resource"]["prefect.resource.id"] == mine["resource"]["prefect.resource.id"]
        roles = {r["prefect.resource.role"] for r in event["related"]} - {"flow-run", "task-run"}
        assert {r["prefect.resource.role"] for r in mine["related"]} <= roles


def test_a_place_without_a_valid_key_has_no_asset() -> None:
    """Rule: lineage never fails a run: what Prefect takes no key of is left out."""
    report = LandingReport(destination=f"s3://bucket/{'x' * 600}", outcomes=[])
    assert list(assets.asset_events(report)) == []
