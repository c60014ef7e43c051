"""What ``{date}`` means in manifests and destinations: the day on which a run was scheduled."""

from __future__ import annotations

import re
from datetime import date, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.runtime import flow_run

from nanobanana_blocks.errors import InvalidInput

DATE = "{date}"


_PLACEHOLDER = re.compile(r"\{\w*\}")


def on(day: date, text: str) -> str:
    """The text with a day, written YYYY-MM-DD, in the place of ``{date}``.

    Raises:
        InvalidInput: It holds another word in braces.
    """
    dated = text.replace(DATE, day.isoformat())
    if unknown := _PLACEHOLDER.search(dated):
        raise InvalidInput(f"{unknown.group()} stands for nothing: write {DATE}, or no braces")
    return dated


def day_of_run(timezone: str) -> date:
    """The day on which this flow run was scheduled, in a time zone.

    Raises:
        InvalidInput: There is no such time zone.
    """
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(f"timezone {timezone!r:.60} is not known: write Europe/Berlin") from None
    scheduled: datetime = flow_run.scheduled_start_time
    return scheduled.astimezone(zone).date()
