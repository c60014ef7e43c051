"""What a destination's URL means; every one that cannot be meant gets its own clear error."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fsspec.registry import known_implementations, registry

from nanobanana_blocks.errors import DestinationError


@dataclass(frozen=True)
class Location:
    """A destination's URL after its check; `shown` holds no password, `url` may."""

    protocol: str
    url: str = field(repr=False)
    shown: str
    local: Path | None = None

    @classmethod
    def parse(cls, url: str) -> Location:
        """Return the place that `url` names, or raise `DestinationError` with the next step."""
        text = url.strip()
        if not text:
            raise DestinationError(
                "the destination is blank. Give a folder or a URL such as s3://bucket/folder."
            )
        if not text.isprintable():
            raise DestinationError("the destination holds a control character. Retype it.")
        if _CHAINED.match(text) or ("://" in text and "::" in _IPV6_HOST.sub("", text)):
            raise DestinationError(
                f"{text.partition(':')[0]}:…: a chain of file systems cannot be written "
                "atomically. Give the URL of the storage itself."
            )
        scheme = _SCHEME.match(text)
        if scheme is None:
            return cls._local(text, text)
        protocol, separator = scheme.groups()
        if separator != "://":
            if not _is_known(protocol.lower()) and separator != ":/":
                return cls._local(text, text)
            raise DestinationError(
                f"{_without_secrets(text)}: a URL has two slashes after its protocol. "
                f"Write {protocol.lower()}://…"
            )
        if protocol != protocol.lower():
            raise DestinationError(
                f"{_without_secrets(text)}: protocols are written in lower case. "
                f"Write {protocol.lower()}://…"
            )
        if protocol in ("file", "local"):
            return cls._local(text, text[scheme.end() :], absolute=True)
        return cls._remote(text, protocol)

    @classmethod
    def _local(cls, text: str, path: str, *, absolute: bool = False) -> Location:
        try:
            folder = Path(path).expanduser()
        except RuntimeError:
            raise DestinationError(f"{text}: there is no such user's home folder.") from None
        if absolute and not folder.is_absolute():
            raise DestinationError(
                f"{text}: a file URL names an absolute path. Write file:///folder, with three "
                "slashes, or a plain path."
            )
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 - Path.resolve would follow links
        return cls(protocol="file", url=str(folder), shown=str(folder), local=folder)

    @classmethod
    def _remote(cls, text: str, protocol: str) -> Location:
        shown = _without_secrets(text)
        if reason := _REFUSED.get(protocol):
            raise DestinationError(f"{shown}: {reason}")
        if not _is_known(protocol):
            raise DestinationError(
                f"{shown}: fsspec knows no protocol {protocol!r}. Known are s3, gs, az, sftp, file "
                "and others; check the spelling."
            )
        if "?" in text or "#" in text:
            raise DestinationError(
                f"{shown}: a destination has no `?` or `#`; some backends would cut the name "
                "there. Put options in storage_options."
            )
        rest = text.split("://", 1)[1]
        if protocol != "memory" and not rest.strip("/"):
            raise DestinationError(f"{shown}: it names no bucket, container or host.")
        if protocol in ("sftp", "ssh") and not urlsplit(text).path.strip("/"):
            raise DestinationError(f"{shown}: it names no folder on the host.")
        return cls(protocol=protocol, url=text.rstrip("/"), shown=shown.rstrip("/"))


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(://|:/|:)")
_CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
_IPV6_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]")

_READ_ONLY = "it can be read only. Give a storage that can be written."
_ARCHIVE = "an archive or a cache cannot be written atomically. Give the storage itself."
_REFUSED = {
    **dict.fromkeys(("http", "https", "data", "git", "github", "gist"), _READ_ONLY),
    **dict.fromkeys(("zip", "tar", "libarchive", "reference"), _ARCHIVE),
    **dict.fromkeys(("simplecache", "filecache", "blockcache", "cached"), _ARCHIVE),
    **dict.fromkeys(("dir", "generic", "async_wrapper", "asyncwrapper"), _ARCHIVE),
    "adl": "Azure Data Lake Gen1 is retired. Write az://container/folder.",
}


def _is_known(protocol: str) -> bool:
    return protocol in known_implementations or protocol in registry


def _without_secrets(url: str) -> str:
    """The URL without its password, its query and its fragment."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"{url.partition(':')[0]}:…" if "@" in url else url
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not at and not re.fullmatch(r"[^:]*(?::[0-9]*)?|\[.*\](?::[0-9]*)?", authority):
        # Perhaps a password with a slash in it, so nothing after the first colon can be shown.
        return f"{scheme}://{authority.partition(':')[0]}:…"
    return f"{scheme}://{user.partition(':')[0]}{at}{host}{slash}{path}"


def redact(place: str) -> str:
    """The path or URL as logs and reports may hold it: without password, query and fragment."""
    try:
        location = Location.parse(place)
    except DestinationError:
        return f"{place.partition(':')[0]}:…"
    return place if location.local else location.shown
