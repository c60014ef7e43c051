"""Storage services on this machine for tests; each is the real protocol, none the real service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncssh
import boto3
import httpx
from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class S3Server:
    """An S3 service with one bucket, ``bucket``."""

    endpoint: str

    def options(self, **changed: str) -> dict[str, Any]:
        """Storage options that reach it."""
        credentials = {"key": "AKIAEXAMPLE", "secret": "s3cr3t-access-key", **changed}
        return {**credentials, "client_kwargs": {"endpoint_url": self.endpoint}}

    @property
    def client(self) -> Any:
        """A client that owes nothing to fsspec."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="s3cr3t-access-key",
            region_name="us-east-1",
        )

    @contextmanager
    def checking_keys(self) -> Iterator[None]:
        """Refuse every key, as none was ever made."""
        httpx.post(f"{self.endpoint}/moto-api/reset-auth", content=b"0").raise_for_status()
        try:
            yield
        finally:
            unlimited = str(10**9).encode()
            httpx.post(f"{self.endpoint}/moto-api/reset-auth", content=unlimited)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run an S3 service on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    running = S3Server(f"http://{host}:{port}")
    running.client.create_bucket(Bucket="bucket")
    try:
        yield running
    finally:
        server.stop()


class _PasswordServer(asyncssh.SSHServer):
    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("ann", "s3cr3t")


@asynccontextmanager
async def sftp_server() -> AsyncIterator[str]:
    """Run an SFTP service for this machine's files; gives the URL of its root folder."""
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        server_factory=_PasswordServer,
        sftp_factory=True,
    )
    try:
        yield f"sftp://ann:s3cr3t@127.0.0.1:{server.get_port()}"
    finally:
        server.close()
