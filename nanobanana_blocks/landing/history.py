"""What has landed in a folder, from its receipts, in the order of time; it writes nothing there.

What was read lies in a file meanwhile, so that of a large folder only its listing is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import IO

from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.landing.receipt import Receipt, is_unfinished, read_receipt, version_of
from nanobanana_blocks.storage.destination import Destination

READ_AT_ONCE = 16
MAX_RECEIPT_BYTES = 4_000_000
"""A larger file is no receipt, and is not read."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class History:
    """The receipts of a folder, the oldest first, each with its file name; see `read_history`.

    Attributes:
        unreadable: How many files are receipts that this version does not understand, or torn.
        images: How many images the receipts name.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.unreadable = 0
        self.images = 0
        self._file = file
        self._places: list[tuple[datetime, str, int, int]] = []

    def add(self, name: str, data: bytes) -> None:
        """Take note of a file, if it is a receipt."""
        receipt = read_receipt(data)
        if receipt is None:
            is_one = version_of(data) is not None or (bool(data) and is_unfinished(data))
            self.unreadable += is_one
            return
        self.images += len(receipt.images)
        start = self._file.seek(0, 2)
        self._places.append((receipt.landed_at or _LONG_AGO, name, start, len(data)))
        self._file.write(data)

    def sort(self) -> None:
        """Put the oldest first."""
        self._places.sort()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[str, Receipt]]:
        for _, name, start, length in self._places:
            self._file.seek(start)
            yield name, Receipt.model_validate_json(self._file.read(length))


async def read_history(
    destination: Destination, file: IO[bytes], on_read: Callable[[], None] = lambda: None
) -> History:
    """Read the receipts of a folder.

    Args:
        destination: The folder; its caller closes it.
        file: An empty file for what is read, to be kept open while the history is used.
        on_read: Called after each file that was read.

    Raises:
        DestinationError: The folder cannot be listed, or a file cannot be read.
        StorageError: Likewise, where trying again may help.
    """
    history = History(file)

    async def read(name: str) -> None:
        history.add(name, await destination.read(name) or b"")
        on_read()

    sizes = await destination.list()
    wanted = (n for n, size in sizes.items() if n.endswith(".json") and size <= MAX_RECEIPT_BYTES)
    await map_concurrently(read, wanted, at_once=READ_AT_ONCE)
    history.sort()
    return history
