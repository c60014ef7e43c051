"""Batches whose rows work from images, opened as the command line opens them."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nanobanana_blocks import NanoBananaClient
from nanobanana_blocks.api.dialects import DialectName
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.manifest import RowDefaults
from nanobanana_blocks.batches.opening import finder_near, open_batch, read_manifest_near
from nanobanana_blocks.batches.reporting import keeping_report
from nanobanana_blocks.references import PublicPlace
from nanobanana_blocks.sandbox import Sandbox
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.batches import QUICK


def write_manifest(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@asynccontextmanager
async def opened(
    sandbox: Sandbox,
    manifest: str,
    images: StorageLocation,
    *,
    public: PublicPlace | None = None,
    base_url: str | None = None,
    dialect: DialectName = "nanobanana",
    upload_url: str | None = None,
    **options: Any,
) -> AsyncIterator[Batch]:
    """A batch as the command line has it."""
    found = await read_manifest_near(manifest, images, RowDefaults())
    settings = {"timeout": 10.0, "in_flight": 50, "poll": QUICK} | options
    async with (
        NanoBananaClient(
            sandbox.api_key,
            base_url or sandbox.base_url,
            dialect=dialect,
            upload_url=upload_url,
        ) as client,
        open_batch(
            client,
            images,
            manifest,
            found.digest,
            found.rows,
            finder=finder_near(manifest, images),
            public=public,
            log=logging.getLogger("tests.batches"),
            **settings,
        ) as batch,
    ):
        yield batch


async def run(sandbox: Sandbox, manifest: str, images: StorageLocation, **options: Any) -> Batch:
    async with opened(sandbox, manifest, images, **options) as batch:
        async with keeping_report(batch):
            await batch.process_each(batch.rows)
        return batch
