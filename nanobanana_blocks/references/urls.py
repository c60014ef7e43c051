"""Whether URLs give an image to the service: asked as a stranger would, before anything is spent.

What only the service can find out stops nothing: a host that we cannot reach, it may.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

import httpx

from nanobanana_blocks.api.references import beyond_reach
from nanobanana_blocks.errors import (
    ForbiddenAddress,
    ImageError,
    ImageGone,
    ImageUnavailable,
    UnusableReference,
)
from nanobanana_blocks.images import Probed, UrlProbe
from nanobanana_blocks.references.inspection import EXTENSIONS, MAX_BYTES

_logger = logging.getLogger(__name__)


class UrlChecks:
    """Checks URLs that others wrote, and those that were made for files.

    Args:
        probe: Asks for their first bytes.
        base_url: The API, which decides what can be fetched.
    """

    def __init__(self, probe: UrlProbe, base_url: str) -> None:
        self._probe = probe
        self._base_url = base_url
        self._out_of_reach: set[str] = set()

    def where_beyond_reach(self, url: str) -> str | None:
        """The host of a URL and its kind of address, where the service cannot fetch from it."""
        return beyond_reach(url, self._base_url)

    async def problem(self, url: str) -> str | None:
        """Why the service would not get a URL that somebody gave, as far as can be found out."""
        if where := self.where_beyond_reach(url):
            return f"is on {where} that the service cannot fetch from"
        host = urlsplit(url).netloc
        if host in self._out_of_reach:
            return None
        try:
            _require_kind(await self._probed(url))
        except ImageUnavailable as error:
            if isinstance(error, ImageGone):
                return error.message
            if host not in self._out_of_reach:  # nothing else of it is asked for
                self._out_of_reach.add(host)
                _logger.warning(
                    "Could not check the images to work from on a host; continuing, for the "
                    "service may reach it: %s",
                    error,
                )
        except (ImageError, UnusableReference) as error:
            return error.message
        return None

    async def _probed(self, url: str) -> Probed | None:
        """What a stranger gets of a URL; None where the rules forbid to ask."""
        try:
            self._probe.rules.check_url(httpx.URL(url))
        except (ForbiddenAddress, httpx.InvalidURL):  # http, for one, which the service may fetch
            return None
        return await self._probe.probe(url)

    async def require(self, url: str, shown: str, made: str, next_step: str) -> None:
        """Make sure that a URL that was made for a file gives it to the world.

        Args:
            url: The URL, which is not shown.
            shown: What the file is called.
            made: What the URL is called.
            next_step: What to do where it does not.

        Raises:
            UnusableReference: It does not.
        """
        if where := self.where_beyond_reach(url):
            raise UnusableReference(
                f"{shown} cannot be sent: {made} is on {where} that the service cannot fetch from. "
                f"{next_step}"
            )
        try:
            await self._probe.probe(url)
        except ImageError as error:
            raise UnusableReference(
                f"{shown} cannot be sent: {made} does not give it to the world, for "
                f"{error.message} {next_step}"
            ) from None


def _require_kind(probed: Probed | None) -> None:
    if probed is None:
        return
    if probed.media_type not in EXTENSIONS:
        kind = probed.media_type.partition("/")[2].upper()
        raise UnusableReference(f"is a {kind}, and the service takes JPEG, PNG and WebP")
    if probed.size is not None and probed.size > MAX_BYTES:
        raise UnusableReference(
            f"has {probed.size:,} bytes, and the service takes {MAX_BYTES:,} at most"
        )
