"""Which run lands a task that none at work has submitted, so that it is fetched once; no waiting.

A run that submits a row lands it, and its lease shows that it is at work. What is left, tasks of
dead runs and tasks given by their ids, is claimed: by a small file beside the images, created
exclusively, whose number grows with each owner that died. As in the ledger, none is ever deleted.
Where files cannot be created exclusively, every claim is granted: run one batch at a time there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nanobanana_blocks.batches.leases import Leases, Liveness
from nanobanana_blocks.storage.destination import Destination, StorageLocation
from nanobanana_blocks.storage.names import safe_name

FOLDER = ".nanobanana/claims"


class Claim(BaseModel):
    """The file of a claim: whose it is."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    task_id: str
    owner: str


class Claims:
    """The claims in one place; made by `open_claims`."""

    def __init__(self, folder: Destination, leases: Leases, *, exclusive: bool) -> None:
        self._folder = folder
        self._leases = leases
        self._exclusive = exclusive
        self._granted: set[str] = set()

    async def owner_of(self, task_id: str) -> str:
        """The living run that lands a task: this one, unless another has claimed it.

        Raises:
            StorageError: The storage cannot tell.
        """
        own = self._leases.owner
        if task_id in self._granted or not self._exclusive:
            return own
        data = Claim(task_id=task_id, owner=own).model_dump_json().encode()
        for number in count(1):
            name = f"{safe_name(task_id)}.{number}.json"
            if not await self._folder.create(name, data, "application/json"):
                owner = _owner_in(await self._folder.read(name) or b"")
                if owner and owner != own and await self._is_alive(owner):
                    return owner
                if owner != own:
                    continue
            break
        self._granted.add(task_id)
        return own

    async def _is_alive(self, owner: str) -> bool:
        return await self._leases.liveness(owner) in (Liveness.AT_WORK, Liveness.UNKNOWN)


def _owner_in(content: bytes) -> str | None:
    try:
        return Claim.model_validate_json(content).owner
    except ValidationError:
        return None


@asynccontextmanager
async def open_claims(
    images: StorageLocation, leases: Leases, *, exclusive: bool
) -> AsyncIterator[Claims]:
    """Reach the claims beside the images, for the run that `leases` belongs to.

    Args:
        images: Where the images go.
        leases: Tell whether the owner of a claim is at work.
        exclusive: Whether files can be created exclusively there, as the ledger has found out.

    Raises:
        DestinationError: The storage cannot be written to.
    """
    async with await images.child(FOLDER).open() as folder:
        await folder.check_writable()
        yield Claims(folder, leases, exclusive=exclusive)
