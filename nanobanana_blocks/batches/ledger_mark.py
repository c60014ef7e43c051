"""The mark by which a ledger is known from another one in its place, made later or put there."""

from __future__ import annotations

import secrets

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.destination import Destination

MARK = "ledger.json"
"""Written when the ledger is made, and never again.

Where creation is not exclusive, two runs that begin at once both make one, and the later one stays.
"""

_MEDIA_TYPE = "application/json"


class LedgerMark:
    """What one run has found as mark of the ledger in `folder`; nothing until `make`."""

    def __init__(self, folder: Destination) -> None:
        self._folder = folder
        self._found: bytes | None = None
        self._was_made_here = False

    async def make(self) -> None:
        """Make sure that there is one.

        Raises:
            StorageError: It could not be written.
        """
        self._found = await self._folder.read(MARK)
        if not self._found:
            data = f'{{"version":1,"id":"{secrets.token_hex(16)}"}}'.encode()
            if self._folder.can_create:
                await self._folder.create(MARK, data, _MEDIA_TYPE)
            else:
                await self._folder.publish(MARK, data, _MEDIA_TYPE)
            self._was_made_here = True
            self._found = await self._folder.read(MARK)

    async def require(self, own_entry: str | None) -> None:
        """Make sure that the ledger is still there, and still the same.

        Args:
            own_entry: The file of the last entry that this run has made there, where it has.

        Raises:
            DestinationError: It is not.
        """
        if not self._found:
            return
        found = await self._folder.read(MARK)
        if found == self._found:
            return
        if found and await self._is_same_ledger(own_entry):
            self._found = found
            return
        raise DestinationError(
            f"{self._folder.path} is gone: the destination was deleted or replaced while this "
            "run was at work. Nothing more is submitted. Restore it, then run again; without "
            "it, rows that were paid for would be paid for again."
        )

    async def _is_same_ledger(self, own_entry: str | None) -> bool:
        """Whether another mark is there because a run that began with this one has made it, too."""
        if self._folder.can_create or not self._was_made_here:
            return False
        return own_entry is None or await self._folder.size_of(own_entry) is not None
