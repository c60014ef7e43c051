"""The receipts of a destination in a few files, so that a listing tells what has landed.

It is a convenience only, and never believed against the listing: what the listing contradicts, and
what is missing here, is read from the receipt itself. Of several runs at once, such as the shards
of a batch, each writes one of the files, as chance has it: where two write the same one, lines may
be lost, which costs reading those receipts. This module does no I/O.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterable, Mapping

from nanobanana_blocks.landing.receipt import Receipt, read_receipt

INDEX_NAMES = tuple(f".nanobanana-landed-{number}.jsonl" for number in range(8))
INDEX_MEDIA_TYPE = "application/jsonl"
HEAD = {"format": "nanobanana-landed", "version": 1}
MAX_BYTES = 128_000_000
"""A larger file is not read, and none is written: some 100,000 receipts."""

logger = logging.getLogger(__name__)


class ReceiptIndex:
    """What receipts hold, as far as it is known without reading them."""

    def __init__(self) -> None:
        self._contents: dict[str, set[bytes]] = {}
        self._news: dict[str, bytes] = {}

    @property
    def has_news(self) -> bool:
        """Whether anything was noted that was not known."""
        return bool(self._news)

    def note(self, name: str, data: bytes) -> None:
        """Take note of what a receipt holds, instead of what was known of it."""
        if self._contents.get(name) != {data}:
            self._contents[name] = {data}
            self._news[name] = data

    def find(self, name: str, sizes: Mapping[str, int]) -> tuple[bytes, Receipt] | None:
        """A receipt that need not be read: it, and its images, have the sizes that are known.

        Args:
            name: The receipt's file name.
            sizes: The size of every file in the destination.
        """
        found = [
            (data, receipt)
            for data in self._contents.get(name, ())
            if sizes.get(name) == len(data)
            and (receipt := read_receipt(data))
            and all(sizes.get(image.name) == image.size for image in receipt.images)
        ]
        return found[0] if len(found) == 1 else None

    def add(self, stored: Mapping[str, bytes]) -> None:
        """Take note of what a file holds."""
        for name, data in stored.items():
            self._contents.setdefault(name, set()).add(data)

    def merged_into(self, stored: Mapping[str, bytes], there: Container[str]) -> dict[str, bytes]:
        """What a file is to hold: what it holds by now, and the news, of what is `there`."""
        together = {**stored, **self._news}
        return {name: data for name, data in together.items() if name in there}


def to_bytes(receipts: Mapping[str, bytes]) -> bytes:
    """As a file: a line that says what it is, and a line for each receipt."""
    lines: Iterable[object] = ([name, data.decode()] for name, data in receipts.items())
    return "".join(f"{json.dumps(line)}\n" for line in (HEAD, *lines)).encode()


def from_bytes(data: bytes | None, *, where: str) -> dict[str, bytes]:
    """Read what `to_bytes` has made; a damaged or foreign file holds nothing.

    Args:
        data: The file's content; None where there is none.
        where: The file, for the line in the log.
    """
    if not data:
        return {}
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("it is too large")
        head, *lines = data.splitlines()
        if json.loads(head) != HEAD:
            raise ValueError("it is something else")
        return {str(name): text.encode() for name, text in map(json.loads, lines)}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        logger.info("Ignoring %s (%s); receipts are read one by one", where, error)
        return {}
