"""Publishing on any fsspec file system: whole or not at all, and clear words where it cannot be."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
import uvicorn
from fsspec.implementations.memory import MemoryFileSystem
from starlette.requests import Request
from starlette.responses import Response

from nanobanana_blocks.batches.ledger import open_ledger
from nanobanana_blocks.errors import DestinationError, InvalidInput, StorageError
from nanobanana_blocks.orchestration.blocks.image_store import ImageStore
from nanobanana_blocks.storage import backends as folders
from nanobanana_blocks.storage import locations
from nanobanana_blocks.storage.backends import ACCEPT_PARTIAL_FILES
from nanobanana_blocks.storage.backends.objects import AzureFolder, ObjectFolder
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from tests.support.storage_servers import NoPosixRename, S3Server, s3_server, sftp_server
from tests.support.until import until

PROJECT = Path(__file__).parents[2]
ACCEPTED = {ACCEPT_PARTIAL_FILES: True}


@asynccontextmanager
async def opened(url: str, options: dict[str, Any] | None = None, **limits: float) -> Any:
    destination = await Destination.open(url, options, **{"first_pause_seconds": 0.001} | limits)
    try:
        yield destination
    finally:
        await destination.aclose()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


class UnknownFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system that nothing is known of, and that may lose bytes."""

    protocol = "unknownfs"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its base has it
    pseudo_dirs = [""]  # noqa: RUF012 - as its base has it
    keeps = 10**9

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value[: self.keeps], mode=mode, **kwargs)


@pytest.fixture(params=["local", "memory", "s3", "sftp", "unknown"])
async def destination(
    request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server
) -> AsyncIterator[Destination]:
    """An empty folder on each kind of storage that is here."""
    fsspec.register_implementation("unknownfs", UnknownFileSystem, clobber=True)
    unique = uuid.uuid4().hex
    if request.param == "sftp":
        async with (
            sftp_server() as server,
            opened(f"{server.url}{tmp_path}/new/images", server.options) as made,
        ):
            yield made
        return
    url, options = {
        "local": (str(tmp_path / "new" / "images"), {}),
        "memory": (f"memory://{unique}/images", {}),
        "s3": (f"s3://bucket/{unique}/images/", s3.options()),
        "unknown": (f"unknownfs://{unique}/images", ACCEPTED),
    }[request.param]
    async with opened(url, options) as made:
        yield made


# --- what every kind of storage does ------------------------------------------------------------


async def test_what_is_published_can_be_listed_read_and_deleted(destination: Destination) -> None:
    """Rule: names, sizes and bytes come back as they were given, on every kind of storage."""
    assert await destination.list() == {}
    assert await destination.read("a.json") is None
    assert await destination.size_of("a.json") is None
    await destination.check_writable()
    assert await destination.list() == {}
    await destination.publish("a.json", b"{}", "application/json")
    await destination.publish("b.png", b"\x00" * 70_000, "image/png")
    assert await destination.list() == {"a.json": 2, "b.png": 70_000}
    await destination.publish("b.png", b"shorter", "image/png")
    assert await destination.size_of("b.png") == 7
    assert await destination.read("b.png") == b"shorter"
    await destination.delete("b.png")
    await destination.delete("b.png")
    assert await destination.list() == {"a.json": 2}
    assert destination.path_of("a.json") == f"{destination.path}/a.json"


async def test_the_list_is_of_this_folder_alone_and_fresh(destination: Destination) -> None:
    """Rule: what others wrote since is seen; what lies deeper or is hidden is not."""
    await destination.check_writable()
    await destination.publish("a.png", b"a", "image/png")
    assert await destination.list() == {"a.png": 1}
    url, options = location_of(destination)
    async with opened(f"{url}/deeper", options) as deeper, opened(url, options) as other:
        await deeper.check_writable()
        await deeper.publish("b.png", b"b", "image/png")
        await other.publish("c.png", b"ccc", "image/png")
        await other.publish(".hidden", b"d", "image/png")
    assert await destination.list() == {"a.png": 1, "c.png": 3}
    assert await destination.size_of("c.png") == 3


def location_of(destination: Destination) -> tuple[str, dict[str, Any]]:
    """The URL, with its password, and the options that `destination` was opened with."""
    folder = destination._folder
    if isinstance(folder, folders.RemoteFolder):
        accepted = ACCEPTED if folder._location.protocol == "unknownfs" else {}
        return folder._location.url, {**folder._options, **accepted}
    return destination.path, {}


async def test_one_of_many_creators_wins(destination: Destination) -> None:
    """Rule: `create` is told True once, where it can be used at all."""
    await destination.check_writable()
    if not destination.can_create:
        with pytest.raises(DestinationError, match="exclusively"):
            await destination.create("lock", b"", "text/plain")
        return
    contents = [b"%d" % number for number in range(12)]
    won = await asyncio.gather(*(destination.create("lock", c, "text/plain") for c in contents))
    assert won.count(True) == 1
    assert await destination.read("lock") == contents[won.index(True)]
    assert set(await destination.list()) == {"lock"}


async def test_looking_whether_creation_is_exclusive_changes_nothing(
    destination: Destination,
) -> None:
    """Rule: where `create` does what it says it goes on being used, and nothing is left behind."""
    await destination.check_writable()
    before = destination.can_create
    await destination.check_exclusive()
    assert destination.can_create is before
    url, options = location_of(destination)
    protocol, _, path = url.partition("://")
    if not path or protocol == "sftp":
        folder = Path("/", path.partition("/")[2]) if path else Path(url)
        assert list(folder.iterdir()) == []
    else:
        options = options if protocol == "s3" else {}
        assert fsspec.filesystem(protocol, **options).find(path) == []


async def test_many_publish_at_once(destination: Destination) -> None:
    """Rule: more operations than threads and connections go through, none lost."""
    await destination.check_writable()
    names = {f"{number}.png": number for number in range(100)}
    await asyncio.gather(
        *(destination.publish(name, bytes(size), "image/png") for name, size in names.items())
    )
    assert await destination.list() == names


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a\0"])
async def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    """Rule: what is not one path component is refused by every operation."""
    async with opened(str(tmp_path)) as destination:
        with pytest.raises(InvalidInput):
            await destination.publish(name, b"", "image/png")
        with pytest.raises(InvalidInput):
            await destination.read(name)
        with pytest.raises(InvalidInput):
            destination.path_of(name)


# --- URLs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "blank"),
        ("  \n", "blank"),
        ("a\0b", "control character"),
        ("s3:/bucket/folder", "s3://"),
        ("s3:bucket", "s3://"),
        ("foo:/bar", "two slashes"),
        ("S3://bucket/folder", "lower case"),
        ("http://host/folder", "read only"),
        ("https://host/folder", "read only"),
        ("simplecache::s3://bucket", "chain"),
        ("zip://images::file:///a.zip", "chain"),
        ("zip:///a.zip", "archive"),
        ("s4://bucket/folder", "no protocol 's4'"),
        ("s3://", "no bucket"),
        ("s3:///", "no bucket"),
        ("gs://bucket/folder#1", "storage_options"),
        ("sftp://host", "no folder"),
        ("file://host/folder", "three"),
        ("~nobody-has-this-name/x", "home"),
        ("adl://x/y", "az://"),
        ("azz://user:s3cr3t@x/y?sas=s3cr3t", "no protocol"),
        ("sftp://user:s3cr3t/s3cr3t@host/folder?x", "storage_options"),
        ("sftp:/user:s3cr3t@host/folder", "sftp://"),
        ("zip://folder/a.zip::sftp://user:s3cr3t@host/folder", "chain"),
    ],
)
async def test_a_url_that_cannot_be_meant_is_refused(url: str, says: str) -> None:
    """Rule: a misspelt destination is named with the next step, before anything is asked."""
    with pytest.raises(DestinationError, match=says) as caught:
        await Destination.open(url)
    assert "s3cr3t" not in str(caught.value)
    assert not url.isprintable() or url.partition(":")[0].strip() in str(caught.value)


async def test_a_local_path_may_be_written_in_many_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: home folders, relative paths and file URLs name the folder a person would expect."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    ways = {
        "~/images": tmp_path / "home/images",
        "images": tmp_path / "images",
        "./a/../images/": tmp_path / "images",
        "./images::old": tmp_path / "images::old",
        str(tmp_path): tmp_path,
        f"file://{tmp_path}/x y": tmp_path / "x y",
    }
    for url, folder in ways.items():
        async with opened(url) as destination:
            assert destination.path == str(folder)
            assert destination.path_of("a.png") == str(folder / "a.png")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://ann:s3cr3t@host:22/images/", "sftp://ann@host:22/images"),
        ("sftp://ann:s3cr3t@[::1]:22/images", "sftp://ann@[::1]:22/images"),
        ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ("memory://", "memory://"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    """Rule: what reports and messages show of a URL has no password, and is otherwise the URL."""
    assert locations.Location.parse(url).redacted == shown
    assert "s3cr3t" not in repr(locations.Location.parse(url))


registered: dict[str, Any] = importlib.import_module("fsspec.registry")._registry


@pytest.mark.parametrize(
    ("protocol", "package", "extra"),
    [
        *(("s3", "s3fs", "s3"), ("gs", "gcsfs", "gs"), ("gcs", "gcsfs", "gs")),
        *(("az", "adlfs", "azure"), ("abfs", "adlfs", "azure"), ("sftp", "sshfs", "sftp")),
    ],
)
async def test_a_missing_backend_is_named_with_its_extra(
    protocol: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: who lacks a package is told what to install."""
    monkeypatch.delitem(registered, protocol, raising=False)
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DestinationError) as caught:
        await Destination.open(f"{protocol}://host/folder")
    assert f"pip install 'nanobanana-blocks[{extra}]'" in str(caught.value)


async def test_sftp_without_sshfs_is_not_served_by_another_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule: a backend that is not safe under threads is not taken in place of the right one."""
    other = type("SFTPFileSystem", (MemoryFileSystem,), {"__module__": "fsspec.sftp"})
    monkeypatch.setitem(registered, "sftp", other)
    with pytest.raises(DestinationError, match=r"nanobanana-blocks\[sftp\]"):
        await Destination.open("sftp://host/folder")


async def test_options_that_do_not_fit_are_refused_without_showing_them() -> None:
    """Rule: a wrong option is a `DestinationError` that repeats no value."""
    options = {"connection_string": "AccountKey=s3cr3t"}
    with pytest.raises(DestinationError) as caught:
        await Destination.open("az://box/folder", options)
    assert "storage_options" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- local folders ------------------------------------------------------------------------------


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


KILL_PUBLISHERS = """
    import asyncio, itertools, os, signal, sys, time
    from pathlib import Path
    from nanobanana_blocks.storage.destination import Destination

    folder, size = Path(sys.argv[1]), 3_000_000

    async def publish_for_ever(started):
        destination = await Destination.open(str(folder))
        await destination.check_writable()
        for number in itertools.count():
            content = bytes([number % 256]) * size
            await destination.publish("image.png", content, "image/png")
            os.write(started, b".")
            await destination.create(f"{number}.png", content, "image/png")

    for round in range(15):
        reading, writing = os.pipe()
        publisher = os.fork()
        if not publisher:
            asyncio.run(publish_for_ever(writing))
        os.read(reading, 1)
        time.sleep(round * 0.0017)
        os.kill(publisher, signal.SIGKILL)
        os.waitpid(publisher, 0)
        for path in folder.glob("[!.]*"):
            content = path.read_bytes()
            assert content == content[:1] * size, (path.name, len(content))
            path.unlink()
    print(len(list(folder.iterdir())))
"""


def test_a_killed_process_never_leaves_part_of_a_file(tmp_path: Path) -> None:
    """Rule: whenever a process is killed, a file under its final name is whole."""
    driver = [sys.executable, "-c", textwrap.dedent(KILL_PUBLISHERS), str(tmp_path)]
    done = subprocess.run(driver, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "no process was killed while it wrote"


NO_LINKS = [
    errno.EPERM,
    errno.EACCES,
    errno.EIO,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EMLINK,
]


def links_fail(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the disk answer as one without hard links does, which cannot be mounted everywhere."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("number", NO_LINKS, ids=errno.errorcode.get)
async def test_a_disk_without_hard_links_creates_nothing_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Rule: it is found out, told as what it is, and the ledger does without and says so."""
    links_fail(monkeypatch, number)
    async with opened(str(tmp_path)) as destination:
        await destination.check_writable()
        with pytest.raises(DestinationError, match="cannot be created exclusively"):
            await destination.create("a.json", b"{}", "application/json")
        await destination.check_exclusive()
        assert not destination.can_create
        await destination.publish("a.json", b"{}", "application/json")
        assert names_in(tmp_path) == {"a.json"}
    async with open_ledger(StorageLocation(str(tmp_path))) as ledger:
        assert not ledger.is_exclusive


async def test_an_error_while_looking_whether_creation_is_exclusive_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: only what says that creation is unknown is taken so; all else is told."""
    for number, kind in ((errno.EROFS, DestinationError), (errno.ENOSPC, StorageError)):
        links_fail(monkeypatch, number)
        async with opened(str(tmp_path)) as destination:
            with pytest.raises(kind):
                await destination.check_exclusive()
            assert destination.can_create
    assert names_in(tmp_path) == set()


async def test_a_created_file_outlives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: of what is created the folder is flushed too, after the name is in it; of all else the
    file only."""
    flushed: list[set[str]] = []
    flush = os.fsync

    def fsync(opened_file: int) -> None:
        flush(opened_file)
        if os.path.samestat(os.fstat(opened_file), tmp_path.stat()):
            flushed.append({name for name in names_in(tmp_path) if not name.startswith(".")})

    monkeypatch.setattr(os, "fsync", fsync)
    async with opened(str(tmp_path)) as destination:
        assert await destination.create("a.json", b"{}", "application/json")
        assert flushed == [{"a.json"}]
        await destination.publish("b.json", b"{}", "application/json")
        assert not await destination.create("a.json", b"{}", "application/json")
        assert flushed == [{"a.json"}]


@pytest.mark.parametrize(("number", "is_told"), [(errno.EINVAL, False), (errno.EIO, True)])
async def test_a_folder_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_told: bool
) -> None:
    """Rule: a file system that flushes no folders is put up with; a disk that fails is told."""
    flush = os.fsync

    def fsync(opened_file: int) -> None:
        if os.path.samestat(os.fstat(opened_file), tmp_path.stat()):
            raise OSError(number, os.strerror(number))
        flush(opened_file)

    monkeypatch.setattr(os, "fsync", fsync)
    async with opened(str(tmp_path)) as destination:
        creating = destination.create("a.json", b"{}", "application/json")
        if is_told:
            with pytest.raises(StorageError):
                await creating
        else:
            assert await creating


async def test_forgotten_temporary_files_are_removed_after_a_day(tmp_path: Path) -> None:
    """Rule: only our own names, and only old ones, are cleaned up."""
    ours, fresh = folders.temporary_name(), folders.temporary_name()
    for name in (ours, fresh, ".someone-elses.part"):
        (tmp_path / name).write_bytes(b"part")
    two_days_ago = time.time() - 2 * 24 * 60 * 60
    for name in (ours, ".someone-elses.part"):
        os.utime(tmp_path / name, (two_days_ago, two_days_ago))
    async with opened(str(tmp_path)) as destination:
        await destination.check_writable()
    assert names_in(tmp_path) == {fresh, ".someone-elses.part"}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a small file system with given options; root may."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system needs root")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


async def test_a_full_disk_is_told_and_leaves_what_was_there(
    mounted: Callable[[str], Path],
) -> None:
    """Rule: no space is a `StorageError`; the earlier file and no rest stay."""
    folder = mounted("size=256k")
    async with opened(str(folder)) as destination:
        await destination.check_writable()
        await destination.publish("a.png", b"a" * 1000, "image/png")
        with pytest.raises(StorageError, match="no space left") as caught:
            await destination.publish("a.png", bytes(10**6), "image/png")
        assert caught.value.retryable
        with pytest.raises(StorageError, match="no space left"):
            await destination.create("b.png", bytes(10**6), "image/png")
        assert await destination.read("a.png") == b"a" * 1000
    assert names_in(folder) == {"a.png"}


async def test_a_read_only_folder_is_told_before_any_waiting(
    mounted: Callable[[str], Path],
) -> None:
    """Rule: a folder that cannot be written is found by trying."""
    async with opened(str(mounted("ro"))) as destination:
        with pytest.raises(DestinationError, match="read-only"):
            await destination.check_writable()


@pytest.mark.parametrize("url", ["{}/file", "{}/file/below/it"])
async def test_a_file_in_the_way_is_told(tmp_path: Path, url: str) -> None:
    """Rule: a file where a folder should be is said to be one."""
    (tmp_path / "file").write_text("in the way")
    async with opened(url.format(tmp_path)) as destination:
        with pytest.raises(DestinationError, match="file stands where a folder should be"):
            await destination.check_writable()
    assert (tmp_path / "file").read_text() == "in the way"


async def test_a_folder_that_went_away_is_told(tmp_path: Path) -> None:
    """Rule: what somebody must repair is a `DestinationError`, also after the check."""
    async with opened(str(tmp_path / "images")) as destination:
        await destination.check_writable()
        (tmp_path / "images").rmdir()
        with pytest.raises(DestinationError, match="no such"):
            await destination.publish("a.png", b"", "image/png")
        assert await destination.list() == {}


# --- object stores ------------------------------------------------------------------------------


async def test_s3_objects_have_their_media_type(s3: S3Server) -> None:
    """Rule: a browser that opens an object knows what it is."""
    async with opened("s3://bucket/typed", s3.options()) as destination:
        await destination.publish("a.png", b"a", "image/png")
        await destination.create("a.json", b"{}", "application/json")
    types = {
        name: s3.client.head_object(Bucket="bucket", Key=f"typed/{name}")["ContentType"]
        for name in ("a.png", "a.json")
    }
    assert types == {"a.png": "image/png", "a.json": "application/json"}


async def test_a_misspelt_bucket_is_told_and_never_made(s3: S3Server) -> None:
    """Rule: no bucket is made that nobody asked for."""
    for bucket in ("bukket", "Not_A_Bucket!"):
        async with opened(f"s3://{bucket}/images", s3.options()) as destination:
            with pytest.raises(DestinationError, match="no such bucket") as caught:
                await destination.check_writable()
            assert f"s3://{bucket}/images" in str(caught.value)
            assert await destination.list() == {} or bucket != "bukket"
    assert [bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]] == ["bucket"]


async def test_a_wrong_key_is_told_without_showing_it(s3: S3Server) -> None:
    """Rule: refused credentials are said to be refused, and stay out of the message."""
    options = s3.options(key="AKIAWRONG", secret="s3cr3t-wrong")
    with s3.checking_keys():
        async with opened("s3://bucket/images", options) as destination:
            for operation in (destination.check_writable(), destination.read("a.png")):
                with pytest.raises(DestinationError, match="refuses access") as caught:
                    await operation
                assert "s3cr3t" not in str(caught.value)
                assert "AKIAWRONG" not in str(caught.value)
                assert caught.value.__cause__ is None


async def test_an_unreachable_storage_is_told_in_time(s3: S3Server) -> None:
    """Rule: our own time limit ends what a backend would go on trying."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    options = s3.options() | {"client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"}}
    limits = {"check_seconds": 0.2, "operation_seconds": 0.2}
    async with opened("s3://bucket/images", options, **limits) as destination:
        with pytest.raises(DestinationError, match=r"no answer within 0\.2 s"):
            await destination.check_writable()
        with pytest.raises(StorageError, match=r"no answer within 0\.2 s"):
            await destination.publish("a.png", b"a", "image/png")
    listener.close()


REFUSALS = {
    "501": "NotImplemented",
    "400": "InvalidArgument",
    "403": "AccessDenied",
    "405": "MethodNotAllowed",
}


@asynccontextmanager
async def imitation(
    s3: S3Server, condition: str
) -> AsyncIterator[tuple[dict[str, Any], list[str]]]:
    """A service like s3 that ignores or refuses conditions; its options, and what it was asked."""
    asked: list[str] = []

    async def answer(request: Request) -> Response:
        asked.append(request.method)
        headers = {k: v for k, v in request.headers.items() if k != "if-none-match"}
        if condition != "ignored" and len(headers) < len(request.headers):
            body = (
                "" if condition == "304" else f"<Error><Code>{REFUSALS[condition]}</Code></Error>"
            )
            return Response(body, int(condition))
        async with httpx.AsyncClient(trust_env=False) as http:
            found = await http.request(
                request.method,
                f"{s3.endpoint}{request.url.path}?{request.url.query}",
                headers=headers,
                content=await request.body(),
            )
        return Response(found.content, found.status_code, dict(found.headers))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (await answer(Request(scope, receive)))(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield s3.options() | {"client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"}}, asked
    server.should_exit = True
    await serving


@pytest.mark.parametrize("condition", ["ignored", "501", "304", "400", "403", "405"])
async def test_a_service_like_s3_that_knows_no_conditions_is_found_out(
    s3: S3Server, condition: str
) -> None:
    """Rule: what replaces a file instead of refusing, or refuses to try, creates nothing."""
    folder = uuid.uuid4().hex
    async with (
        imitation(s3, condition) as (options, asked),
        opened(f"s3://bucket/{folder}", options) as destination,
    ):
        await destination.check_writable()
        assert destination.can_create
        asked.clear()
        await destination.check_exclusive()
        assert not destination.can_create
        puts = ["PUT", "PUT"] if condition == "ignored" else ["PUT"]
        assert asked == [*puts, "DELETE"]
        with pytest.raises(DestinationError, match="exclusively"):
            await destination.create("a.json", b"{}", "application/json")
    assert "Contents" not in s3.client.list_objects_v2(Bucket="bucket", Prefix=folder)


async def test_conditions_that_s3fs_drops_are_missed(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: a botocore that does not know conditions makes no run believe in them."""
    file_system = fsspec.get_filesystem_class("s3")
    known = file_system._filter_kwargs

    def filter_kwargs(self: Any, method: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return dict(known(self, method, {k: v for k, v in kwargs.items() if k != "IfNoneMatch"}))

    monkeypatch.setattr(file_system, "_filter_kwargs", filter_kwargs)
    store = ImageStore(url="s3://bucket/dropped", storage_options=s3.options())
    async with open_ledger(store.location) as ledger:
        assert not ledger.is_exclusive
    monkeypatch.undo()
    async with open_ledger(store.location) as ledger:
        assert ledger.is_exclusive


async def test_a_broken_upload_publishes_nothing(s3: S3Server) -> None:
    """Rule: an object whose upload broke half-way does not exist."""
    host, port = s3.endpoint.removeprefix("http://").split(":")
    forwarded = 0

    async def answer(upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await upstream.read(2**16):
            writer.write(piece)

    async def forward_part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal forwarded
        upstream = await asyncio.open_connection(host, int(port))
        answering = asyncio.create_task(answer(upstream[0], writer))
        passed = 0
        while passed < 10**6 and (piece := await reader.read(2**16)):
            passed += len(piece)
            upstream[1].write(piece)
            await upstream[1].drain()
        forwarded = max(forwarded, passed)
        answering.cancel()
        upstream[1].close()
        writer.transport.abort()

    proxy = await asyncio.start_server(forward_part, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    options = s3.options() | {"client_kwargs": {"endpoint_url": endpoint}}
    options["config_kwargs"] = {"retries": {"max_attempts": 1}}
    async with opened("s3://bucket/broken", options, operation_seconds=60.0) as destination:
        with pytest.raises(StorageError):
            await destination.publish("a.png", bytes(5_000_000), "image/png")
    assert forwarded >= 10**6
    async with opened("s3://bucket/broken", s3.options()) as destination:
        assert await destination.list() == {}
    proxy.close()


async def test_options_of_the_user_go_before_ours(s3: S3Server) -> None:
    """Rule: the larger connection pool is a default, and other settings are kept."""
    options = s3.options() | {"config_kwargs": {"retries": {"max_attempts": 1}}}
    async with opened("s3://bucket/images", options) as destination:
        assert destination._folder._file_system.config_kwargs == {
            "max_pool_connections": 64,
            "retries": {"max_attempts": 1},
        }
    assert options["config_kwargs"] == {"retries": {"max_attempts": 1}}


@pytest.mark.parametrize(
    ("protocol", "settings"),
    [
        ("s3", {"ContentType": "image/png"}),
        ("gs", {"content_type": "image/png"}),
        ("memory", {}),
    ],
)
def test_each_backend_is_told_the_media_type_in_its_way(
    protocol: str, settings: dict[str, str]
) -> None:
    """Rule: the keyword is the backend's own; others are dropped silently, or raise."""
    kind = folders.KINDS[protocol]
    assert issubclass(kind, ObjectFolder)
    assert kind.media_type("image/png") == settings


def test_azure_is_told_the_media_type_in_its_way() -> None:
    """Rule: azure takes an object of its own, which all releases of adlfs pass on."""
    settings = AzureFolder.media_type("image/png")["content_settings"]
    module = importlib.import_module("azure.storage.blob")
    assert isinstance(settings, module.ContentSettings)
    assert settings.content_type == "image/png"


# --- sftp ---------------------------------------------------------------------------------------


async def test_sftp_connects_again_after_its_connection_was_lost(tmp_path: Path) -> None:
    """Rule: a connection lost in a long run costs one try, not the rest of the run."""
    async with (
        sftp_server() as server,
        opened(f"{server.url}{tmp_path}/images", server.options) as destination,
    ):
        await destination.check_writable()
        destination._folder._file_system._client.abort()
        await asyncio.gather(
            *(destination.publish(f"{number}.png", b"a", "image/png") for number in range(20))
        )
        assert len(await destination.list()) == 20
    assert len(names_in(tmp_path / "images")) == 20


async def test_sftp_refuses_a_wrong_password_without_showing_it(tmp_path: Path) -> None:
    """Rule: a password in the URL is used, and never repeated."""
    async with sftp_server() as server:
        url = server.url.replace("s3cr3t", "wr0ng") + str(tmp_path)
        with pytest.raises(DestinationError, match="refuses access") as caught:
            await Destination.open(url, server.options)
    assert "sftp://ann@127.0.0.1" in str(caught.value)
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize("password", ["p@ss:w/rd%41", "s3cr3t"])
async def test_sftp_percent_encoded_passwords_are_decoded(tmp_path: Path, password: str) -> None:
    """Rule: a URL's user and password are what they stand for, not how they are written."""
    async with (
        sftp_server(password=password) as server,
        opened(f"{server.url}{tmp_path}", server.options) as destination,
    ):
        await destination.check_writable()


async def test_sftp_host_keys_are_checked_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: the user's known_hosts decides; a URL's password never goes to an unchecked host."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    async with sftp_server() as server:
        url = f"{server.url}{tmp_path}/images"
        with pytest.raises(DestinationError, match="known_hosts"):
            await Destination.open(url)
        with pytest.raises(DestinationError, match="not checked") as caught:
            await Destination.open(url, {"known_hosts": None})
        assert "s3cr3t" not in str(caught.value)
        server.make_known(tmp_path / "home")
        async with opened(url) as destination:
            await destination.check_writable()
        bare, given = url.replace("ann:s3cr3t@", ""), {"username": "ann", "password": "s3cr3t"}
        (tmp_path / "home" / ".ssh" / "known_hosts").unlink()
        async with opened(bare, {**given, "known_hosts": None}) as destination:
            await destination.check_writable()


async def test_sftp_without_posix_rename_is_refused_and_nothing_is_copied(tmp_path: Path) -> None:
    """Rule: a server that cannot replace in one step is told as such; no copy is seen growing."""
    async with (
        sftp_server(NoPosixRename) as server,
        opened(f"{server.url}{tmp_path}/images", server.options) as destination,
    ):
        with pytest.raises(DestinationError, match="posix-rename"):
            await destination.check_writable()
        await destination.check_exclusive()
        assert not destination.can_create
    assert names_in(tmp_path / "images") == set()


# --- other file systems -------------------------------------------------------------------------


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> type[UnknownFileSystem]:
    fsspec.register_implementation("unknownfs", UnknownFileSystem, clobber=True)
    monkeypatch.setattr(UnknownFileSystem, "store", {})
    return UnknownFileSystem


async def test_a_storage_that_loses_bytes_is_found_out(
    unknown: type[UnknownFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: where a write is not atomic, its size is checked."""
    monkeypatch.setattr(unknown, "keeps", 3)
    async with opened("unknownfs://images", ACCEPTED) as destination:
        with pytest.raises(StorageError, match="another number of bytes"):
            await destination.publish("a.png", b"abcdef", "image/png")
        with pytest.raises(DestinationError, match="another number of bytes"):
            await destination.check_writable()


async def test_a_passing_fault_is_tried_again_and_a_definite_one_is_not(
    unknown: type[UnknownFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: three tries where another may help, one where it cannot."""
    raised: list[Exception] = []

    def fail(self: UnknownFileSystem, path: str, value: bytes, **kwargs: Any) -> None:
        raised.append(faults.pop(0))
        raise raised[-1]

    monkeypatch.setattr(unknown, "pipe_file", fail)
    async with opened("unknownfs://images", ACCEPTED) as destination:
        for fault, tries, kind in (
            (ConnectionResetError("s3cr3t"), 3, StorageError),
            (RuntimeError("s3cr3t"), 3, StorageError),
            (TimeoutError("s3cr3t"), 3, StorageError),
            (PermissionError("s3cr3t"), 1, DestinationError),
            (OSError(28, "s3cr3t"), 1, StorageError),
            (FileNotFoundError("s3cr3t"), 1, DestinationError),
        ):
            faults = [fault] * 3
            raised.clear()
            with pytest.raises(kind) as caught:
                await destination.publish("a.png", b"a", "image/png")
            assert len(raised) == tries
            assert "s3cr3t" not in str(caught.value)


async def test_a_storage_that_nothing_is_known_of_must_be_accepted_by_name(
    unknown: type[UnknownFileSystem],
) -> None:
    """Rule: where a reader may meet part of a file, the user says so first."""
    with pytest.raises(DestinationError, match="accept_partial_files=True"):
        await Destination.open("unknownfs://images")
    with pytest.raises(DestinationError, match="accept_partial_files=True"):
        await Destination.open("unknownfs://images", {ACCEPT_PARTIAL_FILES: "no"})
    async with opened("memory://images", ACCEPTED) as destination:
        await destination.check_writable()


async def test_a_cancelled_operation_frees_its_place(unknown: type[UnknownFileSystem]) -> None:
    """Rule: cancelling never uses up the operations that may run at a time."""
    async with opened("unknownfs://images", ACCEPTED) as destination:
        for _ in range(5):
            tasks = [
                asyncio.create_task(destination.publish("a.png", b"a", "image/png"))
                for _ in range(40)
            ]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await destination.publish("b.png", b"b", "image/png")
        assert (await destination.list())["b.png"] == 1
