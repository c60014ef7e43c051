"""The API's times, in every form that was seen; no time ever fails a task."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

SERVICE_TIMEZONE = timezone(timedelta(hours=8))
"""Observed, not documented: the API's naive times fit UTC+8."""

_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(Z|[+-]\d\d:?\d\d)?")


def read_time(raw: Any) -> datetime | None:
    """Read one of the API's times, or give None: a time never fails a task.

    Observed: ``2026-01-06 08:17:04`` without a zone; a documented example reads ``24:00:00``;
    sister products send epoch milliseconds.
    """
    try:
        if isinstance(raw, (int, float)) and not isinstance(raw, bool):
            seconds = raw / 1000 if raw > 1e11 else raw
            return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
        if not isinstance(raw, str):
            return None
        if raw.strip().isdecimal():
            return read_time(int(raw))
        if not (match := _DATE_TIME.fullmatch(raw.strip())):
            return None
        day, hours, minutes, seconds_, zone = match.groups()
        midnight = datetime.fromisoformat(day).replace(tzinfo=SERVICE_TIMEZONE)
        if zone:
            offset = "+00:00" if zone == "Z" else f"{zone[:3]}:{zone[-2:]}"
            midnight = datetime.fromisoformat(f"{day}T00:00:00{offset}")
        return midnight + timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds_))
    except (ValueError, OverflowError, OSError):
        return None
