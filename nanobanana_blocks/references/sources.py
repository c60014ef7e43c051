"""What the text means by which a row, or a person, names a reference image; nothing is read.

A text is a URL that the service fetches by itself, another row of the batch, or a file: on any
storage that fsspec reaches, in the place of a saved block, or on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nanobanana_blocks.api.requests import is_url
from nanobanana_blocks.errors import DestinationError, UnusableReference
from nanobanana_blocks.storage.destination import StorageLocation
from nanobanana_blocks.storage.locations import Location
from nanobanana_blocks.storage.reading import split

__all__ = ["ROW", "LoadStore", "SourceFile", "SourceFinder", "is_file", "is_url"]

ROW = "row:"
"""What the name of another row begins with."""

LoadStore = Callable[[str], Awaitable["StorageLocation | None"]]
"""Gives the place that is saved under a name, or None where none is."""

_IN_A_STORE = re.compile(r"(?P<store>[a-z0-9]+(?:-[a-z0-9]+)*)/(?P<path>.+)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def is_file(text: str) -> bool:
    """Whether a text names a file, which the service cannot fetch by itself."""
    return not is_url(text) and not text.startswith(ROW)


@dataclass(frozen=True)
class SourceFile:
    """Where a file is: a storage, how it is reached, and the path there.

    `no_store` is what its text begins with, where that might have been meant as a saved place's
    name but is none.
    """

    root: Location
    path: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    no_store: str | None = field(default=None, compare=False)

    @classmethod
    def at(cls, place: str, options: Mapping[str, Any]) -> SourceFile:
        """The file that a path or URL names.

        Raises:
            DestinationError: It cannot be one.
        """
        root, path = split(Location.parse(place))
        return cls(root, path, {} if root.local is not None else options)

    @property
    def shown(self) -> str:
        """The file as it is remembered, and as messages may call it."""
        if self.root.local is not None:
            return str(self.root.local / self.path)
        return Location.child(self.root.redacted, self.path)

    @property
    def why_missing(self) -> str:
        """What to say where there is no such file."""
        meant = f", and no ImageStore is saved as {self.no_store!r}" if self.no_store else ""
        return f"{self.shown} does not exist{meant}: check the spelling"


class SourceFinder:
    """Finds the files that texts name.

    Args:
        near: The folder that relative paths begin in, such as a manifest's, with its options.
        also: Places whose options serve files of the same kind of storage, such as the images'.
        load_store: Gives saved places; without it, no text begins with a store's name.
    """

    def __init__(
        self,
        near: StorageLocation,
        also: StorageLocation | None = None,
        load_store: LoadStore | None = None,
    ) -> None:
        self._near = near
        self._also = also
        self._load_store = load_store
        self._stores: dict[str, StorageLocation | None] = {}

    async def find(self, text: str) -> SourceFile:
        """The file that a text names.

        Raises:
            UnusableReference: It cannot be one.
        """
        try:
            return await self._find(text)
        except DestinationError as error:
            raise UnusableReference(f"names no file: {error.message}") from None

    async def _find(self, text: str) -> SourceFile:
        if text.endswith("/"):
            raise DestinationError("it ends like a folder's name. Name a file in that folder.")
        if _SCHEME.match(text):
            return SourceFile.at(text, self._options_for(text))
        in_store = _IN_A_STORE.fullmatch(text)
        if in_store and self._load_store and (store := await self._store(in_store["store"])):
            if ".." in in_store["path"].split("/"):
                raise DestinationError("its path leads out of the place that it begins in.")
            return SourceFile.at(Location.child(store.url, in_store["path"]), store.options)
        if text.startswith(("/", "~")):
            return SourceFile.at(text, {})
        near = Location.child(self._near.url, text.removeprefix("./"))
        found = SourceFile.at(near, self._near.options)
        if in_store and self._load_store:
            return replace(found, no_store=in_store["store"])
        return found

    async def _store(self, name: str) -> StorageLocation | None:
        if name not in self._stores and self._load_store:
            self._stores[name] = await self._load_store(name)
        return self._stores.get(name)

    def _options_for(self, text: str) -> Mapping[str, Any]:
        protocol = Location.parse(text).protocol
        for place in (self._near, self._also):
            if place and Location.parse(place.url).protocol == protocol:
                return place.options
        # Given with a local folder, which has none, they are meant for the files.
        is_local = self._also is not None and Location.parse(self._also.url).local is not None
        return self._also.options if self._also and is_local else {}
