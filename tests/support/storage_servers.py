"""Storage services on this machine for tests; each is the real protocol, none the real service."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncssh
import boto3
import httpx
from moto.s3.responses import S3Response
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


def _put_one_at_a_time(put: Callable[[S3Response], Any]) -> Callable[[S3Response], Any]:
    """Create exclusively as S3 does: moto looks and writes in two steps, also in two threads."""
    lock = threading.Lock()

    @functools.wraps(put)
    def put_alone(response: S3Response) -> Any:
        with lock:
            return put(response)

    return put_alone


S3Response.put_object = _put_one_at_a_time(S3Response.put_object)


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


@dataclass(frozen=True)
class SftpServer:
    """An SFTP service for this machine's files.

    Attributes:
        url: Its root folder, with the user's name and password.
        options: Storage options by which its host key is known.
    """

    url: str
    options: dict[str, Any]

    def make_known(self, home: Path) -> None:
        """Have the user whose home folder this is know the host key."""
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        (home / ".ssh" / "known_hosts").write_bytes(self.options["known_hosts"])


class NoPosixRename(asyncssh.SFTPServer):
    """SFTP as servers speak it that lack OpenSSH's extensions."""

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        raise asyncssh.SFTPOpUnsupported("not supported")

    def link(self, oldpath: bytes, newpath: bytes) -> None:
        raise asyncssh.SFTPOpUnsupported("not supported")


@asynccontextmanager
async def sftp_server(
    factory: type[asyncssh.SFTPServer] | bool = True,
    password: str = "s3cr3t",  # noqa: S107 - of this test alone
) -> AsyncIterator[SftpServer]:
    """Run an SFTP service for this machine's files."""

    class PasswordServer(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, given: str) -> bool:
            return (username, given) == ("ann", password)

    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        server_factory=PasswordServer,
        sftp_factory=factory,
    )
    port = server.get_port()
    known = f"[127.0.0.1]:{port} {key.export_public_key().decode()}".encode()
    url = f"sftp://ann:{quote(password, safe='')}@127.0.0.1:{port}"
    try:
        yield SftpServer(url, {"known_hosts": known})
    finally:
        server.close()
