"""Fetches the images that a request works from as the service does: from outside, without keys.

What it cannot get, or what is no JPEG, PNG or WebP of 30 MB at most, it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from nanobanana_blocks.sandbox.submits import RefusedSubmitError
from nanobanana_blocks.tls import trusted_authorities

if TYPE_CHECKING:
    from nanobanana_blocks.sandbox.state import SandboxState

MAX_BYTES = 30_000_000
FETCH_SECONDS = 20.0
SIGNS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")


class ReferenceFetcher:
    """Gets reference images for one `SandboxState`, and counts them."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state

    async def fetch(self, body: dict[str, Any]) -> None:
        """Get every image of a request, or raise `RefusedSubmitError` for the first that fails."""
        urls = body.get("imageUrls") or []
        if not urls:
            return
        counts = self._state.counts  # of before a reset that comes meanwhile
        async with httpx.AsyncClient(
            timeout=FETCH_SECONDS,
            follow_redirects=True,
            trust_env=False,
            verify=trusted_authorities(),
        ) as http:
            for url in urls:
                if problem := await self._problem(http, url):
                    counts.references_refused += 1
                    raise RefusedSubmitError(400, f"Failed to fetch the image {url}: {problem}")
                counts.references_fetched += 1

    async def _problem(self, http: httpx.AsyncClient, url: str) -> str | None:
        try:
            async with http.stream("GET", url, headers={"user-agent": "sandbox"}) as response:
                if response.status_code != 200:
                    return f"HTTP {response.status_code}"
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_BYTES:
                        return "larger than 30 MB"
        except httpx.HTTPError as error:
            return type(error).__name__
        if not bytes(data[:8]).startswith(SIGNS):
            return "not a JPEG, PNG or WebP"
        return None
