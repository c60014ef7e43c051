"""What a destination's path or URL names; each kind of invalid one gets its own clear error.

Nothing is asked of a storage here. What several kinds of storage would read in different ways, or
list as empty although it can be read (``a//b``), is refused rather than changed: a silent change
would look for a batch's ledger in another folder, and pay again.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

from fsspec.registry import known_implementations, registry

from nanobanana_blocks.errors import DestinationError


@dataclass(frozen=True)
class Location:
    """A destination's URL after its check.

    Attributes:
        protocol: fsspec's name of the kind of storage; ``file`` for local folders.
        url: The URL or absolute local path, without a slash at its end; may hold a password.
        redacted: The same without password, query and fragment, as messages may have it.
        local: The absolute path of a local folder; None for every other kind of storage.
    """

    protocol: str
    url: str = field(repr=False)
    redacted: str
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
        if "\\" in path and os.sep != "\\":
            raise DestinationError(
                f"{text}: a backslash separates no folders on this system. Write forward slashes."
            )
        if absolute and _ESCAPED.search(path):
            raise DestinationError(
                f"{text}: percent signs in a file URL are taken literally. Write the plain path."
            )
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 - Path.resolve would follow links
        if str(folder) != str(folder).strip():
            raise DestinationError(
                f"{text}: the folder's name ends with a space, which is dropped where it is read "
                "again. Rename the folder."
            )
        return cls(protocol="file", url=str(folder), redacted=str(folder), local=folder)

    @classmethod
    def _remote(cls, text: str, protocol: str) -> Location:
        redacted = _without_secrets(text)
        if reason := _REFUSED.get(protocol):
            raise DestinationError(f"{redacted}: {reason}")
        if not _is_known(protocol):
            raise DestinationError(
                f"{redacted}: fsspec knows no protocol {protocol!r}. Known are s3, gs, az, sftp, "
                "file and others; check the spelling."
            )
        if "?" in text or "#" in text:
            raise DestinationError(
                f"{redacted}: a destination has no `?` or `#`; some backends would cut the name "
                "there. Put options in storage_options."
            )
        prefix, rest = f"{protocol}://", text.partition("://")[2].rstrip("/")
        if protocol == "memory":
            rest = rest.lstrip("/")  # both ways of writing it name the same folder
        elif not rest or (protocol in _NAMES_AUTHORITY and rest.split("/")[0] in ("", ".", "..")):
            raise DestinationError(
                f"{redacted}: it names no bucket, container or host. Write {prefix}NAME/folder."
            )
        if protocol in ("sftp", "ssh") and "/" not in rest:
            raise DestinationError(
                f"{redacted}: it names no folder on the host. Write {prefix}HOST/folder."
            )
        path = rest if protocol == "memory" else rest.partition("/")[2]
        if reason := _invalid_path(path, protocol):
            raise DestinationError(f"{redacted}: {reason}")
        return cls(protocol=protocol, url=prefix + rest, redacted=_without_secrets(prefix + rest))

    def parent_and_name(self) -> tuple[Location, str]:
        """The folder that this is in, and its name there.

        Raises:
            DestinationError: It is a root, a bucket, a container or a host.
        """
        if self.local is not None:
            folder = self.local.parent
            if not self.local.name:
                raise DestinationError(f"{self.redacted}: this is a folder. Name the file in it.")
            return Location("file", str(folder), str(folder), folder), self.local.name
        prefix, _, path = self.url.partition("://")
        folder_path, slash, name = path.rpartition("/")
        if not name or (not slash and self.protocol != "memory"):
            raise DestinationError(f"{self.redacted}: it names no file.")
        url = f"{prefix}://{folder_path}"
        return replace(self, url=url, redacted=_without_secrets(url)), name

    @staticmethod
    def child(url: str, name: str) -> str:
        """The path or URL of a file or folder inside a folder, given as users write it."""
        text = url.strip()
        return text + name if text.endswith("/") else f"{text}/{name}"


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(://|:/|:)")
_CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
_NAMES_AUTHORITY = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "sftp", "ssh"})
"""Protocols whose URLs begin with a bucket, a container or a host."""
_AZURE = frozenset({"az", "abfs", "abfss"})
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


def _invalid_path(path: str, protocol: str) -> str | None:
    """What is wrong with the folders that a URL names, and the next step; None if nothing is.

    Each was seen to be listed as empty, or to be read as another folder, by a client or a server.
    """
    folders = path.split("/")
    if "" in folders and path:
        return (
            "two slashes in a row make a folder without a name, which many storages list as empty. "
            "Write one."
        )
    if "." in folders or ".." in folders:
        return "`.` and `..` are names like any other to a storage. Write the whole path."
    if "\\" in path:
        return "a backslash separates no folders in a URL. Write forward slashes."
    if any(folder != folder.strip() for folder in folders):
        return "a folder's name begins or ends with a space, which some storages drop. Remove it."
    if _ESCAPED.search(path):
        return "percent signs are taken literally. Write the characters themselves, also spaces."
    if not unicodedata.is_normalized("NFC", path):
        return (
            "it holds letters in two parts (an accent by itself), as when copied from a file list "
            "on macOS; to a storage that is another name. Type it anew."
        )
    if protocol in _AZURE and any(folder.endswith(".") for folder in folders):
        return "Azure drops the dots at the end of a folder's name. Remove them."
    return None


def _is_known(protocol: str) -> bool:
    return protocol in known_implementations or protocol in registry


def _without_secrets(url: str) -> str:
    """The URL without its password, its query and its fragment."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"{url.partition(':')[0]}:…" if "@" in url else url
    whole, rest = rest, re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if ":" in authority and "@" in whole[len(authority) :]:
        # Perhaps a password with one of `/?#` in it, so only what is before it can be shown.
        return f"{scheme}://{authority.partition(':')[0]}:…"
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
    return place.strip() if location.local else location.redacted
