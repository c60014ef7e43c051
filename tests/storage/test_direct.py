"""Publishing through obstore: when it is used, and that fsspec has the last word."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
WHEN_REQUIRED = {"config_kwargs": {"request_checksum_calculation": "when_required"}}

# Of docs/storage.md: protocol, storage options, whether obstore puts.
RECIPES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "AWS S3, the environment's credentials": ("s3", {}, False),
    "AWS S3, key without region": ("s3", KEYS, False),
    "AWS S3, key and region": ("s3", KEYS | {"client_kwargs": {"region_name": "eu-west-1"}}, True),
    "MinIO, Ceph, SeaweedFS, rclone": ("s3", KEYS | {"client_kwargs": ENDPOINT}, True),
    "R2": (
        "s3",
        KEYS
        | {"client_kwargs": {"endpoint_url": "https://a.r2.example.org", "region_name": "auto"}},
        True,
    ),
    "B2, Wasabi": (
        "s3",
        KEYS | {"client_kwargs": {"endpoint_url": "https://s3.example.org"}} | WHEN_REQUIRED,
        True,
    ),
    "Azure, key": ("az", {"account_name": "account", "account_key": AZURE_KEY}, True),
    "Azure, SAS": ("az", {"account_name": "account", "sas_token": "sv=2024&sig=abc"}, True),
    "Azure, connection string": (
        "az",
        {
            "connection_string": "DefaultEndpointsProtocol=https;AccountName=account;"
            f"AccountKey={AZURE_KEY};EndpointSuffix=core.windows.net"
        },
        True,
    ),
    "Azure, identity": ("az", {"account_name": "account", "anon": False}, False),
    "Google, default": ("gs", {}, False),
    "Google, key file": ("gs", {"token": "/path/key.json"}, False),
    "SFTP": ("sftp", {"client_keys": ["/path/id_ed25519"]}, False),
    "WebDAV": ("webdav", {"base_url": "https://host/dav", "auth": ["user", "s3cr3t"]}, False),
}


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


@pytest.fixture
def redirecting() -> Iterator[str]:
    """A service behind a door that sends whoever puts to a page, by "303 See Other"."""

    class Door(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(303, Location="/login")

        def do_GET(self) -> None:
            self._answer(200, ETag='"5f2a"', **{"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})

        def _answer(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", RECIPES)
def test_what_each_recipe_in_the_docs_is_served_by(name: str) -> None:
    """Rule: obstore puts where a recipe names service and key, and fsspec everywhere else."""
    protocol, options, directly = RECIPES[name]
    assert (direct_puts(protocol, "bucket", options) is not None) is directly


@pytest.mark.parametrize("protocol", ["s3", "az"])
async def test_a_page_that_a_put_is_sent_to_is_no_success(redirecting: str, protocol: str) -> None:
    """Rule: a put counts where the storage's own tag comes back, not where anything answers 200."""
    account = f"BlobEndpoint={redirecting}/account;AccountName=account;AccountKey={AZURE_KEY}"
    options: dict[str, Any] = {
        "s3": KEYS | {"endpoint_url": redirecting},
        "az": {"connection_string": account},
    }[protocol]
    direct = direct_puts(protocol, "bucket", options)
    assert direct is not None
    assert not await direct.put("a.png", b"a", "image/png")
    assert not direct.has_put


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
        ("az", {"connection_string": f"AccountName=a;AccountKey={AZURE_KEY};endpointsuffix=b.c"}),
        ("s3", KEYS | ENDPOINT | {"requester_pays": True}),
        ("s3", KEYS | ENDPOINT | {"profile": "other"}),
        (
            "s3",
            KEYS | ENDPOINT | {"config_kwargs": {"request_checksum_calculation": "when_supported"}},
        ),
        ("gs", {"token": "anon", **ENDPOINT}),
        ("memory", {}),
    ],
)
def test_whatever_else_is_left_to_fsspec(protocol: str, options: Any) -> None:
    """Rule: an option that is not understood is never guessed at."""
    assert direct_puts(protocol, "bucket", options) is None


def test_an_access_point_is_left_to_fsspec() -> None:
    """Rule: only a bucket's plain name means the same to both."""
    name = "arn:aws:s3:eu-west-1:123456789012:accesspoint"
    assert direct_puts("s3", "my.bucket_1", KEYS | ENDPOINT) is not None
    assert direct_puts("s3", name, KEYS | ENDPOINT) is None


def test_a_connection_string_has_its_names_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: an endpoint that the SDK sees leads obstore there, too, and not to Azure itself."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(
        "obstore.store.AzureStore", lambda _, **given: made.update(given) or object()
    )
    text = f"accountname=account;ACCOUNTKEY={AZURE_KEY};blobEndpoint=http://127.0.0.1:9/account"
    assert direct_puts("az", "box", {"connection_string": text}) is not None
    assert made["endpoint"] == "http://127.0.0.1:9/account"


@pytest.mark.parametrize("file", ["config", "credentials"])
def test_a_configuration_may_name_another_endpoint(file: str, tmp_path: Path) -> None:
    """Rule: without an endpoint among the options, botocore takes one from either of its files."""
    options = KEYS | {"client_kwargs": {"region_name": "eu-west-1"}}
    assert direct_puts("s3", "bucket", options) is not None
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / file).write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    assert direct_puts("s3", "bucket", options) is None
    assert direct_puts("s3", "bucket", KEYS | ENDPOINT) is not None


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


async def test_a_tag_that_is_not_the_contents_has_fsspec_put_it(s3: S3Server) -> None:
    """Rule: where KMS makes the tags, nothing shows what was put; fsspec puts, and goes on."""
    async with await Destination.open("s3://bucket/tagged", s3.options()) as destination:
        folder: Any = destination._folder

        async def put(*_: object, **__: object) -> dict[str, str]:
            return {"e_tag": '"0123456789abcdef0123456789abcdef"'}

        folder._direct._put = put
        await destination.publish("a.png", b"a", "image/png")
        assert await destination.read("a.png") == b"a"
        assert folder._direct is None


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
