"""Public copies of reference images: one for each content, cleared by age."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.references import PublicPlace, clear_copies
from nanobanana_blocks.references.copies import Copies
from nanobanana_blocks.references.inspection import inspect
from nanobanana_blocks.storage.destination import StorageLocation
from tests.support.pictures import picture
from tests.support.storage_servers import S3Server, s3_server

PUBLIC_URL = "https://cdn.example.com/references/"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


class Source:
    """Bytes, and how often they were read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.reads = data, 0

    async def read(self) -> bytes:
        self.reads += 1
        return self.data


@pytest.mark.parametrize("kind", ["local", "s3"])
async def test_one_content_is_written_once(kind: str, tmp_path: Path, s3: S3Server) -> None:
    """Rule: 500 who want a copy of one content have one write, and a later run has none."""
    place = StorageLocation(str(tmp_path)) if kind == "local" else None
    place = place or StorageLocation("s3://bucket/copies", s3.options())
    source = Source(picture(1))
    found = inspect(source.data)
    async with Copies(PublicPlace(place, PUBLIC_URL)) as copies:
        urls = await asyncio.gather(*(copies.ensure(found, source.read) for _ in range(500)))
        assert set(urls) == {f"https://cdn.example.com/references/{found.sha256}.jpg"}
        assert (copies.written, source.reads) == (1, 1)
    async with Copies(PublicPlace(place, PUBLIC_URL)) as later:
        await later.ensure(found, source.read)
        assert (later.written, source.reads) == (0, 1)
    async with await place.open() as folder:
        assert await folder.read(found.file_name) == source.data


async def test_two_runs_that_write_one_copy_at_once(tmp_path: Path) -> None:
    """Rule: both end well, and the copy is whole."""
    place = PublicPlace(StorageLocation(str(tmp_path)), PUBLIC_URL)
    data = picture(5, size=(900, 900), noisy=True)
    found = inspect(data)
    async with Copies(place) as one, Copies(place) as other:
        await asyncio.gather(
            one.ensure(found, Source(data).read), other.ensure(found, Source(data).read)
        )
    assert (tmp_path / found.file_name).read_bytes() == data


async def test_an_old_copy_is_renewed_when_used(tmp_path: Path) -> None:
    """Rule: a copy that is used is never older than a day, so that clearing by age spares it."""
    place = PublicPlace(StorageLocation(str(tmp_path)), PUBLIC_URL)
    source = Source(picture(1))
    found = inspect(source.data)
    async with Copies(place) as copies:
        await copies.ensure(found, source.read)
    two_days_ago = time.time() - 2 * 86_400
    os.utime(tmp_path / found.file_name, (two_days_ago, two_days_ago))
    async with Copies(place) as copies:
        await copies.ensure(found, source.read)
        assert copies.written == 1
    assert await clear_copies(place.location, timedelta(days=1)) == (0, 1)


@pytest.mark.parametrize("kind", ["local", "s3"])
async def test_clearing_by_age(kind: str, tmp_path: Path, s3: S3Server) -> None:
    """Rule: copies of that age go, younger ones and everything else stay."""
    place = StorageLocation(str(tmp_path)) if kind == "local" else None
    place = place or StorageLocation("s3://bucket/cleared", s3.options())
    source = Source(picture(1))
    found = inspect(source.data)
    async with Copies(PublicPlace(place, PUBLIC_URL)) as copies:
        await copies.ensure(found, source.read)
    async with await place.open() as folder:
        await folder.publish("mine.jpg", b"mine", "image/jpeg")
        await folder.publish("a" * 63 + ".jpg", b"mine", "image/jpeg")
        assert await clear_copies(place, timedelta(days=1)) == (0, 1)
        assert await clear_copies(place, timedelta(days=-1)) == (1, 0)
        assert sorted(await folder.list()) == ["a" * 63 + ".jpg", "mine.jpg"]


@pytest.mark.parametrize("url", ["", "cdn.example.com", "ftp://h/x", "https://h/?a=1", "http://"])
def test_what_is_no_public_url(url: str) -> None:
    """Rule: a public URL is a plain http or https URL."""
    with pytest.raises(InvalidInput, match="must be like"):
        PublicPlace(StorageLocation("."), url)
