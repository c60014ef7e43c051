"""The safety net: land what was announced and never landed, as when callbacks or runs were lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.errors import DestinationError, StorageError
from nanobanana_blocks.landing.report import LandingOutcome, LandingReport
from nanobanana_blocks.orchestration.blocks.image_store import ImageStore, load_store
from nanobanana_blocks.orchestration.observability.artifacts import publish_report
from nanobanana_blocks.orchestration.observability.wakeups import find_kept_callbacks
from nanobanana_blocks.orchestration.runs.landing_runs import land_what_is_done, opening_lander
from nanobanana_blocks.orchestration.runs.scheduled_day import scheduled_day
from nanobanana_blocks.recovery.outstanding import open_outstanding
from nanobanana_blocks.storage.dates import DATE
from nanobanana_blocks.storage.locations import redact


def name_run() -> str:
    """Name a run after what it does: ``sweep s3://bucket/folder``."""
    return f"sweep {redact(flow_run.parameters['destination'])}"


@flow(name="sweep", flow_run_name=name_run)
async def sweep(
    destination: str = "images",
    credentials: str = "default",
    older_than: float = 900.0,
    poll: PollPolicy = PollPolicy(),  # noqa: B008  # frozen, and Prefect shows it in the form
    days: Annotated[int, Field(ge=1)] = 2,
    timezone: str = "UTC",
) -> LandingReport:
    """Ask once about every generation task that is still outstanding, and land what is done.

    A task is outstanding from its submit by a batch, or its callback, until its receipt is there or
    the service says that it failed. What is still generating is reported as timed out and polled
    again by the next sweep. Where a place cannot be swept, the others are, and the run fails then.

    Args:
        destination: A path, an fsspec URL, or the name of a saved ImageStore block; where it holds
            {date}, the places of the last days are swept.
        credentials: Name of a saved NanoBananaCredentials block; where there is none of that name,
            the worker's NANOBANANA_API_KEY and NANOBANANA_BASE_URL are used.
        older_than: Leave alone the tasks whose submit or callback is fewer seconds ago than this.
        poll: Of this, only the requests per second are used.
        days: How many days back a destination with {date} is swept, today included.
        timezone: Time zone of those days, such as Europe/Berlin.

    Returns:
        What became of each generation task that was asked about.

    Raises:
        StorageError: Several places could not be swept.
        DestinationError: Nothing was ever landed, submitted or announced in the place, as where it
            is misspelt; for a destination with {date} that is a warning.
        NanoBananaError: Something is invalid, is missing, or refuses.
    """
    store = await load_store(destination)
    is_dated = DATE in store.url
    places = [store]
    if is_dated:
        today = scheduled_day(timezone)
        places = [store.for_date(today - timedelta(days=ago)) for ago in range(days)]
    outcomes: list[LandingOutcome] = []
    unused = 0
    failures: list[StorageError | DestinationError] = []
    for place in places:
        try:
            found = await _sweep_place(place, credentials, older_than, poll)
            unused += found is None
            outcomes += found or ()
        except (StorageError, DestinationError) as failure:
            failures.append(failure)
    if failures:
        raise _summed_up(failures, len(places))
    if unused == len(places):
        problem = (
            f"{redact(store.url)}: nothing was ever landed, submitted or announced there. Check "
            "the spelling of the destination."
        )
        if not is_dated:
            raise DestinationError(problem)
        get_run_logger().warning("Of the last %s days, %s", days, problem)
    return LandingReport(destination=redact(destination), outcomes=outcomes)


async def _sweep_place(
    place: ImageStore, credentials: str, older_than: float, poll: PollPolicy
) -> Sequence[LandingOutcome] | None:
    """What became of what is outstanding in a place; None where the place was never used."""
    async with open_outstanding(place.location, older_than, find_kept_callbacks) as outstanding:
        get_run_logger().info(
            "%s: %s tasks are outstanding, and %s more for less than %g s, left to others",
            redact(place.url),
            f"{len(outstanding.tasks):,}",
            f"{outstanding.younger:,}",
            older_than,
        )
        if outstanding.unconfirmed:
            get_run_logger().warning(
                "Of %s rows it is not known whether they were submitted",
                f"{outstanding.unconfirmed:,}",
            )
        if not outstanding.tasks:
            return [] if outstanding.is_used else None
        async with opening_lander(
            list(outstanding.tasks), place, credentials, poll=poll
        ) as landing:
            await land_what_is_done(landing, outstanding.tasks)
            report = landing.report()
            await publish_report(report, landing)
        for outcome in report.outcomes:
            await outstanding.settle(outcome, landing)
    return report.outcomes


def _summed_up(
    failures: Sequence[StorageError | DestinationError], places: int
) -> StorageError | DestinationError:
    if len(failures) == 1:
        return failures[0]
    lines = [f"{len(failures)} of {places} places could not be swept:", *map(str, failures)]
    return StorageError("\n".join(lines))
