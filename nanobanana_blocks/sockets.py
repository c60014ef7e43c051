"""The sockets that this package's servers listen on, and the address that leads to one."""

from __future__ import annotations

import ipaddress
import socket

from nanobanana_blocks.errors import NanoBananaError


def listen(host: str, port: int, error: type[NanoBananaError]) -> socket.socket:
    """Listen on `host` and `port` (0 takes a free one), or raise an `error` that says why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as failure:
        reason = failure.strerror or failure
        raise error(f"cannot listen on {host}:{port}: {reason}; choose another port") from None
    # Connections inherit it. asyncio sets it only on sockets made otherwise, and without it an
    # answer may wait some 40 ms for the peer's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket) -> str:
    """The http URL of a listening socket, as seen from this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
