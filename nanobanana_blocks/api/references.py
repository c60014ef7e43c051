"""Whether the service can fetch a request's reference images, as far as their URLs say it.

Nothing is resolved or fetched: what only the service can find out, it says in the task's failure.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import urlsplit

from nanobanana_blocks.addresses import Reach
from nanobanana_blocks.api.requests import GenerationRequest, is_url
from nanobanana_blocks.errors import InvalidInput


def check_references(request: GenerationRequest, base_url: str) -> None:
    """Refuse a reference image that the API at `base_url` can never fetch, before it is paid for.

    A public API cannot fetch from loopback, private and reserved addresses; an API on loopback or
    in a private network may well.

    Raises:
        InvalidInput: Such an image, by its position and the host of its URL; or one that is no URL.
    """
    for number, image in enumerate(request.image_urls or (), 1):
        if not is_url(image):
            raise InvalidInput(
                f"image {number} is a file, which the service cannot fetch by itself. Submit it "
                "with a task, a batch or the command `nanobanana generate`, which make it "
                "reachable; or give its URL. Nothing was sent."
            )
    if problem := unfetchable_reference(request, base_url):
        raise InvalidInput(f"{problem}. Nothing was sent.")


def unfetchable_reference(request: GenerationRequest, base_url: str) -> str | None:
    """What is wrong with the first URL that the API can never fetch, if one is."""
    for number, image in enumerate(request.image_urls or (), 1):
        if is_url(image) and (where := beyond_reach(image, base_url)):
            return (
                f"image URL {number} is on {where} that the service cannot fetch from: upload the "
                "image to where it is public"
            )
    for name, url in request.urls_in_own_fields:
        if where := beyond_reach(url, base_url):
            return (
                f"fields: the URL in {name} is on {where} that the service cannot fetch from: "
                "upload the file to where it is public"
            )
    return None


def beyond_reach(url: str, base_url: str) -> str | None:
    """The host of a URL and its kind of address, where the API at `base_url` cannot fetch it."""
    if _reach(base_url) is not Reach.PUBLIC:
        return None
    reach = _reach(url)
    if reach is Reach.PUBLIC:
        return None
    kind = "reserved" if reach is Reach.NOWHERE else reach.value
    return f"{_host(url) or 'no host'}, a {kind} address"


def _reach(url: str) -> Reach:
    host = _host(url)
    return Reach.of_host(host) if host else Reach.NOWHERE


def _host(url: str) -> str:
    """The host as HTTP clients read it, for whom full-width digits and dots are plain ones."""
    try:
        return unicodedata.normalize("NFKC", urlsplit(url).hostname or "")
    except ValueError:
        return ""
