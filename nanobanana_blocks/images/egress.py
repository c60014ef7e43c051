"""Where images may be fetched from: rules for URLs and for the addresses that are connected to.

It decides; connecting is `transport`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from nanobanana_blocks.addresses import Reach
from nanobanana_blocks.errors import ForbiddenAddress


@dataclass(frozen=True)
class EgressRules:
    """Where images may be fetched from, decided by where the API is.

    With a public API: https on public addresses. With an API on a private address, private
    addresses as well; with one on loopback, loopback addresses and plain http as well. An API that
    is given by name counts as public, but its own host may have any address except those that no
    API can have (link-local, multicast, metadata services).

    A URL with a user name or password is refused. So is a port below 1024 other than 443, unless
    the API is not public: those belong to other services than web servers.
    """

    reach: Reach
    api_host: str

    @classmethod
    def for_api(cls, base_url: str) -> EgressRules:
        """Return the rules for the API at `base_url`."""
        host = httpx.URL(base_url).raw_host.decode("ascii").lower().rstrip(".")
        reach = Reach.of_host(host)
        return cls(reach if reach in (Reach.LOOPBACK, Reach.PRIVATE) else Reach.PUBLIC, host)

    def check_url(self, url: httpx.URL) -> None:
        """Raise `ForbiddenAddress` if the URL itself tells that it leads where it must not."""
        if not _can_be_reached(url):
            raise ForbiddenAddress(f"{redacted(url)}: its host or port cannot be one.")
        schemes = ("https", "http") if self.reach is Reach.LOOPBACK else ("https",)
        if url.scheme not in schemes or not url.host:
            raise ForbiddenAddress(
                f"an image URL must be {' or '.join(schemes)}; {redacted(url)} is "
                f"{url.scheme or 'none'!r}."
            )
        if url.userinfo:
            raise ForbiddenAddress(f"an image URL on {url.host} holds a user name or password.")
        if self.reach is Reach.PUBLIC and url.port is not None and url.port < 1024:
            raise ForbiddenAddress(f"an image URL leads to port {url.port} of {url.host}.")

    def check_address(self, host: str, address: str) -> None:
        """Raise `ForbiddenAddress` unless `address`, which `host` resolves to, may be connected."""
        reach = Reach.of(address)
        own = host.lower().rstrip(".") == self.api_host and reach is not Reach.NOWHERE
        if not own and reach not in (Reach.PUBLIC, self.reach):
            raise ForbiddenAddress(
                f"{host} has the {_ADJECTIVES[reach]} address {address}, where images are not "
                "fetched from unless the API is there, too."
            )


_ADJECTIVES = {
    Reach.PUBLIC: "public",
    Reach.PRIVATE: "private",
    Reach.LOOPBACK: "loopback",
    Reach.NOWHERE: "reserved",
}


def _can_be_reached(url: httpx.URL) -> bool:
    try:
        host = url.host.rstrip(".")
    except UnicodeError:
        return False
    named = ":" in host or all(0 < len(label) < 64 for label in host.split("."))
    return named and 0 < (url.port or 443) < 65536


def redacted(url: httpx.URL) -> str:
    """Host and path, which say enough in an error; a query may be a signature."""
    path = url.raw_path.partition(b"?")[0].decode("ascii", "replace")
    return f"{url.raw_host.decode('ascii', 'replace')}{path}"[:150]
