"""One rule of how far away a host is, for the API, callbacks and images alike."""

from __future__ import annotations

import pytest

from nanobanana_blocks.addresses import Reach, is_private_host
from nanobanana_blocks.api.connection import check_base_url
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.images.egress import EgressRules

HOSTS = {
    "localhost": Reach.LOOPBACK,
    "LocalHost.": Reach.LOOPBACK,
    "a.localhost": Reach.LOOPBACK,
    "127.0.0.1": Reach.LOOPBACK,
    "127.1": Reach.LOOPBACK,
    "0x7f000001": Reach.LOOPBACK,
    "[::1]": Reach.LOOPBACK,
    "10.0.0.1": Reach.PRIVATE,
    "10.0.0.1.": Reach.PRIVATE,
    "100.64.0.1": Reach.PRIVATE,
    "[64:ff9b::a00:1]": Reach.PRIVATE,
    "169.254.1.1": Reach.NOWHERE,
    "192.0.2.1": Reach.NOWHERE,
    "0.0.0.0": Reach.NOWHERE,  # noqa: S104 - an address to refuse
    "999.1": Reach.NOWHERE,
    "93.184.216.34": Reach.PUBLIC,
    "notlocalhost": Reach.PUBLIC,
    "localhost.example.com": Reach.PUBLIC,
    "10.example": Reach.PUBLIC,
}


@pytest.mark.parametrize(("host", "reach"), HOSTS.items())
def test_all_who_ask_get_one_answer(host: str, reach: Reach) -> None:
    """Rule: the key goes openly only where images may come from openly or privately, too."""
    near = reach in (Reach.LOOPBACK, Reach.PRIVATE)
    assert Reach.of_host(host) is reach
    assert is_private_host(host) is near
    assert EgressRules.for_api(f"https://{host}").reach is (reach if near else Reach.PUBLIC)
    if near:
        assert check_base_url(f"http://{host}")
    else:
        with pytest.raises(InvalidInput):
            check_base_url(f"http://{host}")
