"""Publishing through obstore: when it is used, and that fsspec has the last word."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.backends.direct import DirectPuts, direct_puts
from nanobanana_blocks.storage.destination import Destination
from tests.support.storage_servers import S3Server, s3_server

KEYS = {"key": "AKIAEXAMPLE", "secret": "s3cr3t-access-key"}
ENDPOINT = {"endpoint_url": "http://127.0.0.1:9"}
AZURE_KEY = base64.b64encode(b"a key that was made up").decode()
EMULATOR = "BlobEndpoint=http://127.0.0.1:9/account"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own settings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def s3() -> Any:
    with s3_server() as server:
        yield server


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("s3", KEYS | {"client_kwargs": ENDPOINT}),
        ("s3a", KEYS | ENDPOINT | {"token": "a-token"}),
        ("s3", KEYS | {"client_kwargs": {"region_name": "eu-west-1"}}),
        ("s3", ENDPOINT | {"anon": True}),
        ("az", {"account_name": "account", "account_key": AZURE_KEY}),
        ("abfs", {"account_name": "account", "sas_token": "?sv=2024&sig=abc"}),
        ("az", {"connection_string": f"{EMULATOR};AccountName=account;AccountKey={AZURE_KEY}"}),
        ("az", {"connection_string": f"{EMULATOR};SharedAccessSignature=sv=2024&sig=abc"}),
    ],
)
def test_options_that_say_everything_are_translated(protocol: str, options: Any) -> None:
    """Rule: a service and a key that the options name are enough."""
    assert isinstance(direct_puts(protocol, "bucket", options), DirectPuts)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("s3", {}),
        ("s3", KEYS),
        ("s3", {"key": "AKIAEXAMPLE", **ENDPOINT}),
        ("s3", KEYS | ENDPOINT | {"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}}),
        ("s3", KEYS | ENDPOINT | {"config_kwargs": {"s3": {"addressing_style": "virtual"}}}),
        ("s3", KEYS | {"client_kwargs": ENDPOINT | {"verify": False}}),
        ("az", {"account_name": "account"}),
        ("az", {"account_name": "account", "account_key": AZURE_KEY, "account_host": "example"}),
        ("az", {"account_name": "account", "credential": object()}),
        ("az", {"connection_string": "not one"}),
        ("gs", {"token": "anon", **ENDPOINT}),
        ("memory", {}),
    ],
)
def test_whatever_else_is_left_to_fsspec(protocol: str, options: Any) -> None:
    """Rule: an option that is not understood is never guessed at."""
    assert direct_puts(protocol, "bucket", options) is None


@pytest.mark.parametrize(
    ("protocol", "options", "name"),
    [
        ("s3", KEYS | ENDPOINT, "AWS_ENDPOINT_URL_S3"),
        ("s3", KEYS | ENDPOINT, "AWS_PROFILE"),
        ("az", {"account_name": "a", "account_key": AZURE_KEY}, "AZURE_STORAGE_CONNECTION_STRING"),
    ],
)
def test_an_environment_that_adds_something_leaves_it_to_fsspec(
    protocol: str, options: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: what may lead the two clients to different places is not used with both."""
    assert direct_puts(protocol, "bucket", options) is not None
    monkeypatch.setenv(name, "value")
    assert direct_puts(protocol, "bucket", options) is None


async def test_it_is_used_unless_turned_off(s3: S3Server) -> None:
    """Rule: obstore writes where it can; ``obstore=False`` leaves all to fsspec."""
    for off in ({}, {"obstore": False}):
        options = s3.options() | off
        async with await Destination.open("s3://bucket/used", options) as destination:
            folder: Any = destination._folder
            await destination.publish("a.png", b"a", "image/png")
            assert (folder._direct is not None and folder._direct.has_put) is not bool(off)
            assert await destination.read("a.png") == b"a"


async def test_a_folder_whose_name_clients_write_differently_is_left_to_fsspec(
    s3: S3Server,
) -> None:
    """Rule: the object is where fsspec looks for it."""
    async with await Destination.open("s3://bucket/b *~+é=", s3.options()) as destination:
        await destination.publish("a.png", b"a", "image/png")
        assert await destination.list() == {"a.png": 1}


@pytest.mark.parametrize("worked_before", [True, False])
async def test_what_obstore_cannot_put_fsspec_puts(s3: S3Server, *, worked_before: bool) -> None:
    """Rule: a failure of obstore loses nothing; where it never worked, it is not asked again."""
    async with await Destination.open("s3://bucket/failing", s3.options()) as destination:
        folder: Any = destination._folder

        async def fail(*_: object, **__: object) -> None:
            raise RuntimeError("of obstore alone")

        if worked_before:
            await destination.publish("a.png", b"a", "image/png")
        folder._direct._put = fail
        await destination.publish("a.png", b"b", "image/png")
        assert await destination.read("a.png") == b"b"
        assert (folder._direct is not None) is worked_before


async def test_an_error_is_told_in_fsspecs_words(s3: S3Server) -> None:
    """Rule: causes and codes are the same with and without obstore; no secret is shown."""
    said = []
    for off in ({}, {"obstore": False}):
        options = s3.options() | off
        async with await Destination.open("s3://no-such-bucket/folder", options) as destination:
            with pytest.raises(DestinationError) as caught:
                await destination.publish("a.png", b"a", "image/png")
            said.append(str(caught.value))
    assert said[0] == said[1]
    assert "s3cr3t" not in said[0]
