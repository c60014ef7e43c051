"""Storage with folders: this machine's own, and as OpenSSH, WebDAV and FTP serve it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.support.file_servers import (
    ftp_options,
    ftp_server,
    webdav_options,
    webdav_server,
)
from tests.support.storage_kinds.kind import Kind, free_port, process


@contextmanager
def local(folder: Path) -> Iterator[Kind]:
    yield Kind(str(folder), {}, folder=folder)


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
