"""The kinds of storage: one entry each, chosen by a location's protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanobanana_blocks.storage.backends.folder import Folder, temporary_name
from nanobanana_blocks.storage.backends.ftp import FtpFolder
from nanobanana_blocks.storage.backends.generic import (
    ACCEPT_PARTIAL_FILES,
    GenericFolder,
    WebdavFolder,
)
from nanobanana_blocks.storage.backends.local import LocalFolder
from nanobanana_blocks.storage.backends.objects import (
    AzureFolder,
    GoogleFolder,
    MemoryFolder,
    S3Folder,
)
from nanobanana_blocks.storage.backends.remote import RemoteFolder
from nanobanana_blocks.storage.backends.sftp import SftpFolder
from nanobanana_blocks.storage.locations import Location

__all__ = [
    "ACCEPT_PARTIAL_FILES",
    "KINDS",
    "Folder",
    "LocalFolder",
    "RemoteFolder",
    "folder_at",
    "temporary_name",
]

KINDS: dict[str, type[RemoteFolder]] = {
    **dict.fromkeys(("s3", "s3a"), S3Folder),
    **dict.fromkeys(("gs", "gcs"), GoogleFolder),
    **dict.fromkeys(("az", "abfs", "abfss"), AzureFolder),
    **dict.fromkeys(("sftp", "ssh"), SftpFolder),
    **dict.fromkeys(("webdav", "dav"), WebdavFolder),
    "ftp": FtpFolder,
    "memory": MemoryFolder,
}
"""What is known of the protocols that are not local; any other is a `GenericFolder`."""


def folder_at(location: Location, options: Mapping[str, Any]) -> Folder:
    """The folder that a location names, not connected yet.

    Raises:
        DestinationError: Nothing is known of such a storage, and it was not accepted by name.
    """
    if location.local is not None:
        return LocalFolder(location.local)
    kind = KINDS.get(location.protocol, GenericFolder)
    if not issubclass(kind, GenericFolder):
        options = {name: options[name] for name in options if name != ACCEPT_PARTIAL_FILES}
    return kind(location, options)
