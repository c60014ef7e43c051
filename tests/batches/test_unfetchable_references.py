"""A batch is not begun where it would pay for reference images that cannot be fetched."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from nanobanana_blocks import NanoBananaClient
from nanobanana_blocks.batches.manifest import InvalidManifest, RowDefaults, read_manifest
from nanobanana_blocks.batches.opening import open_batch
from nanobanana_blocks.storage.destination import StorageLocation


async def test_rows_with_unfetchable_references_are_named_and_nothing_is_begun(
    tmp_path: Path,
) -> None:
    """Rule: all such rows are named with the URL's host; no query or path is, nothing is sent."""
    rows = [
        {"endpoint": "generate-2", "prompt": "a", "image_urls": ["https://example.com/a.png"]},
        {
            "endpoint": "generate-2",
            "prompt": "b",
            "image_urls": ["http://localhost:9/p?sig=s3cr3t"],
        },
        {"endpoint": "generate-2", "prompt": "c", "image_urls": ["http://192.168.0.9/p.png"]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    manifest = await read_manifest(str(path), defaults=RowDefaults())
    async with NanoBananaClient("a-key-that-is-never-sent") as client:
        with pytest.raises(InvalidManifest) as caught:
            async with open_batch(
                client,
                StorageLocation(str(tmp_path / "images")),
                "rows.jsonl",
                manifest.digest,
                manifest.rows,
                timeout=1,
                in_flight=1,
                log=logging.getLogger(__name__),
            ):
                pytest.fail("the batch was opened")
    assert [problem.row for problem in caught.value.problems] == [2, 3]
    assert "localhost" in str(caught.value)
    assert "192.168.0.9" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
