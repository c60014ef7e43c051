"""Batches as runs have them, against a sandbox and a local folder, without Prefect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from nanobanana_blocks import NanoBananaClient, PollPolicy
from nanobanana_blocks.api.wait_state import DEFAULT_PATIENCE
from nanobanana_blocks.api.wait_state import Patience as ClientPatience
from nanobanana_blocks.batches.attempts import AttemptState
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.claims import open_claims
from nanobanana_blocks.batches.leases import open_leases
from nanobanana_blocks.batches.ledger import open_ledger
from nanobanana_blocks.batches.manifest import Row, parse_manifest
from nanobanana_blocks.batches.report import RowOutcome
from nanobanana_blocks.batches.submitter import Patience, Submitter
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.sandbox import Sandbox
from nanobanana_blocks.storage.destination import StorageLocation

QUICK = PollPolicy.fixed(0.05)
NO_PATIENCE = Patience(unowned=0, living=0, poll=0.05)
PATIENT = Patience(unowned=60, living=60, poll=0.05)


def rows_of(*rows: dict[str, Any]) -> Sequence[Row]:
    """The rows of a JSONL manifest."""
    text = "\n".join(json.dumps(row) for row in rows)
    return parse_manifest(text.encode(), source="rows.jsonl").rows


def prompts(count: int) -> Sequence[Row]:
    """Rows with a prompt and nothing else."""
    return rows_of(*({"prompt": f"Banana {number}"} for number in range(count)))


@asynccontextmanager
async def opened(
    sandbox: Sandbox,
    folder: Path | str,
    rows: Sequence[Row],
    *,
    timeout: float = 10.0,
    in_flight: int = 20,
    patience: Patience = NO_PATIENCE,
    silent_seconds: float = 45.0,
    client_patience: ClientPatience = DEFAULT_PATIENCE,
    storage: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Batch]:
    """A batch in a folder, reached with these storage options, as one run has it."""
    images = StorageLocation(str(folder), storage or {})
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        client = await enter(
            NanoBananaClient(sandbox.api_key, sandbox.base_url, patience=client_patience)
        )
        place = await enter(await images.open())
        leases = await enter(open_leases(images, silent_seconds=silent_seconds))
        ledger = await enter(open_ledger(images, owner=leases.owner))
        claims = await enter(open_claims(images, leases, exclusive=ledger.is_exclusive))
        landing = await enter(
            open_lander((), client, place, timeout=timeout, poll=QUICK, expecting=len(rows))
        )
        await ledger.load(row.key for row in rows)
        submitter = Submitter(
            client, ledger, timeout=timeout, leases=leases, patience=patience, **options
        )
        yield Batch(
            "rows.jsonl", "digest", rows, submitter, landing, in_flight=in_flight, claims=claims
        )
        await landing.folder.keep_index()


async def run(
    sandbox: Sandbox, folder: Path | str, rows: Sequence[Row], **options: Any
) -> list[RowOutcome]:
    """Process all rows, and return what became of them."""
    async with opened(sandbox, folder, rows, **options) as made:
        await made.process_each(made.rows)
        return [made.outcomes[row.number] for row in rows]


async def entries(folder: Path | str) -> dict[str, AttemptState]:
    """What the ledger says of each row's last attempt, by key."""
    async with open_ledger(StorageLocation(str(folder))) as ledger:
        await ledger.load()
        return {entry.key: entry.state for entry in ledger.entries()}


def statuses(outcomes: Sequence[RowOutcome]) -> list[str]:
    return [outcome.status.value for outcome in outcomes]


def classes(outcomes: Sequence[RowOutcome]) -> list[str | None]:
    return [outcome.error and outcome.error.class_name for outcome in outcomes]
