"""Reference images that are uploaded to the provider, one for each content of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from types import TracebackType

from nanobanana_blocks.api.uploads import FileUploads
from nanobanana_blocks.errors import APIError, DestinationError, StorageError, UnusableReference
from nanobanana_blocks.references.inspection import Picture

KEPT = timedelta(days=1)
"""For how long the provider keeps a file at least; pages of its sister product say 1 to 3 days."""

RENEWED_AFTER = KEPT / 2

PAUSES = (0.5, 2.0)
"""Seconds after which an upload is tried again."""


class Uploads:
    """The uploads of one run; an async context manager.

    Args:
        service: Takes them.
        lifetime: Seconds for which a file may be needed after its task was submitted.
        pauses: Seconds after which an upload that failed is tried again.

    Attributes:
        written: How many files were uploaded.

    Raises:
        UnusableReference: A task may be waited for longer than a file is kept after that.
    """

    way = "upload"
    made, next_step = "its upload", "Check the upload URL of the credentials."

    def __init__(
        self, service: FileUploads, *, lifetime: float, pauses: Sequence[float] = PAUSES
    ) -> None:
        if lifetime > (KEPT - RENEWED_AFTER).total_seconds():
            raise UnusableReference(
                "images to work from cannot be uploaded: the provider may delete them after a day, "
                "and this run may wait for longer. Lower timeout."
            )
        self.written = 0
        self._service = service
        self._pauses = pauses
        self._uploads: dict[str, asyncio.Task[str]] = {}
        self._begun: dict[str, float] = {}

    @property
    def where(self) -> str:
        """The server that takes them."""
        return self._service.url

    async def __aenter__(self) -> Uploads:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for upload in self._uploads.values():
            upload.cancel()
        await asyncio.gather(*self._uploads.values(), return_exceptions=True)

    async def ensure(self, picture: Picture, read: Callable[[], Awaitable[bytes]]) -> str:
        """Make sure that there is a young upload, once for all who ask, and return its URL.

        Args:
            picture: What is uploaded.
            read: Gives its bytes; called where there is no upload yet, or an old one.

        Raises:
            StorageError: It could not be uploaded; trying again may help.
            DestinationError: The provider refuses it.
        """
        name, now = picture.file_name, asyncio.get_running_loop().time()
        upload = self._uploads.get(name)
        failed = upload and upload.done() and (upload.cancelled() or upload.exception())
        is_old = now - self._begun.get(name, now) > RENEWED_AFTER.total_seconds()
        if upload is None or failed or is_old:
            self._begun[name] = now
            upload = self._uploads[name] = asyncio.create_task(self._upload(picture, read))
        return await asyncio.shield(upload)

    async def _upload(self, picture: Picture, read: Callable[[], Awaitable[bytes]]) -> str:
        data, pauses = await read(), iter(self._pauses)
        while True:
            try:
                url = await self._service.upload(data, picture.file_name, picture.media_type)
            except APIError as error:
                pause = next(pauses, None)
                if not error.retryable:
                    raise DestinationError(f"it {_FAILED}: {error.message}") from None
                if pause is None:
                    raise StorageError(f"{_FAILED}: {error.message}") from None
                await asyncio.sleep(pause)
            else:
                self.written += 1
                return url


_FAILED = "could not be uploaded to the provider"
