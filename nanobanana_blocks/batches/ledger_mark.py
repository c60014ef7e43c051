"""The mark by which a ledger is known from another one in its place, made later or put there."""

from __future__ import annotations

import secrets

from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.storage.destination import Destination

MARK = "ledger.json"
"""Written once, when the ledger is made, and never again."""

_MEDIA_TYPE = "application/json"


class LedgerMark:
    """What one run has found as mark of the ledger in `folder`; nothing until `make`."""

    def __init__(self, folder: Destination) -> None:
        self._folder = folder
        self._found: bytes | None = None
        self._is_ours = False

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
            self._is_ours = True
            self._found = await self._folder.read(MARK)

    async def require(self, own_entry: str | None) -> None:
        """Make sure that the ledger is still there, and still the same.

        Args:
            own_entry: The file of the last entry that this run has made there, where it has.

        Raises:
            DestinationError: It is not.
        """
        if self._found and await self._folder.read(MARK) != self._found:
            if await self._takes_over(own_entry):
                return
            raise DestinationError(
                f"{self._folder.path} is gone: the destination was deleted or replaced while this "
                "run was at work. Nothing more is submitted. Restore it, then run again; without "
                "it, rows that were paid for would be paid for again."
            )

    async def _takes_over(self, own_entry: str | None) -> bool:
        """Take over the mark of a run that began together with this one, where there is one.

        Without exclusive creation both make a mark, and the later one stays.
        """
        if self._folder.can_create or not self._is_ours:
            return False
        if own_entry is None or await self._folder.size_of(own_entry) is not None:
            self._found = await self._folder.read(MARK)
            return self._found is not None
        return False
