"""Object stores: one single put of all the bytes, and a condition where creation is exclusive."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from nanobanana_blocks.storage.backends.direct import OBSTORE, DirectPuts, direct_puts
from nanobanana_blocks.storage.backends.remote import RemoteFolder, close_quietly
from nanobanana_blocks.storage.causes import (
    CannotCreate,
    Cause,
    has_no_exclusive_creation,
    refused_to_replace,
)
from nanobanana_blocks.storage.locations import Location

MAX_CONNECTIONS = 64
"""Operations that an asynchronous object store is asked to do at a time, each on a connection."""


class ObjectFolder(RemoteFolder):
    """A prefix in a bucket or container."""

    can_create = True
    width = MAX_CONNECTIONS
    rights: tuple[str, str, str, str] | None = None
    """The rights to list, read, write and delete, as this service calls them."""

    def __init__(self, location: Location, options: Mapping[str, Any]) -> None:
        given = dict(options)
        self._may_put_directly = given.pop(OBSTORE, True) is not False
        super().__init__(location, given)
        self._direct: DirectPuts | None = None
        self._prefix = ""

    @staticmethod
    def media_type(media_type: str) -> dict[str, Any]:
        """The keyword arguments of a write that carry a media type."""
        del media_type
        return {}

    def right_to(self, doing: str) -> str | None:
        if self.rights is None:
            return None
        names = dict(
            zip(("list", "read from", "write to", "delete from"), self.rights, strict=True)
        )
        names["look into"] = f"{self.rights[0]} and {self.rights[1]}"
        return names.get(doing)

    async def try_listing(self) -> None:
        # A prefix that holds nothing needs the same right as the folder, and one page.
        self._file_system.invalidate_cache()
        try:
            await self._call("ls", self._at(".nanobanana-check.d/none"), detail=True)
        except Exception as error:
            if Cause.of(error) is not Cause.MISSING:
                raise

    def _build(self) -> None:
        super()._build()
        file_system, root = self._file_system, self._root
        if self._may_put_directly and file_system is not None:
            bucket, _, self._prefix = root.partition("/")
            options = self._options_for(type(file_system))
            self._direct = direct_puts(self._location.protocol, bucket, options)

    async def aclose(self) -> None:
        self._direct = None
        await super().aclose()

    async def write(self, name: str, data: bytes, media_type: str) -> None:
        direct = self._direct
        if direct is not None:
            key = f"{self._prefix}/{name}".lstrip("/")
            if await direct.put(key, data, media_type):
                return
            if not direct.has_put:
                # It may be refused where fsspec is not; it is not asked again.
                self._direct = None
        await self._call("pipe_file", self._at(name), data, **self.media_type(media_type))

    async def create(self, name: str, data: bytes, media_type: str) -> bool:
        settings = self.media_type(media_type)
        try:
            await self._call("pipe_file", self._at(name), data, mode="create", **settings)
        except Exception as error:
            if refused_to_replace(error):
                return False
            if has_no_exclusive_creation(error):
                raise CannotCreate from None
            raise
        return True


class MemoryFolder(ObjectFolder):
    """A folder in this process, for trying things out."""


class S3Folder(ObjectFolder):
    """S3 and the services that imitate it."""

    package = "s3fs"
    extra = "s3"
    defaults = {  # noqa: RUF012 - read only
        # botocore keeps ten connections otherwise, and all other writes wait for one of them.
        "config_kwargs": {"max_pool_connections": MAX_CONNECTIONS},
        # Otherwise each file is asked for its size before it is read, to read large ones in parts.
        "max_concurrency": 1,
    }
    rights = ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject")

    @staticmethod
    def media_type(media_type: str) -> dict[str, Any]:
        return {"ContentType": media_type}

    async def _close_connections(self, file_system: Any) -> None:
        creator = getattr(file_system, "_s3creator", None)
        if creator is not None:
            await creator.__aexit__(None, None, None)


class GoogleFolder(ObjectFolder):
    """Google Cloud Storage, by its JSON interface."""

    package = "gcsfs"
    extra = "gs"
    rights = (
        "storage.objects.list",
        "storage.objects.get",
        "storage.objects.create and, to replace, storage.objects.delete",
        "storage.objects.delete",
    )

    @staticmethod
    def media_type(media_type: str) -> dict[str, Any]:
        return {"content_type": media_type}

    def _backend(self) -> Any:
        found = super()._backend()
        # gcsfs asks each bucket's type by gRPC, over TLS and at the same endpoint, for up to 60 s;
        # emulators and many proxies do not answer that, and only zonal buckets need it.
        asked_for = os.environ.get("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "").lower()
        if asked_for not in ("true", "1") and found.__module__ == "gcsfs.extended_gcsfs":
            return importlib.import_module("gcsfs.core").GCSFileSystem
        return found

    async def _close_connections(self, file_system: Any) -> None:
        async def session() -> None:
            if file_system._session is not None:
                await file_system._session.close()

        closers: list[Any] = [session]
        if (pools := getattr(file_system, "_mrd_pool_cache", None)) is not None:
            closers.append(pools.close)
        for name in ("_grpc_client", "_storage_control_client"):
            if (client := getattr(file_system, name, None)) is not None:
                closers += [getattr(client, "transport", client).close]
        if (threads := getattr(file_system, "_memmove_executor", None)) is not None:
            closers.append(lambda: threads.shutdown(wait=False))
        await close_quietly(*closers)


class AzureFolder(ObjectFolder):
    """Azure Blob Storage."""

    package = "adlfs"
    extra = "azure"
    rights = (
        "list (SAS: l)",
        "read (SAS: r)",
        "create and write (SAS: cw)",
        "delete (SAS: d)",
    )

    @staticmethod
    def media_type(media_type: str) -> dict[str, Any]:
        # The class rather than a dictionary: only newer releases of adlfs take the latter.
        settings = importlib.import_module("azure.storage.blob").ContentSettings
        return {"content_settings": settings(content_type=media_type)}

    async def _close_connections(self, file_system: Any) -> None:
        credential: Any = getattr(file_system, "credential", None)
        closers = [file_system.service_client.close]
        if hasattr(credential, "close"):
            closers.append(credential.close)
        await close_quietly(*closers)
        # aiohttp's sockets close on the loop's next turns.
        await asyncio.sleep(0)


def _is_no_signature(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Signature")


# At DEBUG it logs every signature that it makes, those of signed URLs included.
logging.getLogger("botocore.auth").addFilter(_is_no_signature)
