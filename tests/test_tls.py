"""Who vouches for HTTPS hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanobanana_blocks import NanoBananaClient, TaskStatus
from nanobanana_blocks.errors import NetworkError
from nanobanana_blocks.tls import trusted_authorities
from tests.support.certificates import certificate_for, serving
from tests.support.raw_http import raw_server, success


def test_the_authorities_are_read_once() -> None:
    """Rule: a client a task run does not read them each time anew."""
    assert trusted_authorities() is trusted_authorities()


async def test_a_gateway_close_by_is_vouched_for_by_a_companys_authority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rule: `SSL_CERT_FILE` holds for private hosts too, and from when it is set."""
    certificate = certificate_for("localhost", tmp_path)
    async with raw_server(success("t1"), tls=serving(certificate)) as gateway:
        async with NanoBananaClient("a-key-of-the-tests", gateway.url) as client:
            with pytest.raises(NetworkError):
                await client.get_task_details("t1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with NanoBananaClient("a-key-of-the-tests", gateway.url) as client:
            assert (await client.get_task_details("t1")).status is TaskStatus.SUCCESS
