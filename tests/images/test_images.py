"""Fetching images: only sound ones, only from where it may, never more bytes than the budget."""

from __future__ import annotations

import asyncio
import gzip
import io
import pickle
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from nanobanana_blocks.addresses import Reach
from nanobanana_blocks.errors import (
    ForbiddenAddress,
    ImageError,
    ImageGone,
    ImageRejected,
    ImageUnavailable,
)
from nanobanana_blocks.images.download import ImageDownloader
from nanobanana_blocks.images.egress import EgressRules
from nanobanana_blocks.images.limits import ByteBudget
from nanobanana_blocks.images.transport import USER_AGENT
from nanobanana_blocks.images.verification import verify_image
from tests.support.certificates import certificate_for, serving
from tests.support.until import until

MAX_PIXELS = 2**20
SECRET = "Signature=s3cr3t"


def encoded(kind: str, size: tuple[int, int] = (64, 48), **settings: object) -> bytes:
    out = io.BytesIO()
    picture = Image.effect_noise(size, 80).convert("RGB")
    picture.save(out, kind, **settings)
    return out.getvalue()


JPEG = encoded("JPEG")
PNG = encoded("PNG")

Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(
    body: bytes = b"", status: str = "200 OK", *, length: int | None = -1, **headers: str
) -> Respond:
    """A response; `length` is the Content-Length that it states, by default the true one."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", "Connection: close"]
        if length is not None:
            lines.append(f"Content-Length: {len(body) if length < 0 else length}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return respond


class Server:
    """A web server that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Respond]] = {}
        self.requests: list[str] = []
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def on(self, path: str, *answers: Respond) -> str:
        """Give these answers in turn, the last one ever after; return the signed URL."""
        self.answers[path] = list(answers)
        return self.url(f"{path}?{SECRET}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            answers = self.answers[head.split()[1].partition("?")[0]]
            await (answers.pop(0) if len(answers) > 1 else answers[0])(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listener.sockets[0].getsockname()[1]
    yield made
    listener.close()


@asynccontextmanager
async def downloader(**limits: object) -> AsyncIterator[ImageDownloader]:
    rules = EgressRules.for_api("http://127.0.0.1:9")
    given = {"first_pause_seconds": 0.001, "attempts": 3, "max_pixels": MAX_PIXELS, **limits}
    async with ImageDownloader(rules, **given) as made:  # type: ignore[arg-type]  # many types
        yield made
        assert made.budget.free == 256 * 2**20 or "budget_bytes" in limits


async def failure(url: str, **limits: object) -> ImageError:
    """The error that fetching `url` ends with."""
    async with downloader(**limits) as images:
        with pytest.raises(ImageError) as caught:
            async with images.fetch(url, task_id="task-1"):
                pass
    error = caught.value
    assert error.task_id == "task-1"
    assert SECRET not in str(error) + repr(pickle.loads(pickle.dumps(error)).__dict__)  # noqa: S301
    assert error.__cause__ is None
    assert error.__context__ is None
    return error


# --- sound images -------------------------------------------------------------------------------


async def test_a_sound_image_is_fetched_without_a_key_or_cookie(server: Server) -> None:
    """Rule: the image is given as it came, and the request says who asks and nothing secret."""
    url = server.on("/a.png", answer(JPEG, Set_Cookie="a=b", Content_Type="image/png"))
    async with downloader() as images:
        for _ in range(2):
            async with images.fetch(url, task_id="task-1") as image:
                assert image.data == JPEG
                assert (image.media_type, image.extension) == ("image/jpeg", "jpg")
                assert (image.width, image.height) == (64, 48)
                assert image.sha256 == sha256(JPEG).hexdigest()
                assert image.thumbnail is None
    for request in map(str.lower, server.requests):
        assert f"user-agent: {USER_AGENT}" in request
        assert f"host: 127.0.0.1:{server.port}\r\n" in request
        assert "authorization" not in request
        assert "cookie" not in request


async def test_the_environments_proxy_is_not_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: no proxy chooses the address that is connected to."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    url = server.on("/a", answer(PNG))
    async with downloader() as images, images.fetch(url, task_id="t") as image:
        assert image.extension == "png"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_the_format_is_told_by_content(kind: str) -> None:
    """Rule: media type and extension are those of the content."""
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    data = encoded(kind)
    image = verify_image(data, max_pixels=MAX_PIXELS)
    assert image.media_type == f"image/{kind.lower()}"
    assert image.extension == {"JPEG": "jpg"}.get(kind, kind.lower())
    assert (image.width, image.height, image.data) == (64, 48, data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_cut_image_is_never_accepted(kind: str) -> None:
    """Rule: an image that ends early is refused, wherever it was cut."""
    data = encoded(kind)
    for length in {0, 1, 9, len(data) // 3, len(data) // 2, len(data) - 30, len(data) - 1}:
        with pytest.raises(ImageRejected):
            verify_image(data[:length], max_pixels=MAX_PIXELS)


@given(st.data())
@settings(deadline=None)
def test_a_damaged_png_is_never_accepted(data: st.DataObject) -> None:
    """Rule: a PNG in which one bit is wrong is refused."""
    position = data.draw(st.integers(0, len(PNG) * 8 - 1))
    damaged = bytearray(PNG)
    damaged[position // 8] ^= 1 << position % 8
    with pytest.raises(ImageRejected):
        verify_image(bytes(damaged), max_pixels=MAX_PIXELS)


@given(st.binary(max_size=200), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"]))
@settings(deadline=None)
def test_hostile_bytes_give_nothing_but_a_rejection(data: bytes, signature: bytes) -> None:
    """Rule: whatever Pillow does with hostile bytes, the caller sees `ImageRejected`."""
    with pytest.raises(ImageRejected):
        verify_image(signature + data + b"\xff\xd9;", max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("padding", [b"", b"\0" * 64, b"\xff\xff", b"\r\n", b"appended by a phone"])
def test_what_follows_the_end_of_a_jpeg_does_no_harm(padding: bytes) -> None:
    """Rule: a paid image is not lost for bytes after its end."""
    assert verify_image(JPEG + padding, max_pixels=MAX_PIXELS).data == JPEG + padding


def test_a_jpeg_whose_only_end_is_its_thumbnails_is_cut() -> None:
    """Rule: the end marker of an embedded thumbnail does not count as the image's."""
    exif = b"Exif\0\0" + JPEG
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    whole = JPEG[:2] + segment + JPEG[2:]
    verify_image(whole, max_pixels=MAX_PIXELS)
    with pytest.raises(ImageRejected, match="cut short"):
        verify_image(whole[:-2], max_pixels=MAX_PIXELS)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    """Rule: a small file that would fill the memory is refused by its header."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    for side in (1025, 12_000, 40_000, 2**31 - 1):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        rows = zlib.compress(bytes(2**16))
        bomb = PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        with pytest.raises(ImageRejected, match=r"pixels|does not decode"):
            verify_image(bomb, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "I;16", "LA"])
def test_a_thumbnail_is_a_small_jpeg(mode: str) -> None:
    """Rule: any kind of image can be shown small."""
    out = io.BytesIO()
    Image.new(mode, (600, 300)).save(out, "PNG")
    image = verify_image(out.getvalue(), max_pixels=MAX_PIXELS, thumbnail=True)
    assert image.thumbnail is not None
    small = Image.open(io.BytesIO(image.thumbnail))
    assert (small.format, small.size) == ("JPEG", (150, 75))


# --- faults of the host -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<!DOCTYPE html><title>Sorry</title>", "HTML"),
        (b'{"code": 500}', "JSON"),
        (b"MZ\x90", "something else"),
    ],
)
async def test_a_page_instead_of_an_image_is_rejected_at_once(
    server: Server, body: bytes, says: str
) -> None:
    """Rule: content decides, whatever status and media type say."""
    error = await failure(server.on("/a.png", answer(body, Content_Type="image/png")))
    assert isinstance(error, ImageRejected)
    assert says in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
async def test_an_expired_url_is_told_apart_and_not_tried_again(
    server: Server, status: int
) -> None:
    """Rule: a definite answer is `ImageGone`, so that fresh URLs are asked for."""
    error = await failure(server.on("/a.png", answer(status=f"{status} No")))
    assert isinstance(error, ImageGone)
    assert f"127.0.0.1/a.png answered {status}" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_passing_fault_is_tried_again(server: Server, status: int) -> None:
    """Rule: what may pass is tried three times, and then told as such."""
    url = server.on("/a", answer(status=f"{status} Later"), answer(JPEG))
    async with downloader() as images, images.fetch(url, task_id="t") as image:
        assert image.data == JPEG
    assert len(server.requests) == 2
    server.requests.clear()
    error = await failure(server.on("/a", answer(status=f"{status} Later")))
    assert type(error) is ImageUnavailable
    assert error.retryable
    assert len(server.requests) == 3


async def close_at_once(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(answer(JPEG[:99], length=len(JPEG)), ImageUnavailable, id="shorter than said"),
        pytest.param(answer(JPEG[:-20], length=None), ImageRejected, id="cut where nobody said"),
        pytest.param(answer(), ImageRejected, id="empty"),
        pytest.param(close_at_once, ImageUnavailable, id="connection lost"),
    ],
)
async def test_a_cut_answer_is_tried_again(
    server: Server, fault: Respond, kind: type[ImageError]
) -> None:
    """Rule: half an image is never given out; another attempt gets the whole one."""
    url = server.on("/a", fault, fault, answer(JPEG))
    async with downloader() as images, images.fetch(url, task_id="t") as image:
        assert image.data == JPEG
    assert len(server.requests) == 3
    assert type(await failure(server.on("/a", fault))) is kind
    assert len(server.requests) == 6


async def test_an_endless_body_ends_at_the_limit(server: Server) -> None:
    """Rule: no more than `max_bytes` are taken, whether the length is stated or not."""

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + JPEG[:50])
        while True:
            writer.write(bytes(2**16))
            await writer.drain()

    error = await failure(server.on("/a", endless), max_bytes=2**20)
    assert "larger than 1,048,576 bytes" in str(error)
    error = await failure(server.on("/b", answer(JPEG, length=2**20 + 1)), max_bytes=2**20)
    assert "larger than 1,048,576 bytes" in str(error)


async def test_a_dripping_body_ends_at_the_time_limit(server: Server) -> None:
    """Rule: a body that always gives one more byte in time has an end."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"\xff")
            await writer.drain()
            await asyncio.sleep(0.01)

    error = await failure(server.on("/a", drip), seconds_per_image=0.1)
    assert type(error) is ImageUnavailable
    assert "within 0.1 s" in str(error)


async def test_a_silent_url_does_not_take_the_time_of_another(server: Server) -> None:
    """Rule: of several URLs each is tried before one is tried again, and one that says no for good
    is not."""

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    dead, mute = server.on("/dead", answer(status="404 Not Found")), server.on("/mute", silent)
    good = server.on("/good", close_at_once, answer(JPEG))
    urls = (dead, mute, good)
    async with (
        downloader(read_seconds=0.3) as images,
        images.fetch(urls, task_id="t") as image,
    ):
        assert image.data == JPEG
    asked = [request.split()[1].partition("?")[0] for request in server.requests]
    assert asked == ["/dead", "/mute", "/good", "/mute", "/good"]


async def test_a_silent_host_ends_at_the_read_limit(server: Server) -> None:
    """Rule: a host that says nothing is given up and counts as passing."""

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.25)

    error = await failure(server.on("/a", silent), read_seconds=0.02)
    assert type(error) is ImageUnavailable
    assert "in time" in str(error)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", gzip.compress(PNG)), ("deflate", zlib.compress(PNG)), ("identity", PNG)],
)
async def test_an_encoded_body_is_decoded(server: Server, encoding: str, body: bytes) -> None:
    """Rule: an encoding that was not asked for does not cost the image."""
    url = server.on("/a", answer(body, Content_Encoding=encoding))
    async with downloader() as images, images.fetch(url, task_id="t") as image:
        assert image.data == PNG


@pytest.mark.parametrize(
    ("encoding", "body", "says"),
    [
        ("gzip", gzip.compress(bytes(2**22)), "larger"),
        ("gzip", gzip.compress(PNG)[:-9], "cut short"),
        ("gzip", PNG, "damaged"),
        ("br", PNG, "not asked for"),
    ],
)
async def test_a_bad_encoding_is_rejected(
    server: Server, encoding: str, body: bytes, says: str
) -> None:
    """Rule: the limits hold for the decoded body, and a broken encoding is no image."""
    url = server.on("/a", answer(body, Content_Encoding=encoding))
    error = await failure(url, max_bytes=2**20)
    assert type(error) is ImageRejected
    assert says in str(error)


# --- where it may go ----------------------------------------------------------------------------


async def test_redirects_are_followed_to_the_fifth(server: Server) -> None:
    """Rule: five redirects are followed, a loop is not."""
    for step in range(5):
        server.on(f"/{step}", answer(status="302 Found", Location=f"/{step + 1}"))
    server.on("/5", answer(PNG))
    async with downloader() as images, images.fetch(server.url("/0"), task_id="t") as image:
        assert image.data == PNG
    error = await failure(server.on("/loop", answer(status="307 Again", Location="/loop")))
    assert type(error) is ImageUnavailable
    assert "more than 5 redirects" in str(error)
    assert len(server.requests) == 6 + 6


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "https://[fe80::1]/",
        "http://user:pw@127.0.0.1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://0.0.0.0/",
        "http://rebinding.test/",
    ],
)
async def test_a_redirect_to_a_forbidden_address_is_refused(server: Server, location: str) -> None:
    """Rule: every hop is checked like the first URL, names by the address they have."""

    async def resolver(host: str, port: int) -> Sequence[str]:
        return {"rebinding.test": ["127.0.0.1", "192.168.1.1"]}.get(host, [host])

    url = server.on("/a", answer(status="302 Found", Location=location))
    error = await failure(url, resolver=resolver)
    assert type(error) is ForbiddenAddress
    assert not error.retryable
    assert "pw@" not in str(error)
    assert len(server.requests) == 1


async def test_the_address_is_checked_at_every_connection(server: Server) -> None:
    """Rule: a name that changes its address between two connections is checked again."""
    found = iter([["127.0.0.1"], ["169.254.169.254"]])

    async def resolver(host: str, port: int) -> Sequence[str]:
        return next(found)

    server.on("/a", answer(PNG))
    async with downloader(resolver=resolver) as images:
        url = f"http://changing.test:{server.port}/a"
        async with images.fetch(url, task_id="t") as image:
            assert image.data == PNG
        with pytest.raises(ForbiddenAddress, match=r"changing\.test has the reserved address"):
            async with images.fetch(url, task_id="t"):
                pass


async def test_a_dead_address_does_not_hide_a_living_one(server: Server) -> None:
    """Rule: all addresses of a host are tried, in their order."""

    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "::1", "127.0.0.1"]

    server.on("/a", answer(PNG))
    async with downloader(resolver=resolver) as images:
        url = f"http://several.test:{server.port}/a"
        async with images.fetch(url, task_id="t") as image:
            assert image.data == PNG


async def test_a_host_without_an_address_is_unavailable() -> None:
    """Rule: a name that nobody knows is no reason to stop for good."""

    async def resolver(host: str, port: int) -> Sequence[str]:
        raise OSError

    error = await failure("https://unknown.test/a?" + SECRET, resolver=resolver)
    assert type(error) is ImageUnavailable
    assert "unknown.test/a" in str(error)


async def test_tls_verifies_the_name_and_not_the_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rule: connecting to a checked address leaves certificate checks as they were."""

    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    certificate = certificate_for("images.test", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Server()
    server.on("/a", answer(PNG))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=serving(certificate))
    port = listener.sockets[0].getsockname()[1]
    async with downloader(resolver=resolver) as images:
        async with images.fetch(f"https://images.test:{port}/a", task_id="t") as image:
            assert image.data == PNG
        with pytest.raises(ImageUnavailable, match="ConnectError"):
            async with images.fetch(f"https://other.test:{port}/a", task_id="t"):
                pass
    listener.close()


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("93.184.216.34", Reach.PUBLIC),
        ("2606:4700::1", Reach.PUBLIC),
        ("::ffff:93.184.216.34", Reach.PUBLIC),
        ("64:ff9b::5db8:d822", Reach.PUBLIC),
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.9.9.9", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("64:ff9b::7f00:1", Reach.LOOPBACK),
        ("2002:7f00:1::", Reach.LOOPBACK),
        ("10.1.2.3", Reach.PRIVATE),
        ("172.31.0.1", Reach.PRIVATE),
        ("192.168.0.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd12::1", Reach.PRIVATE),
        ("169.254.169.254", Reach.NOWHERE),
        ("::ffff:169.254.169.254", Reach.NOWHERE),
        ("64:ff9b::a9fe:a9fe", Reach.NOWHERE),
        ("fe80::1%eth0", Reach.NOWHERE),
        ("fd00:ec2::254", Reach.NOWHERE),
        ("100.100.100.200", Reach.NOWHERE),
        ("168.63.129.16", Reach.NOWHERE),
        ("0.0.0.0", Reach.NOWHERE),  # noqa: S104 - an address to refuse
        ("::", Reach.NOWHERE),
        ("::7f00:1", Reach.NOWHERE),
        ("224.0.0.1", Reach.NOWHERE),
        ("ff02::1", Reach.NOWHERE),
        ("240.0.0.1", Reach.NOWHERE),
        ("255.255.255.255", Reach.NOWHERE),
        ("192.0.2.1", Reach.NOWHERE),
        ("198.18.0.1", Reach.NOWHERE),
        ("2001:db8::1", Reach.NOWHERE),
        ("2001:0:1::1", Reach.NOWHERE),
        ("64:ff9b:1::1", Reach.NOWHERE),
        ("not an address", Reach.NOWHERE),
    ],
)
def test_every_address_has_one_reach(address: str, reach: Reach) -> None:
    """Rule: an address counts by where a packet to it ends, however it is written."""
    assert Reach.of(address) is reach


PUBLIC = "https://api.nanobananaapi.ai"


@pytest.mark.parametrize(
    ("base_url", "url", "allowed"),
    [
        (PUBLIC, "https://cdn.test/a", True),
        (PUBLIC, "https://cdn.test:8443/a", True),
        (PUBLIC, "https://cdn.test:22/a", False),
        (PUBLIC, "http://cdn.test/a", False),
        (PUBLIC, "https://user@cdn.test/a", False),
        (PUBLIC, "data:image/png;base64,AA", False),
        ("https://10.0.0.8", "http://10.0.0.9/a", False),
        ("https://10.0.0.8", "https://10.0.0.9:444/a", True),
        ("http://localhost:8000", "http://127.0.0.1:80/a", True),
        ("http://127.0.0.1:8000", "https://cdn.test/a", True),
    ],
)
def test_plain_http_is_for_an_api_on_loopback(base_url: str, url: str, allowed: bool) -> None:
    """Rule: https, no user name, no other service's port, unless the API is near, too."""
    rules = EgressRules.for_api(base_url)
    if allowed:
        rules.check_url(httpx.URL(url))
    else:
        with pytest.raises(ForbiddenAddress):
            rules.check_url(httpx.URL(url))


@pytest.mark.parametrize(
    ("base_url", "reached"),
    [
        (PUBLIC, {Reach.PUBLIC}),
        ("https://169.254.169.254", {Reach.PUBLIC}),
        ("https://192.168.7.7", {Reach.PUBLIC, Reach.PRIVATE}),
        ("http://localhost:8000", {Reach.PUBLIC, Reach.LOOPBACK}),
        ("http://[::1]:8000", {Reach.PUBLIC, Reach.LOOPBACK}),
    ],
)
def test_near_addresses_are_for_an_api_that_is_near(base_url: str, reached: set[Reach]) -> None:
    """Rule: only an API that is itself private or on loopback gives images from there."""
    rules = EgressRules.for_api(base_url)
    addresses = {
        Reach.PUBLIC: "93.184.216.34",
        Reach.PRIVATE: "10.0.0.1",
        Reach.LOOPBACK: "127.0.0.1",
        Reach.NOWHERE: "169.254.169.254",
    }
    for reach, address in addresses.items():
        if reach in reached:
            rules.check_address("cdn.test", address)
        else:
            with pytest.raises(ForbiddenAddress, match=r"cdn\.test"):
                rules.check_address("cdn.test", address)


def test_the_apis_own_host_may_be_private() -> None:
    """Rule: a gateway inside a company may serve images itself, but no metadata service may."""
    rules = EgressRules.for_api("https://gateway.corp.test")
    rules.check_address("Gateway.corp.test.", "10.0.0.1")
    for host, address in (("gateway.corp.test", "169.254.169.254"), ("x.corp.test", "10.0.0.1")):
        with pytest.raises(ForbiddenAddress):
            rules.check_address(host, address)


async def test_a_public_api_gives_no_image_from_this_machine(server: Server) -> None:
    """Rule: with the real API, this machine and its network are not connected to at all."""
    server.on("/a", answer(PNG))

    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    rules = EgressRules.for_api(PUBLIC)
    async with ImageDownloader(rules, resolver=resolver) as images:
        with pytest.raises(ForbiddenAddress, match="loopback address"):
            async with images.fetch(f"https://cdn.test:{server.port}/a", task_id="t"):
                pass
    assert server.requests == []


# --- the byte budget ----------------------------------------------------------------------------


async def test_bytes_are_held_until_the_image_is_let_go(server: Server) -> None:
    """Rule: an image counts from its headers until its caller has stored it."""
    url = server.on("/a", answer(JPEG))
    async with downloader(budget_bytes=len(JPEG) + 5) as images:
        async with images.fetch(url, task_id="one"):
            assert images.budget.free == 5
            waiting = asyncio.create_task(self_contained(images, url))
            await until(lambda: len(server.requests) == 2)
            await asyncio.sleep(0.05)
            assert not waiting.done()
        assert await waiting == JPEG
        assert images.budget.free == len(JPEG) + 5


async def self_contained(images: ImageDownloader, url: str) -> bytes:
    async with images.fetch(url, task_id="two") as image:
        return image.data


async def test_a_body_without_a_length_holds_no_more_than_it_has(server: Server) -> None:
    """Rule: what was reserved for the worst case is given back once the size is known."""
    url = server.on("/a", answer(JPEG, length=None))
    async with downloader(budget_bytes=2**20, max_bytes=2**20) as images:
        async with images.fetch(url, task_id="one"):
            assert images.budget.free == 2**20 - len(JPEG)
        assert images.budget.free == 2**20


async def test_many_images_pass_through_a_small_budget(server: Server) -> None:
    """Rule: more images than fit are fetched one after the other, without a deadlock."""
    url = server.on("/a", answer(JPEG))
    async with downloader(budget_bytes=len(JPEG) * 2, connections=3) as images:
        fetched = await asyncio.gather(*(self_contained(images, url) for _ in range(40)))
        assert fetched == [JPEG] * 40
        assert images.budget.free == len(JPEG) * 2


async def test_cancelled_fetches_give_everything_back(server: Server) -> None:
    """Rule: whenever a fetch is cancelled, no byte and no connection stays taken."""
    url = server.on("/a", answer(JPEG))
    async with downloader(budget_bytes=len(JPEG), connections=2) as images:
        for turns in range(60):
            tasks = [asyncio.create_task(self_contained(images, url)) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert images.budget.free == len(JPEG)
        assert await self_contained(images, url) == JPEG


async def test_the_budget_is_first_come_first_served() -> None:
    """Rule: a large request is not starved by small ones behind it."""
    budget = ByteBudget(10)
    first = budget.hold()
    await first.take(6)
    order: list[int] = []

    async def take(size: int) -> None:
        held = budget.hold()
        await held.take(size)
        order.append(size)
        held.release()

    tasks = [asyncio.create_task(take(size)) for size in (8, 1, 99, 2)]
    await asyncio.sleep(0)
    assert order == []
    first.release()
    first.release()
    await asyncio.gather(*tasks)
    assert order == [8, 1, 99, 2]
    assert budget.free == 10


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4), st.booleans()), max_size=12))
def test_the_budget_is_whole_after_any_cancellations(
    plan: list[tuple[int, int, bool]],
) -> None:
    """Rule: whoever takes, waits, is granted or cancelled, in the end all bytes are free."""

    async def hold(budget: ByteBudget, size: int, turns: int) -> None:
        held = budget.hold()
        await held.take(size)
        assert 0 <= budget.free <= 10
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            held.release()

    async def scenario() -> int:
        budget = ByteBudget(10)
        tasks = []
        for size, turns, cancelled in plan:
            tasks.append(asyncio.create_task(hold(budget, size, turns)))
            await asyncio.sleep(0)
            if cancelled:
                tasks[len(tasks) // 2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return budget.free

    assert asyncio.run(scenario()) == 10
