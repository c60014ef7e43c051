"""The connections that images come over, by httpcore, which only this module uses.

It connects to checked addresses and sends one request; which URL to ask, and what an answer means,
is `download`'s.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import anyio
import httpcore
import httpx

from nanobanana_blocks._version import __version__
from nanobanana_blocks.images.egress import EgressRules
from nanobanana_blocks.pools import PoolPerRequest

if TYPE_CHECKING:
    from httpcore import SOCKET_OPTION

USER_AGENT = f"nanobanana-blocks/{__version__}"

KEPT_HOSTS = 2
"""To how many hosts the connection that a request used is kept: an image may be at two."""

IDLE_SECONDS = 5.0
"""How long a connection without a request is kept."""

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name; `socket.gaierror` where there are none."""


class ConnectionFailed(Exception):
    """Raised where no whole answer came; another attempt may help.

    Attributes:
        kind: The name of the failure, which holds nothing of the request.
        timed_out: Whether it is that a time limit passed.
    """

    def __init__(self, kind: str, *, timed_out: bool) -> None:
        super().__init__(kind)
        self.kind = kind
        self.timed_out = timed_out


class Response:
    """The head of an answer, and its body as it comes."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response
        self.status = response.status

    def header(self, name: bytes) -> str:
        """The value of a header (its name in lower case), empty where it is absent."""
        headers = self._response.headers
        values = (value for key, value in headers if key.lower() == name)
        return next(values, b"").decode("latin-1").strip()

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it was sent, still encoded."""
        return self._response.aiter_stream()


class ImageTransport:
    """Connections to the hosts of images, to addresses that the egress rules allow.

    Args:
        rules: Which addresses may be connected to.
        resolver: Gives the addresses of a host.
        tls: Verifies hosts.
        connect_seconds: Time to connect.
        read_seconds: Time between two pieces of an answer.
    """

    def __init__(
        self,
        rules: EgressRules,
        resolver: Resolver,
        *,
        tls: ssl.SSLContext,
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        self._timeouts = {
            "connect": connect_seconds,
            "read": read_seconds,
            "write": read_seconds,
            "pool": None,
        }
        network = GuardedNetwork(rules, resolver)

        def pool() -> httpcore.AsyncConnectionPool:
            return httpcore.AsyncConnectionPool(
                ssl_context=tls,
                # The caller limits them. The pool's own limit would for ever count a connection
                # whose request was cancelled just before it connected (httpcore 1.0.9).
                max_connections=None,
                max_keepalive_connections=KEPT_HOSTS,
                keepalive_expiry=IDLE_SECONDS,
                network_backend=network,
            )

        self._pools = PoolPerRequest(pool, idle_seconds=IDLE_SECONDS)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pools.aclose()

    @asynccontextmanager
    async def get(self, url: httpx.URL, *, at_most: int | None = None) -> AsyncIterator[Response]:
        """Send one GET without a key, cookie or referrer; redirects are not followed.

        Args:
            url: What to ask for.
            at_most: How many bytes are wanted, from the first; a host may send more.

        Raises:
            ConnectionFailed: No whole answer came, also while the body is read.
            ForbiddenAddress: The host has an address that must not be connected to.
        """
        _fetching.set(True)
        try:
            async with (
                self._pools.taken() as pool,
                pool.stream(
                    "GET",
                    httpcore.URL(
                        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=[
                        (b"Host", url.netloc),
                        (b"User-Agent", USER_AGENT.encode()),
                        (b"Accept", b"image/*"),
                        (b"Accept-Encoding", b"identity"),
                        *([(b"Range", b"bytes=0-%d" % (at_most - 1))] if at_most else []),
                    ],
                    extensions={"timeout": self._timeouts},
                ) as response,
            ):
                yield Response(response)
        except httpcore.TimeoutException as error:
            raise ConnectionFailed(type(error).__name__, timed_out=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise ConnectionFailed(type(error).__name__, timed_out=False) from None
        finally:
            _fetching.set(False)


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the operating system gives them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, rather than to names that might change between.

    TLS still verifies the name, which httpcore takes from the URL.
    """

    def __init__(self, rules: EgressRules, resolver: Resolver) -> None:
        self._rules = rules
        self._resolver = resolver
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        *others, last = await self._checked_addresses(host, port, timeout)
        connect = self._network.connect_tcp
        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await connect(address, port, timeout, local_address, socket_options)
        return await connect(last, port, timeout, local_address, socket_options)

    async def _checked_addresses(
        self, host: str, port: int, timeout: float | None
    ) -> Sequence[str]:
        try:
            with anyio.fail_after(timeout):
                addresses = await self._resolver(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no address of {host} in time") from None
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            self._rules.check_address(host, address)
        return addresses


_fetching: ContextVar[bool] = ContextVar("fetching an image", default=False)


def _without_signatures(record: logging.LogRecord) -> bool:
    """Drop what httpcore logs at DEBUG of our fetches: a redirect's target may be signed."""
    return not (_fetching.get() and record.levelno <= logging.DEBUG)


for _name in ("httpcore.connection", "httpcore.http11"):
    logging.getLogger(_name).addFilter(_without_signatures)
