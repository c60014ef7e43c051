"""What became of each task or row as a table and a summary in words; it writes neither."""

from __future__ import annotations

from collections.abc import Sequence

from nanobanana_blocks.batches.balance import held_back_in_words, spending_in_words
from nanobanana_blocks.batches.report import BatchReport, RowOutcome
from nanobanana_blocks.landing.report import LandingOutcome, LandingReport
from nanobanana_blocks.words import counted

MAX_ROWS = 2000

Cell = str | int | float


def outcome_rows(report: LandingReport) -> list[dict[str, Cell]]:
    """The table of outcomes, what did not land first; `MAX_ROWS` at most.

    Prefect's UI shows some three columns on a common screen: status, what it is about, and what
    happened come first.
    """
    ordered = sorted(report.outcomes, key=lambda outcome: outcome.in_storage)
    chained = any(_builds_on(outcome) for outcome in report.outcomes)
    return [_row(outcome, chained=chained) for outcome in ordered[:MAX_ROWS]]


def describe_table(report: LandingReport) -> str:
    """The outcomes in a line, and how many of them the table shows where that is not all."""
    count = len(report.outcomes)
    part = f" The first {MAX_ROWS:,} of {count:,} rows." if count > MAX_ROWS else ""
    return f"{report.describe()}, in {report.destination}.{part}"


def summary_of(report: BatchReport, gallery: str | None = None) -> str:
    """A batch in a few lines of Markdown: what did not land and why, and what was spent."""
    spent = spending_in_words(report) or "nothing submitted by this run."
    rows = counted(report.rows, "row")
    paragraphs = [f"{rows} of `{report.manifest}` in `{report.destination}`; {spent}"]
    if held_back := held_back_in_words(report):
        paragraphs.append(f"**Held back:** {held_back}")
    if report.failures:
        examples = {o.error.class_name: o for o in reversed(report.not_landed) if o.error}
        paragraphs += [
            f"**{class_name}**, {counted(count, 'row')}. For example "
            f"{examples[class_name].label}: {examples[class_name].describe()}"
            for class_name, count in report.failures.items()
        ]
    if report.blocked:
        labels = {outcome.row: outcome.label for outcome in report.outcomes}
        paragraphs += [
            f"**Blocked** by {labels.get(by, f'row {by}')}, which has not landed: "
            f"{counted(len(rows), 'row builds', 'rows build')} on it "
            f"({_listed(rows)}). Nothing was submitted for them; a run in which it lands goes on."
            for by, rows in report.blocked.items()
        ]
    if chained := [outcome for outcome in report.outcomes if outcome.builds_on]:
        landed = sum(outcome.in_storage for outcome in chained)
        build = counted(len(chained), "row builds", "rows build")
        paragraphs.append(
            f"**Chains:** {build} on images of other rows ({_listed([o.row for o in chained])}); "
            f"{landed:,} of them {'is' if landed == 1 else 'are'} in storage."
        )
    if report.failures:
        paragraphs.append(
            "Running again does only what is missing. Rows that were refused, failed permanently "
            "or are unconfirmed are submitted again only where `retry` holds their kind."
        )
    if changed := [outcome.row for outcome in report.outcomes if outcome.changed]:
        paragraphs.append(
            f"Changed since the submit, and left alone: {counted(len(changed), 'row')} "
            f"({_listed(changed)})."
        )
    if gallery:
        paragraphs.append(f"Gallery: `{gallery}`")
    return "\n\n".join(paragraphs)


def _listed(rows: Sequence[int]) -> str:
    return f"{', '.join(map(str, rows[:20]))}{' …' if len(rows) > 20 else ''}"


def _builds_on(outcome: LandingOutcome) -> tuple[int, ...]:
    return outcome.builds_on if isinstance(outcome, RowOutcome) else ()


def _row(outcome: LandingOutcome, *, chained: bool) -> dict[str, Cell]:
    row: dict[str, Cell] = {"status": outcome.status.value.replace("_", " ")}
    if isinstance(outcome, RowOutcome):
        row["row"] = f"{outcome.row} {outcome.name}" if outcome.name else str(outcome.row)
    else:
        row["task"] = outcome.task_id
    row["what happened"] = _what_happened(outcome)
    if chained:
        row["builds on"] = ", ".join(map(str, _builds_on(outcome)))
    row["task"] = outcome.task_id
    return row | {
        "error": outcome.error.class_name if outcome.error else "",
        "kB": round(sum(image.size for image in outcome.images) / 1000),
        "waited (s)": round(outcome.waited_seconds, 1),
        "polls": outcome.polls,
    }


def _what_happened(outcome: LandingOutcome) -> str:
    images = ", ".join(
        f"{image.path.rpartition('/')[2]} ({image.width}×{image.height})"
        for image in outcome.images
    )
    if outcome.error:
        return f"{outcome.error.message} Landed: {images}" if images else outcome.error.message
    if outcome.missing_images:
        images = f"{images}; {outcome.missing_images} fewer than asked for"
    if isinstance(outcome, RowOutcome) and outcome.alternative_prompt:
        return f"{images}, by its alternative prompt"
    return images
