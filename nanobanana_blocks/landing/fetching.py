"""Gets the images of one generation task by any of their URLs, or by fresh ones; stores nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.details import TaskDetails
from nanobanana_blocks.errors import ImageError, NanoBananaError
from nanobanana_blocks.images import ImageDownloader, VerifiedImage


class TaskImages:
    """The images of a generation task that has succeeded.

    Attributes:
        count: How many there are.

    Args:
        details: What record-info says of the task.
        client: Asks for fresh URLs, at most once for all images.
        downloader: Fetches them.
    """

    def __init__(
        self, details: TaskDetails, client: NanoBananaClient, downloader: ImageDownloader
    ) -> None:
        self.count = details.image_count
        self._details = details
        self._client = client
        self._downloader = downloader
        self._asking = asyncio.Lock()
        self._fresh: TaskDetails | NanoBananaError | None = None

    @asynccontextmanager
    async def fetch(self, index: int, *, thumbnail: bool) -> AsyncIterator[VerifiedImage]:
        """Fetch image `index` (from 0), and hold its bytes until the context is left.

        All of its URLs, the fresh ones included, share the downloader's `seconds_per_image`.

        Raises:
            ImageError: None of its URLs, the fresh ones included, gives it.
        """
        async with AsyncExitStack() as bytes_held:
            yield await self._fetch(index, bytes_held, thumbnail=thumbnail)

    async def _fetch(
        self, index: int, bytes_held: AsyncExitStack, *, thumbnail: bool
    ) -> VerifiedImage:
        urls = self._details.image_urls(index)
        fetch = partial(
            self._downloader.fetch,
            task_id=self._details.task_id,
            thumbnail=thumbnail,
            allowance=(allowance := self._downloader.new_allowance()),
        )
        try:
            return await bytes_held.enter_async_context(fetch(urls))
        except ImageError as error:
            if not error.retryable:
                raise
            failure = error.with_traceback(None)
        fresh = await self._fresh_urls(index) if allowance.left else None
        if fresh is None:
            raise failure
        if fresh == urls:
            await asyncio.sleep(self._downloader.fresh_url_seconds)
        return await bytes_held.enter_async_context(fetch(fresh))

    async def _fresh_urls(self, index: int) -> tuple[str, ...] | None:
        """The URLs that the API gives now; None where it cannot be asked."""
        async with self._asking:
            if self._fresh is None:
                try:
                    self._fresh = await self._client.get_task_details(self._details.task_id)
                except NanoBananaError as error:
                    self._fresh = error.with_traceback(None)
        return self._fresh.image_urls(index) if isinstance(self._fresh, TaskDetails) else None
