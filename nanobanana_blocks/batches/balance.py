"""The account's balance before and after a batch: what it must have, and what that says of costs.

Others may spend from the same account meanwhile: what is measured is evidence, and no bill.
"""

from __future__ import annotations

from contextlib import suppress

import anyio

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.prices import Credits, total
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.batches.submitter import Submitter
from nanobanana_blocks.batches.waits import Log
from nanobanana_blocks.errors import (
    APIError,
    NanoBananaError,
    NetworkError,
    OutOfCredits,
    ProtocolError,
    Unauthorized,
)
from nanobanana_blocks.words import counted

ASK_SECONDS = 5.0
"""How long a balance is asked for that nothing depends on."""


async def note_balance_before(batch: Batch, log: Log, *, check: bool) -> None:
    """Note what the account has, where something is to be submitted.

    Args:
        batch: The batch, which nothing was done of yet.
        log: Gets why it is not known.
        check: Whether it must be about what the rows to submit will cost, where it can be told.

    Raises:
        OutOfCredits: It is not, and `check` is on.
        APIError: The key is refused, or what answers is not the API, or nothing answers, and
            `check` is on. A question that the API does not answer stops nothing.
    """
    if not batch.rows_to_submit:
        return
    if check:
        await _require_credits(batch, log)
    else:
        batch.credits_before = await ask_balance(batch.submitter.client)


async def require_answer(batch: Batch) -> None:
    """Make sure that the API answers and takes the key, before a row is submitted.

    Raises:
        APIError: The key is refused, or nothing answers.
    """
    if batch.rows_to_submit:
        try:
            await _ask_patiently(batch.submitter)
        except (NetworkError, Unauthorized):
            raise
        except APIError:  # it answers; what it says of the submit counts
            return


async def note_balance_after(batch: Batch) -> None:
    """Note what the account has, where this run may have spent something of it."""
    if batch.credits_before is None:
        return
    if any(outcome.submitted or outcome.unconfirmed for outcome in batch.outcomes.values()):
        batch.credits_after = await ask_balance(batch.submitter.client)


async def ask_balance(client: NanoBananaClient) -> Credits | None:
    """What the account has; None where the API does not tell soon."""
    with anyio.move_on_after(ASK_SECONDS):
        try:
            return await client.get_credits()
        except NanoBananaError:
            return None
    return None


async def _require_credits(batch: Batch, log: Log) -> None:
    rows = batch.rows_to_submit
    needed = total(row.credits for row in rows)
    try:
        batch.credits_before = await _ask_patiently(batch.submitter)
    except Unauthorized:
        raise
    except APIError as error:
        is_in_doubt = isinstance(error, (ProtocolError, NetworkError))
        if is_in_doubt and not await _is_the_api(batch.submitter.client):
            raise
        log.warning(
            "Could not ask for the account's credits; continuing without knowing them: %s", error
        )
        return
    if batch.credits_before < needed:
        raise OutOfCredits(
            f"the account has {batch.credits_before:,} credits; "
            f"{counted(len(rows), 'row is', 'rows are')} still to be submitted, for about "
            f"{needed:,}. Top up, or set check_credits to "
            "false to submit as many as the credits last for."
        )


async def _is_the_api(client: NanoBananaClient) -> bool:
    """Whether record-info is answered as documented; about which task does not matter."""
    try:
        await client.get_task_details("nanobanana-blocks-check")
    except (ProtocolError, NetworkError):
        return False
    except APIError:
        return True
    return True


async def _ask_patiently(submitter: Submitter) -> Credits:
    """Ask for the account's credits, again for a while where no answer comes."""
    with suppress(NetworkError):
        return await submitter.client.get_credits()
    patience = submitter.patience
    with (
        submitter.waits.waiting("the API, which does not answer", patience.unreachable),
        anyio.move_on_after(patience.unreachable),
    ):
        while True:
            await anyio.sleep(patience.poll)
            with suppress(NetworkError):
                return await submitter.client.get_credits()
    try:
        return await submitter.client.get_credits()
    except NetworkError as error:
        raise NetworkError(
            f"{error.message} Nothing was submitted; check the base URL and the network, then "
            "run again."
        ) from None


def spending_in_words(report: BatchReport) -> str:
    """What a run has spent, estimated and measured; empty where it has submitted nothing."""
    if not report.submitted and not report.unconfirmed:
        return ""
    said = (
        f"{report.submitted:,} submitted by this run, for about {report.credits_estimated:,} "
        "credits (estimated)."
    )
    if report.credits_measured is not None:
        said += (
            f" The balance went from {report.credits_before:,} to {report.credits_after:,}, by "
            f"{report.credits_measured:,}; whatever else used the account counts as well."
        )
    evidence = evidence_in_words(report)
    return f"{said} {evidence}" if evidence else said


def evidence_in_words(report: BatchReport) -> str:
    """What the balance says of the submits of a run that were not answered; empty without any."""
    rows = report.unconfirmed
    if not rows:
        return ""
    many = counted(len(rows), "submit was", "submits were")
    cost = total(outcome.credits for outcome in rows)
    said = f"{many} not answered (about {cost:,} credits):"
    if report.credits_measured is None:
        return f"{said} the balance before and after is not known, which would tell more."
    more = total([report.credits_measured, -report.credits_estimated])
    if more <= 0:
        verdict = "it was probably not" if len(rows) == 1 else "probably none was"
        return (
            f"{said} the balance fell by no more than the confirmed submits cost, so {verdict} "
            "paid for."
        )
    fell = f"the balance fell by {more:,} more than the confirmed submits cost"
    how_many = "it was" if len(rows) == 1 else "all were" if more >= cost else "some were"
    return f"{said} {fell}, so probably {how_many} paid for."


def held_back_in_words(report: BatchReport) -> str:
    """What `max_credits` has held back, and how to go on; empty where it has not."""
    rows = report.held_back
    if not rows:
        return ""
    cost = total(outcome.credits for outcome in rows)
    held = counted(len(rows), "row was", "rows were")
    return (
        f"{held} held back by max_credits ({report.max_credits or 0:,}), for about {cost:,} "
        "credits; nothing was submitted for them. Run again to go on: each run may spend as much."
    )
