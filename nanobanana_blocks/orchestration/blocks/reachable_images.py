"""A single request whose images may be files: made ready to be sent; nothing is remembered."""

from __future__ import annotations

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.orchestration.blocks.image_store import find_saved_location, public_place
from nanobanana_blocks.references import SourceFinder, open_references
from nanobanana_blocks.storage.destination import StorageLocation


async def with_reachable_images(
    request: GenerationRequest,
    client: NanoBananaClient,
    references: str | None,
    timeout: float = 0.0,
) -> GenerationRequest:
    """A request as it is sent: with URLs that the service can fetch. It may hold secrets.

    Args:
        request: What to generate; its images may be URLs, paths or ``store-block/path``.
        client: Asks the API.
        references: Name of an ImageStore with a public URL, where copies go; else files are
            uploaded, where the credentials say so, or signed.
        timeout: Seconds for which its generation task is waited for; signed URLs outlive it.

    Raises:
        UnusableReference: The service would not get one of the images; each is told.
    """
    if not request.image_urls:
        return request
    async with open_references(
        SourceFinder(StorageLocation("."), None, find_saved_location),
        None,
        base_url=client.base_url,
        timeout=timeout,
        public=await public_place(references),
        uploads=client.uploads,
    ) as images:
        return await images.ready(request)
