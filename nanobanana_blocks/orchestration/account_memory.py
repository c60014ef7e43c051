"""Keeps what runs have learned of an account's generation times, as a Prefect variable.

So a run into a new destination polls as well as one into an old one.
"""

from __future__ import annotations

import base64
import time
import zlib

import anyio
from prefect.variables import Variable

from nanobanana_blocks.api.summary import MAX_BYTES, LearnedSummary
from nanobanana_blocks.errors import StorageError
from nanobanana_blocks.orchestration.account_budget import PREFECT_FAILED

PREFECT_SECONDS = 3.0
MAX_TEXT_LENGTH = 4990
"""Prefect takes values of 5,000 characters, as JSON."""


def memory_name(credentials: str) -> str:
    """The name of the variable of the account behind a credentials block."""
    return f"nanobanana-{credentials}-generation-times"


class AccountMemory:
    """The summary in the variable of one account; compressed, and of the kinds known best."""

    def __init__(self, credentials: str) -> None:
        self._name = memory_name(credentials)

    def __str__(self) -> str:
        return f"the Prefect variable {self._name}"

    async def read(self) -> LearnedSummary:
        """What the variable holds; empty where there is none, or where it is something else.

        Raises:
            StorageError: Prefect refused, or was not reached.
            TimeoutError: It took too long.
        """
        try:
            with anyio.fail_after(PREFECT_SECONDS):
                text = await Variable.aget(self._name)
        except PREFECT_FAILED as error:
            raise StorageError(str(error) or type(error).__name__) from None
        if text is None:
            return LearnedSummary()
        return LearnedSummary.from_json(_unpacked(text), time.time(), where=str(self))

    async def write(self, summary: LearnedSummary) -> None:
        """Replace the variable's value.

        Raises:
            StorageError: Prefect refused, or was not reached.
            TimeoutError: It took too long.
        """
        try:
            with anyio.fail_after(PREFECT_SECONDS):
                await Variable.aset(self._name, _packed(summary), overwrite=True)
        except PREFECT_FAILED as error:
            raise StorageError(str(error) or type(error).__name__) from None


def _packed(summary: LearnedSummary) -> str:
    now = time.time()
    kinds = len(summary.kinds)
    while True:
        data = summary.of_best_known(kinds).to_json(now)
        text = base64.b64encode(zlib.compress(data, 9)).decode()
        if len(text) <= MAX_TEXT_LENGTH or kinds == 0:
            return text
        kinds -= 1


def _unpacked(text: object) -> bytes:
    try:
        data = base64.b64decode(str(text), validate=True)
        return zlib.decompressobj().decompress(data, MAX_BYTES + 1)
    except (ValueError, zlib.error):
        return b""
