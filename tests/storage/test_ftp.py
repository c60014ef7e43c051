"""FTP servers on bad days, and old ones: no answer is taken for another command's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks.errors import DestinationError, StorageError
from nanobanana_blocks.storage.destination import Destination
from tests.support.file_servers import ftp_options, ftp_server


@asynccontextmanager
async def served(
    folder: Path, operation_seconds: float = 60.0, **handler: Any
) -> AsyncIterator[Destination]:
    """A folder of an FTP server, checked."""
    with ftp_server(folder, **handler) as port:
        url = f"ftp://127.0.0.1:{port}/images"
        opening = Destination.open(url, ftp_options(), operation_seconds=operation_seconds)
        async with await opening as destination:
            await destination.check_writable()
            yield destination


class Faulty:
    """Commands of a server that fails while `fails` is set, in one of its ways."""

    def __init__(self) -> None:
        self.fails = False

    def busy(self, command: str) -> dict[str, Any]:
        """A handler whose command is answered that the server is busy."""

        def answer(handler: Any, *args: Any) -> Any:
            if self.fails:
                handler.respond("450 Requested action not taken: busy.")
                return None
            from pyftpdlib.handlers import FTPHandler

            return getattr(FTPHandler, command)(handler, *args)

        return {command: answer}

    def twice(self, command: str) -> dict[str, Any]:
        """A handler that answers a command twice, so that each later answer comes late."""

        def answer(handler: Any, *args: Any) -> Any:
            from pyftpdlib.handlers import FTPHandler

            if self.fails:
                self.fails = False
                handler.respond("426 Connection closed; transfer aborted.")
            return getattr(FTPHandler, command)(handler, *args)

        return {command: answer}


@pytest.mark.parametrize("command", ["ftp_MLSD", "ftp_PASV"])
async def test_a_busy_server_has_no_empty_folder(tmp_path: Path, command: str) -> None:
    """Rule: what could not be listed is not empty, or what was paid for would be made again."""
    faulty = Faulty()
    async with served(tmp_path, **faulty.busy(command)) as destination:
        await destination.publish("a.png", b"a", "image/png")
        faulty.fails = True
        with pytest.raises(StorageError, match="cannot list it"):
            await destination.list()
        faulty.fails = False
        assert await destination.list() == {"a.png": 1}


@pytest.mark.parametrize("command", ["ftp_STOR", "ftp_RNFR", "ftp_SIZE", "ftp_DELE", "ftp_MLSD"])
async def test_an_answer_too_many_is_no_later_commands(tmp_path: Path, command: str) -> None:
    """Rule: a connection whose answers may be out of step is not used again."""
    faulty = Faulty()
    async with served(tmp_path, **faulty.twice(command)) as destination:
        await destination.publish("a.png", b"a" * 1000, "image/png")
        faulty.fails = True
        await destination.publish("a.png", b"b" * 2000, "image/png")
        await destination.publish("b.png", b"c", "image/png")
        await destination.delete("b.png")
        assert await destination.list() == {"a.png": 2000}
        assert not faulty.fails
        assert await destination.read("b.png") is None
        assert await destination.read("a.png") == b"b" * 2000
        # The server may begin a transfer that was given up after its temporary file was deleted.
        there = [path.name for path in (tmp_path / "images").iterdir()]
        assert [name for name in there if not name.startswith(".")] == ["a.png"]


async def test_a_server_without_the_newer_commands(tmp_path: Path) -> None:
    """Rule: MLSD and SIZE are not needed."""
    from pyftpdlib.handlers import FTPHandler

    known = {n: c for n, c in FTPHandler.proto_cmds.items() if n not in ("MLSD", "SIZE")}
    async with served(tmp_path, proto_cmds=known) as destination:
        assert await destination.list() == {}
        assert await destination.size_of("a.png") is None
        await destination.publish("a.png", b"a" * 70_000, "image/png")
        await destination.publish("a.png", b"abc", "image/png")
        assert await destination.list() == {"a.png": 3}
        assert await destination.size_of("a.png") == 3
        assert await destination.read("a.png") == b"abc"
        assert await destination.read("b.png") is None


async def test_a_folder_is_missing_or_denied(tmp_path: Path) -> None:
    """Rule: FTP has one answer for both; which it is, is asked for."""
    rights = {"ann": "elradfmwMT", "bob": "eradfmwMT"}
    (tmp_path / "images").mkdir()
    with ftp_server(tmp_path, rights) as port:
        for user, url in (("ann", "images"), ("ann", "none"), ("bob", "images"), ("bob", "none")):
            at = f"ftp://127.0.0.1:{port}/{url}"
            async with await Destination.open(at, ftp_options(user)) as destination:
                if (user, url) == ("bob", "images"):
                    with pytest.raises(DestinationError, match="refuses access"):
                        await destination.list()
                else:
                    assert await destination.list() == {}


@pytest.mark.parametrize("commands", [["ftp_RETR"], ["ftp_MLSD", "ftp_LIST"]])
async def test_what_is_made_in_between_is_not_denied(tmp_path: Path, commands: list[str]) -> None:
    """Rule: what was missing, and is there when it is looked for, is read; nothing refuses it."""
    refused: set[str] = set()

    def too_early(command: str) -> Any:
        def answer(handler: Any, path: str) -> Any:
            from pyftpdlib.handlers import FTPHandler

            if command in refused:
                return getattr(FTPHandler, command)(handler, path)
            refused.add(command)
            handler.respond("550 No such file or directory.")
            return None

        return answer

    handler = {command: too_early(command) for command in commands}
    async with served(tmp_path, **handler) as destination:
        await destination.publish("a.png", b"a", "image/png")
        assert await destination.read("a.png") == b"a"
        assert await destination.list() == {"a.png": 1}
    assert refused == set(commands)


async def test_a_server_that_never_answers_keeps_nothing_else_waiting(tmp_path: Path) -> None:
    """Rule: after a time limit the next operation begins at once, over a connection of its own."""
    faulty = Faulty()

    def silent(handler: Any, file: str, mode: str = "w") -> Any:
        from pyftpdlib.handlers import FTPHandler

        return None if faulty.fails else FTPHandler.ftp_STOR(handler, file, mode)

    async with served(tmp_path, operation_seconds=3.0, ftp_STOR=silent) as destination:
        await destination.publish("a.png", b"a", "image/png")
        faulty.fails = True
        with pytest.raises(StorageError, match="no answer within 3 s"):
            await destination.publish("a.png", b"b", "image/png")
        assert await destination.list() == {"a.png": 1}
        faulty.fails = False
        await destination.publish("a.png", b"cc", "image/png")
        assert await destination.list() == {"a.png": 2}


async def test_an_idle_connection_that_was_closed_is_made_again(tmp_path: Path) -> None:
    """Rule: servers end idle connections; the next operation begins with a new one."""
    seen: list[Any] = []
    async with served(tmp_path, on_login=lambda handler, _: seen.append(handler)) as destination:
        await destination.publish("a.png", b"a", "image/png")
        seen[0].close()
        assert await destination.list() == {"a.png": 1}
        assert len(seen) == 2
