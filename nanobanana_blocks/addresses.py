"""How far away a host is: public, private, this machine, or none that can be connected to.

The one rule for all who ask; it resolves no names.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from enum import Enum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(Enum):
    """How far away an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    NOWHERE = "nowhere"

    @classmethod
    def of(cls, address: str) -> Reach:
        """Return the reach of an IP address; what is not one, or is made for no host, is NOWHERE.

        An IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4) counts as the latter.
        """
        try:
            found = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:
            return cls.NOWHERE
        if found in _METADATA_SERVICES or found.is_link_local or found.is_multicast:
            return cls.NOWHERE
        if found.is_loopback:
            return cls.LOOPBACK
        if any(found in network for network in _PRIVATE_NETWORKS):
            return cls.PRIVATE
        return cls.PUBLIC if found.is_global and not found.is_reserved else cls.NOWHERE

    @classmethod
    def of_host(cls, host: str) -> Reach:
        """Return the reach of a URL's host, as far as the host itself says it.

        `localhost` and names below it are LOOPBACK (RFC 6761). Numbers that resolvers read as an
        IPv4 address, such as `127.1` and `0x7f000001`, count as that address. Any other name counts
        as PUBLIC: what it resolves to is known only when it is connected to.
        """
        name = host.lower().removesuffix(".").strip("[]")
        if name == "localhost" or name.endswith(".localhost"):
            return cls.LOOPBACK
        if ":" in name:
            return cls.of(name)
        if not _IPV4_AS_RESOLVERS_READ_IT.fullmatch(name):
            return cls.PUBLIC
        try:
            return cls.of(socket.inet_ntoa(socket.inet_aton(name)))
        except OSError:
            return cls.NOWHERE


def is_private_host(host: str) -> bool:
    """Whether `host` is this machine or an address of a private network."""
    return Reach.of_host(host) in (Reach.LOOPBACK, Reach.PRIVATE)


_IPV4_AS_RESOLVERS_READ_IT = re.compile(
    r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", re.ASCII
)


_PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


_METADATA_SERVICES = frozenset(
    # Outside the link-local range: Alibaba's, Azure's, and Amazon's over IPv6.
    ipaddress.ip_address(address)
    for address in ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")
)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _unwrapped(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
