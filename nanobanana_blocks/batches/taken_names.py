"""Names of rows that other rows, or other people's files, have already; found before a submit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nanobanana_blocks.batches.ledger import Ledger
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.landing.lander import Lander


async def refuse_taken_names(
    rows: Sequence[Row], ledger: Ledger, landing: Lander
) -> dict[int, InvalidInput]:
    """Make sure that no row's name is another's already.

    A receipt that says it is the row's own is adopted, where the ledger has lost its task. Of an
    older receipt, which does not say whose it is, only the row itself is refused.

    Returns:
        Why single rows are refused, by their numbers.

    Raises:
        InvalidInput: Some names are those of other rows, or of files that are not ours.
    """
    refused: dict[int, InvalidInput] = {}
    named = [row for row in rows if row.name]
    await landing.folder.list_once()
    why_taken = partial(_why_taken, ledger=ledger, landing=landing, refused=refused)
    reasons = await map_concurrently(why_taken, named)
    taken = [
        f"row {row.number}: {row.name} {why}"
        for row, why in zip(named, reasons, strict=True)
        if why
    ]
    if taken:
        more = f"; and {len(taken) - 20:,} more" if len(taken) > 20 else ""
        raise InvalidInput(
            f"names are taken in {landing.destination.path}: {'; '.join(taken[:20])}"
            f"{more}. Give other names, or another destination."
        )
    return refused


async def _why_taken(
    row: Row, *, ledger: Ledger, landing: Lander, refused: dict[int, InvalidInput]
) -> str | None:
    """Why the whole batch is not begun because of a row's name, if there is a reason."""
    name = row.name or ""
    task_ids = ledger.task_ids(row.key) + ([row.task_id] if row.task_id else [])
    receipt = await landing.folder.any_receipt(name)
    if receipt and receipt.task_id in task_ids:
        return None
    if receipt and row.request and receipt.row_key == row.key:
        digest = receipt.row_digest or row.digest
        await ledger.adopt(row, row.request, receipt.task_id, digest)
        return None
    why = await landing.folder.why_taken(name, task_ids)
    known = ledger.latest(row.key)
    is_lost = row.request is not None and (known is None or not known.job_key)
    if why and is_lost and receipt and receipt.row_key is None:
        refused[row.number] = InvalidInput(
            f"its name, {name}, {why}, whose receipt does not tell for which row. If it is "
            f"this one's, give the row task_id {receipt.task_id} in place of the prompt; else "
            "give it another name."
        )
        return None
    if why and known and not known.job_key:
        refused[row.number] = InvalidInput(f"its name, {name}, {why}. Give it another.")
        return None
    return why
