"""Destinations as anybody might write them: read alike each time, with nothing secret shown."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nanobanana_blocks.errors import DestinationError, NanoBananaError
from nanobanana_blocks.storage import Location, redact, safe_name
from nanobanana_blocks.storage.destination import Destination, StorageLocation

pytestmark = pytest.mark.hypothesis

SECRET = "s3cr3tS3CR3T"
PROTOCOLS = ["s3", "s3a", "gs", "gcs", "az", "abfs", "sftp", "ssh", "webdav", "ftp", "memory"]
PIECES = st.sampled_from(
    [
        "a",
        "..",
        ".",
        "",
        " ",
        "%2e%2e",
        "~",
        "\u00e9",
        "e\u0301",
        "#",
        "?",
        ":",
        "@",
        "\\",
        "::",
        "s3:",
        "://",
        "[::1]",
        "host:22",
        "\x00",
        "\n",
        "{date}",
        "C:",
    ]
)
TEXTS = st.text(max_size=40) | st.lists(PIECES | st.text(max_size=4), max_size=8).map("/".join)
ANY_DESTINATION = TEXTS | st.builds(
    lambda protocol, separator, rest: f"{protocol}{separator}{rest}",
    st.sampled_from([*PROTOCOLS, "file", "http", "S3", "zip", "nonsense"]),
    st.sampled_from(["://", ":/", ":", ":///"]),
    TEXTS,
)
PLAIN = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)


@given(text=ANY_DESTINATION)
def test_a_location_is_the_same_when_its_url_is_read_again(text: str) -> None:
    """Rule: what a URL names, its own spelling names; whatever is invalid is told in one line."""
    try:
        location = Location.parse(text)
    except DestinationError as refused:
        said = str(refused)
    else:
        said = location.redacted
        assert Location.parse(location.url) == location
        assert redact(location.url) == location.redacted
    assert said.strip()
    assert said.isprintable()


@given(text=ANY_DESTINATION)
def test_a_location_has_no_step_upwards(text: str) -> None:
    """Rule: a destination's path is what it says, without `..` and without an empty folder."""
    try:
        location = Location.parse(text)
    except DestinationError:
        return
    path = str(location.local or location.url.partition("://")[2])
    parts = PurePosixPath(path).parts
    assert ".." not in parts
    assert "//" not in path.lstrip("/")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.text(max_size=60) | TEXTS)
def test_no_name_leads_out_of_the_destination(name: str) -> None:
    """Rule: a name is one component that is inside the folder, or is refused before any write."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "inside"

        async def publish(written: str) -> None:
            async with await Destination.open(str(inside)) as destination:
                await destination.check_writable()
                await destination.publish(written, b"a", "text/plain")

        asyncio.run(publish(safe_name(name)))
        try:
            asyncio.run(publish(name))
        except (NanoBananaError, ValueError):
            pass
        else:
            assert Path(os.path.abspath(inside / name)).parent == inside  # noqa: PTH100 - no links
        assert [path.name for path in Path(folder).iterdir()] == ["inside"]


@given(
    protocol=st.sampled_from(PROTOCOLS),
    user=PLAIN,
    around=st.tuples(*[st.text(alphabet=st.sampled_from("ab/@:#?%[]\\ "), max_size=3)] * 2),
    rest=st.lists(PLAIN, min_size=1, max_size=3).map("/".join),
    tail=st.sampled_from(["", "?token={}", "#{}", "?a=1&sig={}"]),
)
def test_no_password_is_shown(
    protocol: str, user: str, around: tuple[str, str], rest: str, tail: str
) -> None:
    """Rule: a password in a URL, or a signature behind it, is in no text, also in an error's."""
    password = f"{around[0]}{SECRET}{around[1]}"
    url = f"{protocol}://{user}:{password}@host/{rest}{tail.format(SECRET)}"
    place = StorageLocation(url, {"secret": SECRET})
    shown = [repr(place), str(place), redact(url)]
    try:
        location = Location.parse(url)
    except DestinationError as error:
        shown += [str(error), repr(error)]
    else:
        shown += [repr(location), str(location), location.redacted]
    assert not [text for text in shown if SECRET in text]


@given(folder=PLAIN, name=PLAIN, protocol=st.sampled_from(PROTOCOLS))
def test_a_child_is_found_in_its_parent(folder: str, name: str, protocol: str) -> None:
    """Rule: the parent of a folder's child is that folder."""
    parent = Location.parse(f"{protocol}://host/{folder}")
    child = Location.parse(Location.child(parent.url, name))
    assume(child.local is None)
    assert child.parent_and_name() == (parent, name)
