"""A folder that the world, which is this machine, can read; it counts who reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class World:
    """Who reads a public folder.

    Attributes:
        url: Where the folder is read.
        checks: How many requests asked for the first bytes only, as checks do.
        fetches: How many asked for all.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.checks = self.fetches = 0


@contextmanager
def public_folder(folder: Path) -> Iterator[World]:
    """Give a folder to the world, for as long as the block lasts."""
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with counting:
                is_check = "range" in self.headers
                world.checks += is_check
                world.fetches += not is_check
            super().do_GET()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    counting = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    world = World(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
