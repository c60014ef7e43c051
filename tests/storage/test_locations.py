"""Paths and URLs at the door: what storages read in different ways is refused, the rest is one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from nanobanana_blocks.storage.locations import Location, redact

TWO_SLASHES = "two slashes in a row"
SPACE = "begins or ends with a space"
DOTS = "are names like any other"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://bucket/a//b", TWO_SLASHES),
        ("s3://bucket//a", TWO_SLASHES),
        ("gs://bucket/a///b/c", TWO_SLASHES),
        ("sftp://ann:s3cr3t@host//srv/images", TWO_SLASHES),
        ("memory://a//b", TWO_SLASHES),
        ("s3:///bucket/a", "names no bucket"),
        ("s3://..", "names no bucket"),
        ("s3://./a", "names no bucket"),
        ("images /.", "ends with a space"),
        ("az:///box/a", "names no bucket"),
        ("s3://bucket/./a", DOTS),
        ("s3://bucket/a/.", DOTS),
        ("s3://bucket/../other/a", DOTS),
        ("memory://a/../b", DOTS),
        ("s3://bucket/a\\b", "Write forward slashes"),
        ("s3://bucket/a /b", SPACE),
        ("s3://bucket/ a", SPACE),
        ("s3://bucket/a /", SPACE),
        ("memory://a /b", SPACE),
        ("s3://bucket/my%20images", "percent signs are taken literally"),
        ("s3://bucket/a%2Fb", "percent signs are taken literally"),
        ("file:///tmp/my%20images", "percent signs in a file URL"),
        ("s3://bucket/cafe\u0301", "letters in two parts"),
        ("az://box/Acme Inc./images", "Azure drops the dots"),
        ("abfs://box@account.dfs.core.windows.net/a.", "Azure drops the dots"),
    ],
)
def test_a_folder_that_storages_read_in_different_ways_is_refused(url: str, says: str) -> None:
    """Rule: what lists as empty, or is another folder elsewhere, is refused with the next step."""
    with pytest.raises(DestinationError, match=says) as caught:
        Location.parse(url)
    assert "s3cr3t" not in str(caught.value)
    assert str(caught.value).count("\n") == 0


@pytest.mark.skipif(os.sep == "\\", reason="a backslash separates folders here")
@pytest.mark.parametrize("path", ["C:\\images", "out\\images", "file:///tmp/a\\b"])
def test_a_windows_path_is_refused_elsewhere(path: str) -> None:
    """Rule: no folder is made whose name is a whole Windows path."""
    with pytest.raises(DestinationError, match="Write forward slashes"):
        Location.parse(path)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("s3://bucket/a/", "s3://bucket/a"),
        (" s3://bucket/a\n", "s3://bucket/a"),
        ("s3://bucket/a b/100%", "s3://bucket/a b/100%"),
        ("s3://bucket/Acme Inc./images", "s3://bucket/Acme Inc./images"),
        ("s3://bucket/caf\u00e9", "s3://bucket/caf\u00e9"),
        ("s3://bucket/.hidden/..a", "s3://bucket/.hidden/..a"),
        ("sftp://ann:p%40ss@host/srv", "sftp://ann:p%40ss@host/srv"),
        ("hdfs:///srv/images", "hdfs:///srv/images"),
        ("memory:///a/b/", "memory://a/b"),
        ("memory://", "memory://"),
        ("memory:///", "memory://"),
    ],
)
def test_one_folder_has_one_url(written: str, url: str) -> None:
    """Rule: slashes and white space around a URL change nothing, and odd but clear names stay."""
    assert Location.parse(written).url == url


@pytest.mark.parametrize("folder", ["memory://", "memory:///"])
async def test_the_root_of_the_memory_is_a_folder_like_others(folder: str) -> None:
    """Rule: what was published at the root is listed, sized and read there, and below it too."""
    name = f"{uuid.uuid4().hex}.txt"
    for place in (StorageLocation(folder), StorageLocation(folder).child("below")):
        async with await place.open() as destination:
            await destination.publish(name, b"bytes", "text/plain")
            assert (await destination.list())[name] == 5
            assert await destination.read(name) == b"bytes"
            assert destination.path_of(name) in (f"memory://{name}", f"memory://below/{name}")
            await destination.delete(name)


async def test_white_space_around_a_folder_is_no_part_of_any_name(tmp_path: Path) -> None:
    """Rule: a folder and the folders in it are found in one place, however it was pasted."""
    for written in (f"{tmp_path}/out ", f" {tmp_path}/out", f"{tmp_path}/out/"):
        child = StorageLocation(written).child("_ledger")
        async with await child.open() as ledger, await StorageLocation(written).open() as images:
            assert ledger.path == str(tmp_path / "out" / "_ledger")
            assert images.path == str(tmp_path / "out")
        assert redact(written) == written.strip()


@pytest.mark.parametrize(
    ("url", "folder", "name"),
    [
        ("s3://bucket/a/rows.csv", "s3://bucket/a", "rows.csv"),
        ("s3://bucket/rows.csv", "s3://bucket", "rows.csv"),
        ("memory://rows.csv", "memory://", "rows.csv"),
        ("/srv/rows.csv", "/srv", "rows.csv"),
        ("sftp://ann:s3cr3t@host/srv/rows.csv", "sftp://ann:s3cr3t@host/srv", "rows.csv"),
    ],
)
def test_a_file_is_a_name_in_a_folder(url: str, folder: str, name: str) -> None:
    """Rule: the folder keeps what reaches it, and its redacted form no password."""
    parent, found = Location.parse(url).parent_and_name()
    assert (parent.url, found) == (folder, name)
    assert parent.redacted == folder.replace(":s3cr3t", "")


@pytest.mark.parametrize("url", ["/", "memory://", "s3://bucket", "sftp://ann:s3cr3t@host/"])
def test_a_root_is_no_file(url: str) -> None:
    """Rule: of a root, a bucket or a host, the file or folder in it is asked for."""
    with pytest.raises(DestinationError) as caught:
        Location.parse(url).parent_and_name()
    assert "s3cr3t" not in str(caught.value)


async def test_messages_call_a_destination_as_they_are_told(tmp_path: Path) -> None:
    """Rule: a file's reader is told of by the file, not by the folder that is opened for it."""
    (tmp_path / "file").write_bytes(b"")
    async with await Destination.open(str(tmp_path / "file"), called="rows.csv") as destination:
        with pytest.raises(DestinationError, match=r"^rows\.csv: "):
            await destination.list()


@pytest.mark.parametrize(
    "url",
    [
        "sftp://ann:/s3cr3t@host/images",
        "sftp://ann:12/s3cr3t@host/images",
        "sftp://ann:@s3cr3t/@host/images",
        "webdav://ann:22?s3cr3t@host/images",
        "sftp://ann:[s3cr3t]@host/images",
        "sftp://ann:\u2100s3cr3t@host/images",
    ],
)
def test_a_password_that_looks_like_a_port_or_a_host_is_not_shown(url: str) -> None:
    """Rule: where a password may hold what ends a host, nothing after it is shown."""
    shown = [redact(url), str(StorageLocation(url))]
    try:
        shown.append(Location.parse(url).redacted)
    except DestinationError as refused:
        shown.append(str(refused))
    assert not [text for text in shown if "s3cr3t" in text]
