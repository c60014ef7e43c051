"""Bytes from strangers: fetched within the rules, verified whole; nothing is stored.

What other rooms use is here; it is imported when it is first asked for, since HTTP and Pillow take
long to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanobanana_blocks.images.download import MAX_PIXELS, ImageDownloader
    from nanobanana_blocks.images.egress import EgressRules
    from nanobanana_blocks.images.limits import ByteBudget, TimeAllowance
    from nanobanana_blocks.images.probing import Probed, UrlProbe
    from nanobanana_blocks.images.verification import VerifiedImage, verify_image

__all__ = [
    "MAX_PIXELS",
    "ByteBudget",
    "EgressRules",
    "ImageDownloader",
    "Probed",
    "TimeAllowance",
    "UrlProbe",
    "VerifiedImage",
    "verify_image",
]

_MODULES = {
    "ByteBudget": "limits",
    "MAX_PIXELS": "download",
    "Probed": "probing",
    "UrlProbe": "probing",
    "EgressRules": "egress",
    "ImageDownloader": "download",
    "TimeAllowance": "limits",
    "VerifiedImage": "verification",
    "verify_image": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
