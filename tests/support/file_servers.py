"""WebDAV and FTP services for a folder of this machine, each on a free port, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECRET = "s3cr3t-access-key"


@contextmanager
def webdav_server(folder: Path, wrap: Callable[[Any], Any] = lambda app: app) -> Iterator[int]:
    """Serve a folder by WebDAV to the user ann, through what `wrap` makes of the WSGI application.

    Yields:
        The port.
    """
    pytest.importorskip("webdav4", reason="pip install 'webdav4[fsspec]'")
    served = pytest.importorskip("wsgidav.wsgidav_app", reason="pip install wsgidav")
    wsgi = pytest.importorskip("cheroot.wsgi", reason="pip install cheroot")
    app = served.WsgiDAVApp(
        {
            "provider_mapping": {"/": str(folder)},
            "simple_dc": {"user_mapping": {"*": {"ann": {"password": SECRET}}}},
            "http_authenticator": {"accept_basic": True, "default_to_digest": False},
            "logging": {"enable": False},
            "verbose": 0,
        }
    )
    server = wsgi.Server(("127.0.0.1", 0), wrap(app), numthreads=20)
    server.prepare()
    serving = threading.Thread(target=server.serve, daemon=True)
    serving.start()
    try:
        yield int(server.bind_addr[1])
    finally:
        server.stop()
        serving.join()


def webdav_options(port: int, host: str = "127.0.0.1") -> dict[str, Any]:
    """Storage options that reach it."""
    return {"base_url": f"http://{host}:{port}", "auth": ("ann", SECRET)}


@contextmanager
def ftp_server(
    folder: Path, users: Mapping[str, str] | None = None, **handler: Any
) -> Iterator[int]:
    """Serve a folder by FTP to users with rights, ann with all by default.

    Args:
        folder: What they see as the root.
        users: Rights in pyftpdlib's letters, by the user's name.
        handler: Attributes and methods of the handler that are other than pyftpdlib's.

    Yields:
        The port.
    """
    handlers = pytest.importorskip("pyftpdlib.handlers", reason="pip install pyftpdlib")
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.servers import ThreadedFTPServer

    authorizer = DummyAuthorizer()
    for user, rights in (users or {"ann": "elradfmwMT"}).items():
        authorizer.add_user(user, SECRET, str(folder), perm=rights)
    kind = type("Handler", (handlers.FTPHandler,), {"authorizer": authorizer, **handler})
    server = ThreadedFTPServer(("127.0.0.1", 0), kind)
    server.max_cons = 2000
    serving = threading.Thread(target=server.serve_forever, kwargs={"timeout": 0.2}, daemon=True)
    serving.start()
    try:
        yield int(server.address[1])
    finally:
        server.close_all()
        serving.join()


def ftp_options(user: str = "ann", password: str = SECRET) -> dict[str, Any]:
    """Storage options that log in there."""
    return {"username": user, "password": password}
