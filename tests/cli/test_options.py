"""What the texts of shared options mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanobanana_blocks.cli import options
from nanobanana_blocks.cli.options import find_place, parse_storage_options
from nanobanana_blocks.errors import InvalidInput


def test_storage_options_are_json_or_text_and_nest() -> None:
    """Rule: what fsspec's backends take can be written in a shell."""
    assert parse_storage_options(
        [
            "key=abc",
            "anon=false",
            "port=22",
            "client_kwargs.endpoint_url=http://127.0.0.1:9000",
            "client_kwargs.verify=true",
            "secret=a=b",
            'config_kwargs={"retries": 3}',
            "empty=",
        ]
    ) == {
        "key": "abc",
        "anon": False,
        "port": 22,
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9000", "verify": True},
        "secret": "a=b",
        "config_kwargs": {"retries": 3},
        "empty": "",
    }


@pytest.mark.parametrize(
    "given",
    [["s3cr3t"], ["=s3cr3t"], ["a..b=s3cr3t"], ["a=s3cr3t", "a=s3cr3t"], ["a=1", "a.b=s3cr3t"]],
)
def test_options_that_clash_are_refused_without_their_values(given: list[str]) -> None:
    """Rule: the option is named, and what may be a secret is not."""
    with pytest.raises(InvalidInput, match="--storage-option") as caught:
        parse_storage_options(given)
    assert "=s3cr3t" not in str(caught.value)


async def test_a_folder_is_no_matter_of_prefects_where_it_was_never_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rule: without a server and without a profile, a plain name is a folder at once."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(options, "quieten_prefect", None)
    assert (await find_place("images")).location.url == "images"


async def test_options_given_go_beside_those_of_the_url() -> None:
    """Rule: a URL has the options of the command line, nested ones included."""
    place = await find_place("s3://bucket/x", ["client_kwargs.verify=false", "key=k"])
    assert place.location.options == {"client_kwargs": {"verify": False}, "key": "k"}
