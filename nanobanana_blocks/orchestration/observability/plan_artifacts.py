"""What a person sees of a dry run in the Prefect UI: the plan in words, and its rows as a table."""

from __future__ import annotations

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from nanobanana_blocks.batches.plan import BatchPlan, PlannedRow, RowAction
from nanobanana_blocks.orchestration.observability.optional import optional
from nanobanana_blocks.orchestration.observability.outcome_table import MAX_ROWS, Cell

PLAN_KEY = "nanobanana-plan"
PLANNED_ROWS_KEY = "nanobanana-planned-rows"

_ORDER = list(RowAction)
_LAST = (RowAction.SUBMIT, RowAction.SKIP)


async def publish_plan(plan: BatchPlan) -> None:
    """Write the plan and the table of its rows; that Prefect does not take them is logged."""
    with optional("the plan") as written:
        await acreate_markdown_artifact(
            plan_in_markdown(plan), key=PLAN_KEY, description=f"{plan.describe()}."
        )
    if not written.prefect_is_down:
        with optional("the rows of the plan"):
            await acreate_table_artifact(
                planned_rows(plan), key=PLANNED_ROWS_KEY, description=_describe_table(plan)
            )


def plan_in_markdown(plan: BatchPlan) -> str:
    """The plan in a few paragraphs of Markdown."""
    head = f"A dry run of `{plan.manifest}` to `{plan.destination}`: nothing was spent or written."
    return "\n\n".join([head, *plan.in_lines()])


def planned_rows(plan: BatchPlan) -> list[dict[str, Cell]]:
    """The rows that need attention, then those to submit, then those to skip; 2,000 at most."""
    ordered = sorted(plan.planned, key=lambda row: _place(row.action))
    return [_row(row) for row in ordered[:MAX_ROWS]]


def _place(action: RowAction) -> int:
    return len(_ORDER) + _LAST.index(action) if action in _LAST else _ORDER.index(action)


def _describe_table(plan: BatchPlan) -> str:
    part = f" The first {MAX_ROWS:,} of {plan.rows:,} rows." if plan.rows > MAX_ROWS else ""
    return f"{plan.describe()}.{part}"


def _row(row: PlannedRow) -> dict[str, Cell]:
    return {
        "action": row.action.value.replace("_", " "),
        "row": f"{row.row} {row.name}" if row.name else str(row.row),
        "credits": row.credits,
        "after": ", ".join(map(str, row.after)),
        "why": row.why,
    }
