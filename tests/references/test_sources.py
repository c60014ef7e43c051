"""What the text means that names a reference image."""

from __future__ import annotations

import pytest

from nanobanana_blocks.errors import UnusableReference
from nanobanana_blocks.references import SourceFinder, is_file
from nanobanana_blocks.storage.destination import StorageLocation

STORE = StorageLocation("s3://shop/photos", {"key": "k"})
NEAR = StorageLocation("s3://jobs/today", {"key": "near"})


async def load_store(name: str) -> StorageLocation | None:
    return STORE if name == "photos" else None


@pytest.mark.parametrize(
    ("text", "shown", "options"),
    [
        ("photos/a b.png", "s3://shop/photos/a b.png", {"key": "k"}),
        ("./photos/a.png", "s3://jobs/today/photos/a.png", {"key": "near"}),
        ("others/a.png", "s3://jobs/today/others/a.png", {"key": "near"}),
        ("a.png", "s3://jobs/today/a.png", {"key": "near"}),
        ("s3://bucket/x/a.png", "s3://bucket/x/a.png", {"key": "near"}),
        ("gs://bucket/a.png", "gs://bucket/a.png", {"token": "of the images"}),
        ("az://box/a.png", "az://box/a.png", {}),
        ("/srv/a.png", "/srv/a.png", {}),
        ("file:///srv/a.png", "/srv/a.png", {}),
    ],
)
async def test_where_a_file_is(text: str, shown: str, options: dict[str, str]) -> None:
    """Rule: a saved place, a URL, an absolute path, or a path from the manifest's folder on."""
    images = StorageLocation("gs://images", {"token": "of the images"})
    found = await SourceFinder(NEAR, images, load_store).find(text)
    assert (found.shown, found.options) == (shown, options)
    assert "near" not in repr(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("photos/../secret.png", "leads out"),
        ("s3://bucket", "names no"),
        ("photos/", "like a folder's name"),
        ("s3://bucket/x/", "like a folder's name"),
        ("./plates/", "like a folder's name"),
        ("s3:/bucket/a.png", "two slashes"),
        ("nosuch://bucket/a.png", "no protocol"),
        ("s3://user:s3cr3t@bucket/a//b.png", "two slashes in a row"),
        ("../../a.png", "like any other"),
    ],
)
async def test_what_names_no_file(text: str, says: str) -> None:
    """Rule: what cannot be a file is told with the reason, without a password in it."""
    with pytest.raises(UnusableReference, match=says) as caught:
        await SourceFinder(NEAR, None, load_store).find(text)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "photo/a.png",
            "s3://jobs/today/photo/a.png does not exist, and no ImageStore is saved as ",
        ),
        ("photos/a.png", "s3://shop/photos/a.png does not exist: check the spelling"),
        ("a.png", "s3://jobs/today/a.png does not exist: check the spelling"),
    ],
)
async def test_what_a_misspelt_name_is_told(text: str, says: str) -> None:
    """Rule: what may have been meant as the name of a saved place is told to be none."""
    assert (await SourceFinder(NEAR, None, load_store).find(text)).why_missing.startswith(says)


def test_what_is_no_file() -> None:
    """Rule: URLs that the service fetches, and other rows, are no files."""
    assert [is_file(t) for t in ("HTTPS://h/a", "row:a", "row.png", "s3://b/a")] == [
        False,
        False,
        True,
        True,
    ]
