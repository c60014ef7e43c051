"""Lineage: a folder of images as one Prefect asset, made from a manifest; not one asset an image.

The events are those that Prefect's own `materialize` emits. They are posted here, because a task
run of their own would stand in every run's picture for what is no work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect.assets import Asset, AssetProperties
from prefect.client.orchestration import get_client
from prefect.context import AssetContext, FlowRunContext
from prefect.events.related import related_resources_from_run_context
from prefect.settings import PREFECT_API_URL

from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.landing.report import LandingReport
from nanobanana_blocks.orchestration.observability.events import post_events
from nanobanana_blocks.orchestration.observability.optional import optional

ASSETS_VARIABLE = "NANOBANANA_ASSETS"
"""Set to `off` where runs execute, no assets are recorded."""

MATERIALIZED_BY = "nanobanana-blocks"

_NOT_IN_KEYS = re.compile(r"[^\w:/@+=,.~-]")


async def record_assets(report: LandingReport) -> None:
    """Record that a run has put images into its destination, unless the setting is off."""
    images = [image for outcome in report.outcomes for image in outcome.images]
    off = os.environ.get(ASSETS_VARIABLE, "").strip().lower() in ("off", "0", "false", "no")
    if off or not images or not PREFECT_API_URL.value() or FlowRunContext.get() is None:
        return
    with optional("the assets"):
        async with get_client() as prefect:
            run = [dict(found) for found in await related_resources_from_run_context(prefect)]
            events = [
                event | {"related": [*run, *event["related"]]} for event in asset_events(report)
            ]
            if events:
                await post_events(prefect, events)


def asset_events(report: LandingReport) -> Iterator[dict[str, Any]]:
    """The events of a run's assets: the manifest that it read, and the folder that it filled."""
    folder = _asset(report.destination, f"Images in {report.destination}")
    if folder is None:
        return
    upstream = []
    if isinstance(report, BatchReport) and (manifest := _asset(report.manifest, report.manifest)):
        yield _event("prefect.asset.referenced", manifest, related=[], payload={})
        upstream.append(AssetContext.asset_as_related(manifest))
    yield _event(
        "prefect.asset.materialization.succeeded",
        folder,
        related=[*upstream, AssetContext.related_materialized_by(MATERIALIZED_BY)],
        payload=_metadata(report),
    )


def _metadata(report: LandingReport) -> dict[str, Any]:
    images = [image for outcome in report.outcomes for image in outcome.images]
    return {
        "images": len(images),
        "bytes": sum(image.size for image in images),
        **report.counts,
    }


def _asset(place: str, name: str) -> Asset | None:
    """The asset of a path or URL without secrets; None where it has no valid key.

    Prefect's keys hold neither spaces nor escapes: `_` stands for each character that is not taken.
    """
    url = place if "://" in place else f"file://{Path(place).expanduser().absolute().as_posix()}"
    try:
        return Asset(
            key=_NOT_IN_KEYS.sub("_", url.rstrip("/")), properties=AssetProperties(name=name)
        )
    except ValueError:
        return None


def _event(
    name: str, asset: Asset, *, related: list[dict[str, str]], payload: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "event": name,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": AssetContext.asset_as_resource(asset),
        "related": related,
        "payload": payload,
    }
