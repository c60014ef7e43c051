"""The kinds of storage that the conformance suite runs over, each on its real protocol server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.storage_kinds.azure_and_google import azurite, fake_gcs
from tests.support.storage_kinds.folders import ftp, local, openssh, webdav
from tests.support.storage_kinds.kind import Kind, free_port
from tests.support.storage_kinds.s3 import moto, rclone, s3_client, seaweedfs

__all__ = [
    "KINDS",
    "WITHOUT_SERVER",
    "Kind",
    "azurite",
    "free_port",
    "s3_client",
    "seaweedfs",
]


@contextmanager
def memory(folder: Path) -> Iterator[Kind]:
    yield Kind(f"memory://{folder.name}", {})


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

WITHOUT_SERVER = ("local", "memory")
"""Those that need no server; `make test` leaves the others' conformance to `make test-all`."""
