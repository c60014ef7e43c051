"""Plans a batch that was opened to be read: what a run would do with each row, and what it costs.

Nothing is submitted, and nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from nanobanana_blocks.api.forecast import Forecast, expected_seconds, kind_of_request
from nanobanana_blocks.api.prices import total
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.api.summary import LearnedSummary
from nanobanana_blocks.batches.attempts import AttemptState, SubmissionAttempt
from nanobanana_blocks.batches.balance import ask_balance
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.manifest import Row
from nanobanana_blocks.batches.manifest.chains import parents_first
from nanobanana_blocks.batches.plan import BatchPlan, PlannedRow, ReferenceUse, RowAction
from nanobanana_blocks.batches.policies import describe_alternatives, worst_case_submits
from nanobanana_blocks.batches.submitter import UNANSWERED
from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.errors import DestinationError
from nanobanana_blocks.words import counted

MAX_TOLD_ROWS = 20


async def plan_batch(
    batch: Batch,
    learned: LearnedSummary,
    *,
    in_flight: int,
    poll: PollPolicy,
    check_credits: bool = True,
) -> BatchPlan:
    """What a run of a batch would do now.

    Args:
        batch: The batch, opened to be read.
        learned: What is known of generation times.
        in_flight: Rows under way at a time, in all runs together.
        poll: When the API would be asked.
        check_credits: Whether the run would begin only with enough credits.

    Raises:
        StorageError: The destination cannot be read.
    """
    await batch.landing.folder.list_once()
    standing = await map_concurrently(lambda row: _standing(row, batch), batch.rows)
    alone = {row.number: planned for row, planned in zip(batch.rows, standing, strict=True)}
    planned = _in_chains(batch.rows, alone)
    available = await ask_balance(batch.submitter.client)
    limit = batch.submitter.limit
    to_submit = [
        row for row in batch.rows if planned[row.number].action is RowAction.SUBMIT and row.request
    ]
    forecast = Forecast(learned)
    plan = BatchPlan(
        manifest=batch.source,
        destination=batch.landing.destination.path,
        rows=len(batch.rows),
        planned=[planned[row.number] for row in batch.rows],
        references=_references(batch, to_submit),
        credits_available=available,
        max_credits=limit.limit if limit else None,
        seconds_estimated=round(
            expected_seconds(
                forecast,
                Counter(kind_of_request(row.request) for row in to_submit if row.request),
                sum(one.action is RowAction.RESUME for one in planned.values()),
                depth=_depth(batch.rows, planned),
                in_flight=in_flight,
                poll=poll,
                timeout=batch.submitter.timeout,
            ),
            1,
        ),
        learned_from_polls=forecast.polls,
    )
    return plan.model_copy(update={"warnings": _warnings(batch, plan, check_credits=check_credits)})


async def _standing(row: Row, batch: Batch) -> PlannedRow:
    """What would be done with a row, as far as that follows from itself."""
    submitter = batch.submitter
    entry = submitter.ledger.latest(row.key)
    if row.number in batch.taken:
        return _planned(row, RowAction.REPORT, batch.taken[row.number].message)
    if row.request and submitter.is_due(row):
        if submitter.limit and not submitter.limit.allows(row):
            return _planned(row, RowAction.HELD_BACK, credits=row.credits)
        return _planned(
            row, RowAction.SUBMIT, credits=row.credits, alternative=_alternative(row, batch, entry)
        )
    if entry and entry.is_unanswered:
        return _planned(row, RowAction.REPORT, (entry.error or UNANSWERED).message)
    if entry and entry.state is not AttemptState.SUBMITTED:
        return _planned(row, RowAction.REPORT, entry.error.message if entry.error else "")
    try:
        if await _has_landed(row, batch, entry):
            return _planned(row, RowAction.SKIP)
    except DestinationError as error:
        return _planned(row, RowAction.REPORT, error.message)
    return _planned(row, RowAction.RESUME, alternative=_alternative(row, batch, entry))


def _alternative(row: Row, batch: Batch, entry: SubmissionAttempt | None) -> int | float:
    """What may come on top of the row's own submit, for its alternative prompt."""
    own = int(batch.submitter.is_due(row))
    more = worst_case_submits(row, batch.submitter.policy, entry) - own
    return total([row.credits * max(0, more)])


async def _has_landed(row: Row, batch: Batch, entry: SubmissionAttempt | None) -> bool:
    """Whether there is a receipt of the row's task, and the images that it names."""
    task_ids = batch.submitter.ledger.task_ids(row.key) + ([row.task_id] if row.task_id else [])
    stem = row.name or (entry and entry.task_id) or row.task_id
    folder = batch.landing.folder
    receipt = await folder.receipt(stem, task_ids) if stem else None
    return receipt is not None and await folder.is_whole(receipt.images)


def _planned(
    row: Row,
    action: RowAction,
    why: str = "",
    *,
    credits: int | float = 0,  # noqa: A002  # as the model calls it
    alternative: int | float = 0,
) -> PlannedRow:
    return PlannedRow(
        row=row.number,
        key=row.key,
        name=row.name,
        action=action,
        why=why,
        credits=credits,
        alternative_credits=alternative,
    )


def _in_chains(rows: Sequence[Row], alone: Mapping[int, PlannedRow]) -> dict[int, PlannedRow]:
    """What would be done with the rows, where some wait for others, or wait in vain."""
    found = dict(alone)
    for row in parents_first(rows)[0]:
        one = found[row.number]
        if not row.builds_on or one.action not in (RowAction.SUBMIT, RowAction.HELD_BACK):
            continue
        parents = [found[number] for number in row.builds_on]
        if stuck := [p for p in parents if p.action in (RowAction.REPORT, RowAction.BLOCKED)]:
            by = stuck[0].blocked_by or stuck[0].row
            found[row.number] = one.model_copy(
                update={
                    "action": RowAction.BLOCKED,
                    "blocked_by": by,
                    "why": f"blocked by row {by}, which will not land",
                    "credits": 0,
                    "alternative_credits": 0,
                }
            )
            continue
        after = tuple(p.row for p in parents if p.action is not RowAction.SKIP)
        found[row.number] = one.model_copy(update={"after": after})
    return found


def _depth(rows: Sequence[Row], planned: Mapping[int, PlannedRow]) -> int:
    """How many rows the longest chain has that wait for each other."""
    depths: dict[int, int] = {}
    for row in parents_first(rows)[0]:
        above = (depths[number] for number in planned[row.number].after)
        is_slow = planned[row.number].action in (RowAction.SUBMIT, RowAction.RESUME)
        depths[row.number] = max(above, default=0) + int(is_slow)
    return max(depths.values(), default=0)


def _references(batch: Batch, to_submit: Sequence[Row]) -> list[ReferenceUse]:
    references = batch.references
    images = [image for row in to_submit for image in row.images]
    if references is None or not images:
        return []
    copies = references.copies
    where = copies.where if copies else None
    copied = ("public_copy", "upload", "row")
    return [
        ReferenceUse(way=way, images=count, where=where if way in copied else None)
        for way, count in references.ways(images).items()
    ]


def _warnings(batch: Batch, plan: BatchPlan, *, check_credits: bool) -> list[str]:
    found = []
    available = plan.credits_available
    if available is not None and available < plan.credits_estimated:
        ends = "would not begin" if check_credits else "would submit as many as they last for"
        found.append(
            f"The account has {available:,} credits, and about {plan.credits_estimated:,} are "
            f"needed: the run {ends}."
        )
    if alternatives := describe_alternatives(batch.rows, batch.submitter.policy):
        found.append(f"{alternatives}.")
    changed = [r for r in batch.rows if batch.is_changed(r) and not batch.submitter.is_due(r)]
    if changed:
        numbers = ", ".join(str(row.number) for row in changed[:MAX_TOLD_ROWS])
        more = " …" if len(changed) > MAX_TOLD_ROWS else ""
        found.append(
            f"Changed since the submit, and left alone unless retry holds 'changed': "
            f"{counted(len(changed), 'row')} ({numbers}{more})."
        )
    if strangers := batch.submitter.ledger.rows_not_in_manifest:
        found.append(f"Of earlier runs, and not in this manifest: {counted(strangers, 'row')}.")
    return found
