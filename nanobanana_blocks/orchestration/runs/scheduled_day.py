"""The day of a flow run: the one on which it was scheduled."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.runtime import flow_run

from nanobanana_blocks.errors import InvalidInput


def scheduled_day(timezone: str) -> date:
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
