"""What every kind of storage must do, on its real protocol server."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanobanana_blocks.errors import DestinationError, NanoBananaError, StorageError
from nanobanana_blocks.landing import read_receipt
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.storage.names import safe_name
from tests.support.batches import PATIENT, prompts, run
from tests.support.storage_kinds import Kind, free_port

pytestmark = pytest.mark.storage

PROJECT = Path(__file__).parents[2]
SIZE = 20_000_000
CREATORS = 12
TIMES = 50
ROWS = 15


@pytest.fixture
def url(kind: Kind) -> str:
    """A folder that no other test uses."""
    return f"{kind.url}/{uuid.uuid4().hex}"


@asynccontextmanager
async def opened(url: str, options: dict[str, Any], **limits: float) -> AsyncIterator[Destination]:
    async with await Destination.open(url, options, **limits) as destination:
        yield destination


@pytest.fixture
async def folder(kind: Kind, url: str) -> AsyncIterator[Destination]:
    """An empty folder, checked."""
    async with opened(url, kind.options) as destination:
        await destination.check_writable()
        yield destination


async def test_what_is_published_is_listed_read_and_deleted(folder: Destination) -> None:
    """Rule: names, sizes and bytes come back as given; deleting what is absent is no error."""
    assert await folder.list() == {}
    assert await folder.read("a.json") is None
    assert await folder.size_of("a.json") is None
    await folder.delete("a.json")
    await folder.publish("a.json", b"{}", "application/json")
    await folder.publish("b.png", bytes(70_000), "image/png")
    await folder.publish("b.png", b"shorter", "image/png")
    assert await folder.list() == {"a.json": 2, "b.png": 7}
    assert await folder.read("b.png") == b"shorter"
    await folder.delete("b.png")
    await folder.delete("b.png")
    assert await folder.list() == {"a.json": 2}


async def test_one_of_many_creators_wins_or_the_check_notices(kind: Kind, url: str) -> None:
    """Rule: exclusive creation has one winner, where the check says that there is such a thing."""
    async with AsyncExitStack() as stack:
        many = [await stack.enter_async_context(opened(url, kind.options)) for _ in range(CREATORS)]
        await many[0].check_writable()
        await many[0].check_exclusive()
        assert many[0].can_create is kind.exclusive
        assert await many[0].list() == {}
        if not kind.exclusive:
            with pytest.raises(DestinationError, match="exclusively"):
                await many[0].create("lock", b"", "text/plain")
            return
        content = [b"%d" % number for number in range(CREATORS)]
        won = await asyncio.gather(
            *(one.create("lock", c, "text/plain") for one, c in zip(many, content, strict=True))
        )
        assert won.count(True) == 1
        assert await many[0].read("lock") == content[won.index(True)]
        assert set(await many[0].list()) == {"lock"}


async def test_a_listing_hides_nothing_that_another_writes_after_it(kind: Kind, url: str) -> None:
    """Rule: what is read, measured and refused is what is there now, not what once was listed."""
    async with opened(url, kind.options) as mine, opened(url, kind.options) as anothers:
        await anothers.check_writable()
        await anothers.publish("first.json", b"{}", "application/json")
        assert set(await mine.list()) == {"first.json"}
        await anothers.publish("second.json", b"{}", "application/json")
        assert await mine.read("second.json") == b"{}"
        assert set(await mine.list()) == {"first.json", "second.json"}
        await anothers.publish("third.json", b"{}{}", "application/json")
        assert await mine.size_of("third.json") == 4
        await anothers.delete("first.json")
        assert await mine.read("first.json") is None


async def test_files_have_their_media_type(kind: Kind, folder: Destination) -> None:
    """Rule: a browser that opens an object knows what it is."""
    if kind.media_type is None:
        pytest.skip("its files have no media type")
    await folder.publish("a.png", b"a", "image/png")
    assert kind.media_type(f"{folder.path.rpartition('/')[2]}/a.png") == "image/png"


async def test_a_file_of_20_MB_comes_back_whole(folder: Destination) -> None:  # noqa: N802
    """Rule: a large image is like a small one."""
    content = os.urandom(SIZE)
    await folder.publish("large.png", content, "image/png")
    assert await folder.size_of("large.png") == SIZE
    assert await folder.read("large.png") == content


async def test_300_are_published_at_once(folder: Destination) -> None:
    """Rule: more operations than threads and connections go through, none lost."""
    names = {f"{number}.png": number for number in range(300)}
    await asyncio.gather(
        *(folder.publish(n, bytes(size), "image/png") for n, size in names.items())
    )
    assert await folder.list() == names


async def test_odd_names_come_back(folder: Destination) -> None:
    """Rule: every name that this product makes of a user's is neither changed nor lost."""
    asked = ["with space", "Übung 100%?#", "a=b,c;d", "x'y", "..", "con.txt", "é" * 200, "a/b\\c"]
    asked += ["UPPER", "-dash", "_under", "a..b", "a.", "0" * 100, "a.json", "tilde~1", "[2]"]
    names = [f"{safe_name(name)}.png" for name in asked]
    for number, name in enumerate(names):
        await folder.publish(name, b"a" * (number + 1), "image/png")
    assert await folder.list() == {name: number + 1 for number, name in enumerate(names)}
    for number, name in enumerate(names):
        assert await folder.read(name) == b"a" * (number + 1)
        await folder.delete(name)
    assert await folder.list() == {}


async def test_the_root_of_a_bucket_is_a_folder_too(kind: Kind) -> None:
    """Rule: a destination need not have a folder."""
    if kind.missing is None:
        pytest.skip("it has no buckets")
    name = f"{uuid.uuid4().hex}.png"
    async with opened(kind.url, kind.options) as destination:
        await destination.check_writable()
        await destination.publish(name, b"a", "image/png")
        assert (await destination.list())[name] == 1
        await destination.delete(name)


async def test_a_reader_between_two_writers_sees_whole_files(kind: Kind, url: str) -> None:
    """Rule: while a file is replaced, its readers find either content, never part of one."""
    contents = {letter * 400_000 for letter in (b"a", b"b")}
    async with (
        opened(url, kind.options) as first,
        opened(url, kind.options) as second,
        opened(url, kind.options) as reader,
    ):
        await first.check_writable()
        await first.publish("a.png", min(contents), "image/png")

        async def write(writer: Destination, content: bytes) -> None:
            for _ in range(8):
                await writer.publish("a.png", content, "image/png")

        writing = asyncio.gather(
            *(write(one, c) for one, c in zip((first, second), contents, strict=True))
        )
        seen = 0
        while not writing.done():
            found = await reader.read("a.png")
            assert found in contents or (found is None and not kind.replaces_at_once)
            seen += 1
        await writing
        assert seen > 0
        assert set(await reader.list()) == {"a.png"}


PUBLISHES = """
    import asyncio, itertools, json, sys
    from nanobanana_blocks.storage.destination import Destination

    async def main():
        url, options = json.loads(sys.argv[1])
        for name, value in options.items():
            if isinstance(value, dict) and "bytes" in value:
                options[name] = value["bytes"].encode()
        options = {n: tuple(v) if n == "auth" else v for n, v in options.items()}
        destination = await Destination.open(url, options)
        await destination.check_writable()
        for number in itertools.count():
            content = bytes([number % 256]) * 3_000_000
            await destination.publish(f"{number % 3}.png", content, "image/png")
            print(number, flush=True)

    asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_killed_process_leaves_no_part_of_a_file(kind: Kind, url: str) -> None:
    """Rule: whenever a process is killed, a file under its final name is whole."""
    if kind.url.startswith("memory"):
        pytest.skip("it ends with its process")
    options = {
        n: {"bytes": v.decode()} if isinstance(v, bytes) else v for n, v in kind.options.items()
    }
    for attempt in range(6):
        publisher = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PUBLISHES), json.dumps([url, options])],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
        )
        assert publisher.stdout is not None
        for _ in range(attempt + 1):
            line = await asyncio.to_thread(publisher.stdout.readline)
            assert line, "the publisher ended by itself"
        await asyncio.sleep(attempt * 0.0031)
        os.kill(publisher.pid, signal.SIGKILL)
        publisher.wait()
        publisher.stdout.close()
        async with opened(url, kind.options) as destination:
            for name, size in (await destination.list()).items():
                content = await destination.read(name)
                if content is None and not kind.replaces_at_once:
                    continue
                assert size == 3_000_000
                assert content == content[:1] * 3_000_000


async def test_a_missing_bucket_is_told_and_not_made(kind: Kind) -> None:
    """Rule: no bucket is made that nobody asked for."""
    if kind.missing is None:
        pytest.skip("it has no buckets")
    if kind.makes_buckets:
        pytest.skip("the service itself makes a bucket that is written to")
    async with opened(kind.missing, kind.options) as destination:
        with pytest.raises(DestinationError, match="no such bucket"):
            await destination.check_writable()


async def test_wrong_credentials_are_told_and_not_shown(kind: Kind, url: str) -> None:
    """Rule: refused credentials are said to be refused, and stay out of the message."""
    if kind.wrong is None:
        pytest.skip("it asks for no credentials")
    with pytest.raises(DestinationError, match="refuses access") as caught:
        async with opened(url, kind.wrong) as destination:
            await destination.check_writable()
    assert "s3cr3t" not in str(caught.value)
    assert "AKIAWRONG" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("right", ["list", "read", "write"])
async def test_the_check_finds_a_missing_right(kind: Kind, right: str) -> None:
    """Rule: what may be written but not listed or read is found before anything is paid for."""
    if right not in kind.limited:
        pytest.skip("its server has no such rights apart")
    # Where folders are made, making one is another right.
    async with opened(kind.url, kind.limited[right]) as destination:
        with pytest.raises(DestinationError, match="refuses access") as caught:
            await destination.check_writable()
    if kind.url.startswith("s3"):
        names = {"list": "s3:ListBucket", "read": "s3:GetObject", "write": "s3:PutObject"}
        assert names[right] in str(caught.value)
    elif kind.url.startswith("az"):
        assert "SAS" in str(caught.value)


async def test_without_the_right_to_delete_one_check_file_stays(kind: Kind, url: str) -> None:
    """Rule: images can be landed without it; many checks leave no more than one of each file."""
    if "delete" not in kind.limited:
        pytest.skip("its server has no such right apart")
    if kind.url.startswith("ftp"):
        pytest.skip("deleting is the right to rename there, which publishing needs")
    for _ in range(3):
        async with opened(url, kind.limited["delete"]) as destination:
            await destination.check_writable()
            await destination.check_exclusive()
            assert destination.can_create is kind.exclusive
            await destination.publish("a.png", b"a", "image/png")
    async with opened(url, kind.options) as destination:
        assert await destination.list() == {"a.png": 1}
        for name in (".nanobanana-check", ".nanobanana-exclusive"):
            await destination.delete(name)
        await destination.delete("a.png")
        assert await _everything_in(destination) == []


async def _everything_in(destination: Destination) -> list[str]:
    """The names in a folder, hidden ones included."""
    folder: Any = destination._folder
    try:
        entries = await folder._call("ls", folder._root, detail=True)
    except FileNotFoundError:
        return []
    return [entry["name"] for entry in entries]


@pytest.mark.root
async def test_a_full_disk_is_told(kind: Kind) -> None:
    """Rule: no space is said to be so, whatever the protocol makes of it, and leaves no rest."""
    if kind.folder is None:
        pytest.skip("it serves no folder of this machine")
    full = kind.folder / f"full-{uuid.uuid4().hex}"
    full.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(full)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        # An operation's limit counts its retries, which a service without a code for it is given.
        url, limit = f"{kind.url}/{full.name}", 60.0 if kind.says_full else 15.0
        async with opened(url, kind.options, operation_seconds=limit) as destination:
            await destination.check_writable()
            await destination.publish("a.png", b"a" * 1000, "image/png")
            with pytest.raises(StorageError) as caught:
                await destination.publish("a.png", os.urandom(3_000_000), "image/png")
            assert "no space left" in str(caught.value) or not kind.says_full
            assert await destination.list() == {"a.png": 1000}
    finally:
        subprocess.run(["umount", "-l", str(full)], capture_output=True, check=False)


async def test_a_batch_run_twice_at_once_is_paid_for_once(
    kind: Kind, url: str, sandbox: Sandbox
) -> None:
    """Rule: where creation is exclusive, each row is paid for once; what is paid for lands."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0.1), image_bytes=20_000)
    rows = prompts(ROWS)
    patient = replace(PATIENT, unowned=600, living=600)
    async with opened(url, kind.options) as destination:
        await destination.check_writable()
        outcomes = await asyncio.gather(
            *(
                run(sandbox, url, rows, patience=patient, storage=kind.options, timeout=600)
                for _ in range(2)
            )
        )
        assert [one.error for told in outcomes for one in told if one.error] == []
        paid = sandbox.stats().submits
        assert paid == ROWS if kind.exclusive else ROWS <= paid <= 2 * ROWS
        files = await destination.list()
        receipts = [name for name in files if name.endswith(".json")]
        assert len(receipts) == paid
        for name in receipts:
            receipt = read_receipt(await destination.read(name) or b"")
            assert receipt is not None
            assert all(files[image.name] == image.size for image in receipt.images)


@pytest.mark.parametrize("what", ["closed", "silent", "unnamed"])
async def test_a_storage_out_of_reach_is_told_in_time(kind: Kind, what: str) -> None:
    """Rule: a closed port, a silent one and a host without a name end within our limit."""
    if kind.at_port is None:
        pytest.skip("it has no server")

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1] if what == "silent" else free_port()
    host = "no-such-host.invalid" if what == "unnamed" else "127.0.0.1"
    url, options = kind.at_port(host, port)
    seconds = 3.0 if what == "silent" else 25.0
    try:
        with pytest.raises(NanoBananaError) as caught:
            async with opened(url, options, check_seconds=seconds) as destination:
                await destination.check_writable()
    finally:
        listener.close()
    said = str(caught.value)
    assert any(words in said for words in ("no answer", "out of reach", "no such host")), said
    assert "s3cr3t" not in said


@pytest.mark.slow
async def test_50_destinations_leave_no_socket_thread_or_loop(kind: Kind, url: str) -> None:
    """Rule: what is opened is closed, on the loop that it lives on."""

    async def once() -> None:
        async with opened(url, kind.options) as destination:
            await destination.check_writable()
            await asyncio.gather(
                *(destination.publish(f"{n}.png", b"a", "image/png") for n in range(4))
            )

    # Servers that are threads of this process have the other ends of the same sockets.
    await once()
    await asyncio.to_thread(gc.collect)
    await asyncio.sleep(0.5)
    before = _held()
    for _ in range(TIMES):
        await once()
    for _ in range(100):
        gc.collect()
        await asyncio.sleep(0.1)
        sockets, threads, loops = _held()
        if sockets <= before[0] + 3 and threads <= before[1] + 3 and loops <= before[2]:
            return
    raise AssertionError(f"sockets, threads, loops: {before} before, {_held()} after")


def _held() -> tuple[int, int, int]:
    """The established connections, the threads and the open event loops of this process."""
    connections = [
        one for one in psutil.Process().net_connections(kind="tcp") if one.status == "ESTABLISHED"
    ]
    loops = [
        one
        for one in gc.get_objects()
        if isinstance(one, asyncio.BaseEventLoop) and not one.is_closed()
    ]
    return len(connections), threading.active_count(), len(loops)


ENDS = """
    import asyncio, gc, json, sys
    from nanobanana_blocks.storage.destination import Destination

    async def main():
        url, options = json.loads(sys.argv[1])
        for name, value in options.items():
            if isinstance(value, dict) and "bytes" in value:
                options[name] = value["bytes"].encode()
        options = {n: tuple(v) if n == "auth" else v for n, v in options.items()}
        async with await Destination.open(url, options) as destination:
            await destination.check_writable()
        del destination
        gc.collect()

    asyncio.run(main())
"""


async def test_a_program_ends_quietly_after_it_closed(kind: Kind, url: str) -> None:
    """Rule: a closed destination neither keeps its program from ending nor writes to stderr."""
    options = {
        n: {"bytes": v.decode()} if isinstance(v, bytes) else v for n, v in kind.options.items()
    }
    command = [sys.executable, "-c", textwrap.dedent(ENDS)]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, json.dumps([url, options])],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
