"""WebDAV servers that replace a file by deleting it first, and what they say meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nanobanana_blocks.errors import DestinationError, StorageError
from nanobanana_blocks.storage.causes import Cause
from nanobanana_blocks.storage.destination import Destination
from tests.support.file_servers import webdav_options, webdav_server


class Answering:
    """A WSGI application that answers some requests with a status of its own."""

    def __init__(self) -> None:
        self.statuses: dict[tuple[str, bool], list[str]] = {}
        """The next answers, by the method and whether a file of final name is asked for."""

    def wrap(self, app: Any) -> Any:
        def answer(environ: Any, start: Any) -> Any:
            path = environ["PATH_INFO"]
            final = path.endswith(".png")
            if statuses := self.statuses.get((environ["REQUEST_METHOD"], final)):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(statuses.pop(0), [("Content-Length", "0")])
                return [b""]
            return app(environ, start)

        return answer


@asynccontextmanager
async def served(folder: Path, answering: Answering) -> AsyncIterator[Destination]:
    """A folder of a WebDAV server, checked."""
    with webdav_server(folder, answering.wrap) as port:
        options = webdav_options(port)
        async with await Destination.open("webdav://images", options) as destination:
            await destination.check_writable()
            yield destination


async def test_a_file_that_another_writer_is_replacing_is_looked_for_again(tmp_path: Path) -> None:
    """Rule: what was moved and is not seen at once is neither lost nor a missing folder."""
    answering = Answering()
    async with served(tmp_path, answering) as destination:
        answering.statuses["PROPFIND", True] = ["404 Not Found"] * 3
        await destination.publish("a.png", b"a", "image/png")
        assert answering.statuses["PROPFIND", True] == []
        assert await destination.list() == {"a.png": 1}


async def test_a_check_whose_file_another_check_deleted_goes_on(tmp_path: Path) -> None:
    """Rule: two runs that begin at once check the same folder, and both begin."""
    answering = Answering()

    def deleting(app: Any) -> Any:
        answer = answering.wrap(app)

        def then_delete(environ: Any, start: Any) -> Any:
            body = list(answer(environ, start))
            probe = tmp_path / "images" / ".nanobanana-check"
            if environ["REQUEST_METHOD"] == "MOVE" and probe.exists() and not deleted:
                probe.unlink()
                deleted.append(probe)
            return body

        return then_delete

    deleted: list[Path] = []
    with webdav_server(tmp_path, deleting) as port:
        options = webdav_options(port)
        async with await Destination.open("webdav://images", options) as destination:
            await destination.check_writable()
    assert deleted


async def test_a_move_that_did_nothing_is_found_out(tmp_path: Path) -> None:
    """Rule: that a server accepted a move is not yet that the file is there."""
    answering = Answering()
    async with served(tmp_path, answering) as destination:
        answering.statuses["MOVE", False] = ["204 No Content"] * 3
        with pytest.raises(StorageError, match="does not show what is there"):
            await destination.publish("a.png", b"a", "image/png")


async def test_a_folder_that_is_there_is_not_empty_because_a_listing_missed(tmp_path: Path) -> None:
    """Rule: 404 to a listing is an empty folder only where there is none."""
    answering = Answering()
    async with served(tmp_path, answering) as destination:
        await destination.publish("a.png", b"a", "image/png")
        answering.statuses["PROPFIND", False] = ["404 Not Found"]
        assert await destination.list() == {"a.png": 1}
        (tmp_path / "images" / "a.png").unlink()
        (tmp_path / "images").rmdir()
        assert await destination.list() == {}


async def test_a_folder_that_was_deleted_is_told_and_not_made_again(tmp_path: Path) -> None:
    """Rule: who deletes a destination in mid-run has a reason, or must hear of it."""
    async with served(tmp_path, Answering()) as destination:
        (tmp_path / "images").rmdir()
        with pytest.raises(DestinationError, match="no such bucket, container or folder"):
            await destination.publish("a.png", b"a", "image/png")


async def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """Rule: WebDAV's code for it is known, also where the backend drops it."""
    answering = Answering()
    async with served(tmp_path, answering) as destination:
        answering.statuses["PUT", False] = ["507 Insufficient Storage"]
        with pytest.raises(StorageError, match=Cause.FULL.value.partition(".")[0]):
            await destination.publish("a.png", b"a", "image/png")


async def test_credentials_may_be_a_list_as_json_has_it(tmp_path: Path) -> None:
    """Rule: what the documentation gives for a block works in one."""
    with webdav_server(tmp_path) as port:
        options = webdav_options(port)
        options["auth"] = list(options["auth"])
        async with await Destination.open("webdav://images", options) as destination:
            await destination.check_writable()
