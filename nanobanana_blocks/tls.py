"""What HTTPS hosts are verified with, read once a process: reading it takes 20 ms of computing."""

from __future__ import annotations

import functools
import os
import ssl

import httpx


def trusted_authorities() -> ssl.SSLContext:
    """The authorities of `SSL_CERT_FILE` or `SSL_CERT_DIR`, else certifi's; clients share it."""
    return _read(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.lru_cache(maxsize=4)
def _read(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()
