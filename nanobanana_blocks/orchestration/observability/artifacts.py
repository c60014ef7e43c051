"""What a person sees of a run in the Prefect UI at its end: a summary, a table, a contact sheet.

Nothing here can fail or delay a run: each artifact has a few seconds, one that cannot be written is
logged and left out, and where Prefect does not answer the others are not tried. What must last, the
report and the ledger's summary, is written before.
"""

from __future__ import annotations

import asyncio
import base64

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from nanobanana_blocks.batches.report import BatchReport
from nanobanana_blocks.landing.lander import Lander
from nanobanana_blocks.landing.report import LandingReport
from nanobanana_blocks.orchestration.observability.assets import record_assets
from nanobanana_blocks.orchestration.observability.contact_sheet import (
    draw_contact_sheet,
    first_thumbnails,
)
from nanobanana_blocks.orchestration.observability.optional import optional
from nanobanana_blocks.orchestration.observability.outcome_table import (
    describe_table,
    outcome_rows,
    summary_of,
)

OUTCOMES_KEY = "nanobanana-outcomes"
CONTACT_SHEET_KEY = "nanobanana-contact-sheet"
SUMMARY_KEY = "nanobanana-batch"


async def publish_report(report: LandingReport, landing: Lander) -> None:
    """Write the table of all outcomes and, if images are in storage, the contact sheet."""
    if await _publish_table(report):
        await record_assets(report)
        await _publish_contact_sheet(report, landing, names={})


async def publish_batch_report(
    report: BatchReport, landing: Lander, gallery: str | None = None
) -> None:
    """Write the summary of a batch, and what `publish_report` writes.

    Args:
        report: What became of the batch.
        landing: What landed its images.
        gallery: The first page of its gallery, if there is one.
    """
    with optional("the summary of the batch") as summary:
        await acreate_markdown_artifact(
            summary_of(report, gallery), key=SUMMARY_KEY, description=f"{report.describe()}."
        )
    if not summary.prefect_is_down and await _publish_table(report):
        await record_assets(report)
        names = {o.task_id: o.name or o.task_id for o in report.outcomes}
        await _publish_contact_sheet(report, landing, names)


async def _publish_table(report: LandingReport) -> bool:
    """Write the table; whether it is worth trying to write more."""
    with optional("the table of outcomes") as table:
        await acreate_table_artifact(
            outcome_rows(report), key=OUTCOMES_KEY, description=describe_table(report)
        )
    return not table.prefect_is_down


async def _publish_contact_sheet(
    report: LandingReport, landing: Lander, names: dict[str, str]
) -> None:
    thumbnails = await first_thumbnails(report.outcomes, landing.thumbnails, landing.destination)
    if not thumbnails:
        return
    named = {names.get(task_id, task_id): picture for task_id, picture in thumbnails.items()}
    with optional("the contact sheet"):
        sheet = await asyncio.to_thread(draw_contact_sheet, named)
        picture = base64.b64encode(sheet).decode()
        await acreate_markdown_artifact(
            f"![Images of this run](data:image/jpeg;base64,{picture})\n\n"
            f"{report.describe()}, in `{report.destination}`.",
            key=CONTACT_SHEET_KEY,
            description=f"The first images of {len(named)} of the tasks in storage.",
        )
