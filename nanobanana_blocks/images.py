"""Fetching images from URLs that others wrote: without a key, past no wall, and only sound ones.

It holds a fetched image in memory for as long as its caller needs it; storing it, and deciding
which URL to try, is done elsewhere. Four parts: where it may connect (`EgressRules`), how many
bytes are held at a time (`ByteBudget`), what is an image (`verify_image`), and `ImageDownloader`.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import math
import os
import random
import re
import socket
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import anyio
import httpcore
import httpx
from PIL import Image

from nanobanana_blocks._version import __version__
from nanobanana_blocks.errors import (
    ForbiddenAddress,
    ImageError,
    ImageRejected,
    ImageUnavailable,
)

if TYPE_CHECKING:
    from httpcore import SOCKET_OPTION

_T = TypeVar("_T")

MEBIBYTE = 2**20
USER_AGENT = f"nanobanana-blocks/{__version__}"
MOST_REDIRECTS = 5
THUMBNAIL_SIDE = 160
"""About how many pixels the longer side of a thumbnail has."""


class ImageGone(ImageUnavailable):
    """Raised when the host answers that this URL does not give the image (any more): 403, 404, 410
    or another 4xx. A fresh URL from record-info may."""


# --- where it may connect -----------------------------------------------------------------------

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name; `socket.gaierror` where there are none."""


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
        if host == "localhost" or host.endswith(".localhost"):
            return cls(Reach.LOOPBACK, host)
        reach = Reach.of(host)
        return cls(reach if reach in (Reach.LOOPBACK, Reach.PRIVATE) else Reach.PUBLIC, host)

    def check_url(self, url: httpx.URL) -> None:
        """Raise `ForbiddenAddress` if the URL itself tells that it leads where it must not."""
        schemes = ("https", "http") if self.reach is Reach.LOOPBACK else ("https",)
        if url.scheme not in schemes or not url.host:
            raise ForbiddenAddress(
                f"an image URL must be {' or '.join(schemes)}; {_shown(url)} is "
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


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
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
        except OSError:
            addresses = []
        if not addresses:
            raise httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            self._rules.check_address(host, address)
        return addresses


# --- how many bytes are held --------------------------------------------------------------------


class ByteBudget:
    """A number of bytes shared by all who hold some, given out first come, first served."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        """Bytes that nobody holds."""
        return self._free

    def hold(self) -> Reservation:
        """Return a reservation that holds nothing yet."""
        return Reservation(self)

    async def _take(self, size: int) -> int:
        wanted = min(size, self._capacity)
        if not self._waiting and wanted <= self._free:
            self._free -= wanted
            return wanted
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._free += wanted
            self._grant()
            raise
        return wanted

    def _give_back(self, size: int) -> None:
        self._free += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            wanted, granted = self._waiting[0]
            if not granted.done():
                if wanted > self._free:
                    return
                self._free -= wanted
                granted.set_result(None)
            self._waiting.popleft()


class Reservation:
    """Bytes of a budget that are held until given back."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    async def take(self, size: int) -> None:
        """Wait for `size` bytes; more than the whole budget counts as the whole budget."""
        self._size += await self._budget._take(size)

    def shrink(self, size: int) -> None:
        """Keep at most `size` bytes and give the rest back."""
        surplus = max(0, self._size - size)
        self._size -= surplus
        self._budget._give_back(surplus)

    def release(self) -> None:
        """Give all bytes back; doing so again does nothing."""
        self.shrink(0)


# --- what is an image ---------------------------------------------------------------------------


@dataclass(frozen=True)
class VerifiedImage:
    """A whole image that decodes.

    `media_type` and `extension` (without a dot) are by content, whatever URL and headers said.
    `width` and `height` are in pixels, `sha256` in hexadecimal digits. `thumbnail` is a small JPEG,
    where one was asked for and could be made.
    """

    data: bytes = field(repr=False)
    media_type: str
    extension: str
    width: int
    height: int
    sha256: str
    thumbnail: bytes | None = field(default=None, repr=False)


class _CutShort(ImageRejected):
    """Raised when an image ends too early, as it does when a connection broke unnoticed."""


@dataclass(frozen=True)
class _Format:
    name: str
    media_type: str
    extension: str
    signature: re.Pattern[bytes]
    is_whole: Callable[[bytes], bool]


def verify_image(data: bytes, *, max_pixels: int, thumbnail: bool = False) -> VerifiedImage:
    """Return the image that `data` is; all of it is decoded, of an animation the first frame.

    Its size in pixels is read from its header and compared before anything is decoded.

    Raises:
        ImageRejected: It is no PNG, JPEG, WebP, GIF or (where Pillow reads it) AVIF, is cut short,
            is damaged, or has more than `max_pixels` pixels.
    """
    if not data:
        raise _CutShort("the answer is empty.")
    known = next((found for found in _FORMATS if found.signature.match(data)), None)
    if known is None:
        raise ImageRejected(f"the answer is not an image but {_kind_of_text(data)}.")
    if not known.is_whole(data):
        raise _CutShort(f"the {known.name} is cut short or damaged ({len(data):,} bytes came).")
    try:
        # Pillow raises nearly anything on hostile bytes. Its warnings are left alone, for turning
        # them into errors is not safe under threads; they concern metadata, or a size that is
        # compared below.
        image = Image.open(BytesIO(data), formats=[known.name])
        _check_pixels(image, max_pixels)
        image.load()
    except ImageError:
        raise
    except Exception as error:
        kind = _CutShort if "truncated" in str(error) else ImageRejected
        raise kind(f"the {known.name} does not decode ({type(error).__name__}).") from None
    return VerifiedImage(
        data=data,
        media_type=known.media_type,
        extension=known.extension,
        width=image.width,
        height=image.height,
        sha256=hashlib.sha256(data).hexdigest(),
        thumbnail=_thumbnail(image) if thumbnail else None,
    )


def _check_pixels(image: Image.Image, most: int) -> None:
    if image.width * image.height > most:
        raise ImageRejected(
            f"the image has {image.width:,} × {image.height:,} pixels, more than {most:,} in all."
        )


def _thumbnail(image: Image.Image) -> bytes | None:
    """A small JPEG of a decoded image; None where that fails, for an image is worth more."""
    try:
        plain = image if image.mode in ("RGB", "L") else image.convert("RGB")
        small = plain.reduce(max(1, math.ceil(max(image.size) / THUMBNAIL_SIDE)))
        out = BytesIO()
        small.save(out, "JPEG", quality=70)
    except Exception:
        return None
    return out.getvalue()


def _kind_of_text(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    return "JSON" if start.startswith((b"{", b"[")) else "something else"


def _jpeg_is_whole(data: bytes) -> bool:
    # An end marker cannot occur inside the scan data, but thumbnails before it have their own; what
    # follows it is padding, or what cameras append.
    end = b"\xff\xd9"
    return data.endswith(end) or data.rfind(end) > data.rfind(b"\xff\xda")


def _png_is_whole(data: bytes) -> bool:
    view, start = memoryview(data), 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 12 + length
        if end > len(data):
            return False
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[start + 4 : end - 4]) != checksum:
            return False
        if data[start + 4 : start + 8] == b"IEND":
            return True
        start = end
    return False


def _gif_is_whole(data: bytes) -> bool:
    return data.rstrip(b"\0").endswith(b"\x3b")


def _webp_is_whole(data: bytes) -> bool:
    return len(data) >= int.from_bytes(data[4:8], "little") + 8


def _avif_is_whole(data: bytes) -> bool:
    start = 0
    while start + 8 <= len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        if size == 1:
            size = int.from_bytes(data[start + 8 : start + 16], "big")
        if size < 8:
            return size == 0
        start += size
    return start == len(data)


_FORMATS = (
    _Format("JPEG", "image/jpeg", "jpg", re.compile(rb"\xff\xd8\xff"), _jpeg_is_whole),
    _Format("PNG", "image/png", "png", re.compile(rb"\x89PNG\r\n\x1a\n"), _png_is_whole),
    _Format("WEBP", "image/webp", "webp", re.compile(rb"RIFF....WEBP", re.DOTALL), _webp_is_whole),
    _Format("GIF", "image/gif", "gif", re.compile(rb"GIF8[79]a"), _gif_is_whole),
    _Format(
        "AVIF", "image/avif", "avif", re.compile(rb"....ftypavi[fs]", re.DOTALL), _avif_is_whole
    ),
)


# --- fetching -----------------------------------------------------------------------------------


class ImageDownloader:
    """Fetches images, some at a time, and holds them within a budget; an async context manager.

    It sends no key, cookie or referrer, and asks no proxy, since a proxy would choose the address
    that is connected to. It asks for unencoded bodies; gzip and deflate are undone where they come
    nevertheless. At most 5 redirects are followed, each checked like the URL itself.

    Attributes:
        rules: Where it may connect.
        budget: The bytes that all images fetched and not yet let go of may have together. Decoding
            needs more: 4 bytes a pixel for each of at most 4 threads.
    """

    def __init__(
        self,
        rules: EgressRules,
        *,
        max_bytes: int = 64 * MEBIBYTE,
        max_pixels: int = 2**26,
        budget_bytes: int = 256 * MEBIBYTE,
        connections: int = 8,
        seconds_per_image: float = 120.0,
        connect_seconds: float = 10.0,
        read_seconds: float = 20.0,
        attempts: int = 3,
        first_pause_seconds: float = 0.5,
        resolver: Resolver = _resolve,
    ) -> None:
        """All limits hold for one image, except `budget_bytes` and `connections`.

        Args:
            rules: Where it may connect.
            max_bytes: The largest image, in bytes.
            max_pixels: The largest image, in pixels.
            budget_bytes: Bytes held at a time.
            connections: Connections at a time; several small ones are slower than few.
            seconds_per_image: Time for one image over all attempts, without the waiting for a
                connection, for bytes of the budget, and for a thread to verify it.
            connect_seconds: Time to find an address and connect to it.
            read_seconds: Time between two pieces of a body.
            attempts: Attempts at one URL, where another may help.
            first_pause_seconds: Pause after the first failed attempt; it doubles after each.
            resolver: How host names are resolved.
        """
        self.rules = rules
        self.budget = ByteBudget(budget_bytes)
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._seconds = seconds_per_image
        self._attempts = attempts
        self._first_pause = first_pause_seconds
        self._network = _GuardedNetwork(rules, resolver)
        self._slots = asyncio.Semaphore(connections)
        self._connections = connections
        self._timeouts = {
            "connect": connect_seconds,
            "read": read_seconds,
            "write": read_seconds,
            "pool": None,
        }
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._threads = ThreadPoolExecutor(
            min(4, os.cpu_count() or 1), thread_name_prefix="nanobanana-verify"
        )

    async def __aenter__(self) -> ImageDownloader:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=await self._in_thread(httpx.create_ssl_context),
            # The semaphore limits them. The pool's own limit would count a connection for ever whose
            # request was cancelled just before it connected (seen with httpcore 1.0.9).
            max_connections=None,
            max_keepalive_connections=self._connections,
            keepalive_expiry=5.0,
            network_backend=self._network,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._pool is not None:
            await self._pool.aclose()

    @asynccontextmanager
    async def fetch(
        self, url: str, *, task_id: str, thumbnail: bool = False
    ) -> AsyncIterator[VerifiedImage]:
        """Fetch and verify the image at `url`, and hold its bytes until the context is left.

        Leave the context before entering another: who waits for bytes while holding some can wait
        for ever.

        Raises:
            ImageGone: The host answered 403, 404, 410 or another 4xx.
            ImageUnavailable: The host failed, or was out of reach or time, after all attempts.
            ImageRejected: What came is not a whole, sound image within the limits.
            ForbiddenAddress: The URL, or a redirect, leads where it must not.
        """
        held = self.budget.hold()
        try:
            yield await self._translated(self._fetch(url, held, thumbnail=thumbnail), task_id)
        finally:
            held.release()

    async def _translated(self, fetching: Awaitable[_T], task_id: str) -> _T:
        try:
            return await fetching
        except ImageError as error:
            kind = _PUBLIC_KINDS.get(type(error), type(error))
            failure = kind(error.message, task_id=task_id)
        # A new error outside of the handler, for the frames of the old one hold signed URLs.
        raise failure

    async def _fetch(self, url: str, held: Reservation, *, thumbnail: bool) -> VerifiedImage:
        try:
            with anyio.fail_after(self._seconds) as limit:
                for attempt in range(self._attempts - 1):
                    with suppress(_TryAgain, _CutShort):
                        return await self._attempt(url, held, limit, thumbnail=thumbnail)
                    held.release()
                    pause = self._first_pause * 2**attempt
                    await anyio.sleep(pause * _JITTER.uniform(0.5, 1.0))
                return await self._attempt(url, held, limit, thumbnail=thumbnail)
        except TimeoutError:
            raise ImageUnavailable(
                f"the image did not arrive within {self._seconds:g} s. Run again later."
            ) from None

    async def _attempt(
        self, url: str, held: Reservation, limit: anyio.CancelScope, *, thumbnail: bool
    ) -> VerifiedImage:
        with _paused(limit):
            await self._slots.acquire()
        try:
            body = await self._download(url, held, limit)
        finally:
            self._slots.release()
        with _paused(limit):
            image = await self._in_thread(self._verify, body, thumbnail)
        held.shrink(len(image.data))
        return image

    async def _download(self, url: str, held: Reservation, limit: anyio.CancelScope) -> _Body:
        """Follow `url` to its image and return that, as it came."""
        target = _parsed(url)
        try:
            for _ in range(MOST_REDIRECTS + 1):
                self.rules.check_url(target)
                async with self._request(target) as response:
                    if response.status == 200:
                        return await self._receive(target, response, held, limit)
                    target = _next_url(target, response)
        except httpcore.TimeoutException as error:
            raise _TryAgain(
                f"{_shown(target)} did not answer in time ({type(error).__name__})."
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise _TryAgain(
                f"the connection to {_shown(target)} failed ({type(error).__name__})."
            ) from None
        raise ImageUnavailable(f"{_shown(target)}: more than {MOST_REDIRECTS} redirects.")

    @asynccontextmanager
    async def _request(self, url: httpx.URL) -> AsyncIterator[httpcore.Response]:
        if self._pool is None:
            raise RuntimeError("use `async with` before fetching")
        async with self._pool.stream(
            "GET",
            httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=[
                (b"Host", url.netloc),
                (b"User-Agent", USER_AGENT.encode()),
                (b"Accept", b"image/*"),
                (b"Accept-Encoding", b"identity"),
            ],
            extensions={"timeout": self._timeouts},
        ) as response:
            yield response

    async def _receive(
        self,
        url: httpx.URL,
        response: httpcore.Response,
        held: Reservation,
        limit: anyio.CancelScope,
    ) -> _Body:
        declared = _declared_length(response)
        _check_length(url, declared or 0, self._max_bytes)
        encoding = _header(response, b"content-encoding").lower().replace("identity", "")
        with _paused(limit):
            await held.take(self._max_bytes if declared is None or encoding else declared)
        chunks, received = [], 0
        async for chunk in response.aiter_stream():
            received += len(chunk)
            _check_length(url, received, self._max_bytes)
            chunks.append(chunk)
        return _Body(url=url, data=b"".join(chunks), encoding=encoding)

    def _verify(self, body: _Body, thumbnail: bool) -> VerifiedImage:
        data = body.data
        if body.encoding:
            data = _decoded(body, self._max_bytes)
        try:
            return verify_image(data, max_pixels=self._max_pixels, thumbnail=thumbnail)
        except ImageRejected as error:
            raise type(error)(f"{_shown(body.url)}: {error.message}") from None

    async def _in_thread(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


@dataclass(frozen=True)
class _Body:
    """The answer to a request for an image, still encoded as it came."""

    url: httpx.URL
    data: bytes
    encoding: str


class _TryAgain(ImageUnavailable):
    """Raised where another attempt at the same URL may help."""


_PUBLIC_KINDS: dict[type[ImageError], type[ImageError]] = {
    _CutShort: ImageRejected,
    _TryAgain: ImageUnavailable,
}
_JITTER = random.SystemRandom()


@contextmanager
def _paused(limit: anyio.CancelScope) -> Iterator[None]:
    """Stop the clock of a time limit while waiting for what this process has too little of."""
    remaining = limit.deadline - anyio.current_time()
    limit.deadline = math.inf
    try:
        yield
    finally:
        limit.deadline = anyio.current_time() + remaining


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ImageUnavailable("the API gives an image URL that is not a URL.") from None


def _next_url(url: httpx.URL, response: httpcore.Response) -> httpx.URL:
    """Where a response without an image redirects to; what else it means is raised."""
    status = response.status
    if status in (408, 425, 429) or status >= 500:
        raise _TryAgain(f"{_shown(url)} answered {status}.")
    if 400 <= status < 500:
        raise ImageGone(f"{_shown(url)} answered {status}: expired, gone or refused.")
    location = _header(response, b"location")
    if status not in (301, 302, 303, 307, 308) or not location:
        raise ImageUnavailable(f"{_shown(url)} answered {status} and no image.")
    try:
        return url.join(location)
    except httpx.InvalidURL:
        raise ImageUnavailable(f"{_shown(url)} redirects to what is not a URL.") from None


def _shown(url: httpx.URL) -> str:
    """Host and path, which say enough in an error; a query may be a signature."""
    path = url.raw_path.partition(b"?")[0].decode("ascii", "replace")
    return f"{url.host}{path}"[:150]


def _header(response: httpcore.Response, name: bytes) -> str:
    values = (value for key, value in response.headers if key.lower() == name)
    return next(values, b"").decode("latin-1").strip()


def _declared_length(response: httpcore.Response) -> int | None:
    length = _header(response, b"content-length")
    return int(length) if length.isdecimal() else None


def _check_length(url: httpx.URL, length: int, most: int) -> None:
    if length > most:
        raise ImageRejected(f"{_shown(url)}: larger than {most:,} bytes.")


def _decoded(body: _Body, max_bytes: int) -> bytes:
    if body.encoding not in ("gzip", "x-gzip", "deflate"):
        raise ImageRejected(f"{_shown(body.url)}: encoded in a way that was not asked for.")
    decoder = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    try:
        data = decoder.decompress(body.data, max_bytes + 1)
    except zlib.error:
        raise ImageRejected(f"{_shown(body.url)}: its {body.encoding} is damaged.") from None
    _check_length(body.url, len(data), max_bytes)
    if not decoder.eof:
        raise _CutShort(f"{_shown(body.url)}: its {body.encoding} is cut short.")
    return data
