"""What the report of a batch holds, and how often it is written."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from nanobanana_blocks.batches.report import BatchReport, RowOutcome
from nanobanana_blocks.batches.reporting import report_pause
from nanobanana_blocks.landing.report import ErrorSummary, LandingStatus

NOW = datetime(2031, 1, 2, tzinfo=UTC)
ERROR = ErrorSummary(class_name="BadRequest", message="no", retryable=False)


def outcome(row: int, **fields: Any) -> RowOutcome:
    status = LandingStatus.FAILED if "error" in fields else LandingStatus.LANDED
    return RowOutcome(task_id=f"t{row}", status=status, row=row, key=f"k{row}", **fields)


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("fields", [{}, {"error": ERROR}, {"submitted": True, "credits": 8}])
def test_the_file_holds_what_the_report_does(rows: int, fields: dict[str, Any]) -> None:
    """Rule: a report is written row by row, and reads as if it had been written in one piece."""
    outcomes = [outcome(number, **fields) for number in range(1, rows + 1)]
    report = BatchReport(
        manifest="m", destination="d", rows=5, started_at=NOW, updated_at=NOW, outcomes=outcomes
    )
    written = report.to_json()
    assert json.loads(written) == json.loads(report.model_dump_json(exclude_defaults=True))
    assert list(BatchReport.model_validate_json(written).outcomes) == outcomes
    assert written.count(b"\n    {") == rows


def test_a_large_report_is_written_less_often() -> None:
    """Rule: what is written in an hour does not grow with the report, once that is large."""
    assert report_pause(1000) == report_pause(100_000)
    small, large = 2_000_000, 20_000_000
    assert large / report_pause(large) <= small / report_pause(small)


def test_batches_need_no_prefect() -> None:
    """Rule: what a batch is can be imported where Prefect is not installed."""
    code = "import sys; sys.modules['prefect'] = None; import nanobanana_blocks.batches"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
