"""A request of its own, whose images the service would not get."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanobanana_blocks import Generate2Request
from nanobanana_blocks.errors import UnusableReference
from nanobanana_blocks.references import SourceFinder, open_references
from nanobanana_blocks.storage.destination import StorageLocation


async def test_all_that_is_wrong_is_told_in_whole_sentences(tmp_path: Path) -> None:
    """Rule: each image with its cause; that nothing was sent is a sentence of its own."""
    (tmp_path / "notes.png").write_text("no image")
    request = Generate2Request(prompt="a fig", image_urls=("notes.png", "missing.png"))
    finder = SourceFinder(StorageLocation(str(tmp_path)))
    async with open_references(finder, None, base_url="http://127.0.0.1:9", timeout=1) as images:
        with pytest.raises(UnusableReference) as caught:
            await images.ready(request)
    assert str(caught.value) == (
        f"image 1 {tmp_path}/notes.png is no image, or a damaged one; "
        f"image 2 {tmp_path}/missing.png does not exist: check the spelling. Nothing was sent."
    )
