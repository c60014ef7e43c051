"""What the log of a run says of what did not land."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging.configuration import setup_logging
from prefect.settings import PREFECT_TASK_DEFAULT_RETRIES, temporary_settings

from nanobanana_blocks import PollPolicy
from nanobanana_blocks.flows.land_images import land_images
from nanobanana_blocks.flows.run_batch import run_batch
from nanobanana_blocks.orchestration.runs.landing_runs import TASK_RUN_EACH
from nanobanana_blocks.sandbox import Sandbox, TaskPlan
from tests.support.prefect_runs import last_run, task_runs_of

pytestmark = pytest.mark.usefixtures("prefect_api")

REFUSED = TaskPlan(seconds=0, outcome="generate-failed", error_code=400, error_message="Too odd")
SOON = PollPolicy.fixed(0.05)


class Lines(logging.Handler):
    """Keeps what task runs log, as a terminal shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def log() -> Iterator[list[str]]:
    setup_logging()
    handler = Lines()
    logger = logging.getLogger("prefect.task_runs")
    before = logger.level, logger.disabled
    logger.setLevel(logging.INFO)
    logger.disabled = False  # whatever other tests have made of it
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.disabled = before[1]


async def test_one_line_and_no_traceback(sandbox: Sandbox, tmp_path: Path, log: list[str]) -> None:
    """Rule: what did not land is one line of its task run, without the traceback of nothing."""
    refused = sandbox.add_tasks([REFUSED] * 2)
    await land_images(refused, str(tmp_path / "images"), poll=SOON, allow_partial=True)
    told = [line for line in log if "Too odd" in line]
    assert len(told) == 2
    assert all(line.startswith("Finished in state Failed(") for line in told)
    assert "NoneType" not in "\n".join(log)


async def test_groups_likewise(sandbox: Sandbox, tmp_path: Path, log: list[str]) -> None:
    """Rule: a group's failure has no traceback either."""
    refused = sandbox.add_tasks([REFUSED] * (TASK_RUN_EACH + 1))
    await land_images(refused, str(tmp_path / "images"), poll=SOON, allow_partial=True)
    assert len([line for line in log if line.startswith("Finished in state Failed(")]) == 2
    assert "NoneType" not in "\n".join(log)


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_row_is_processed_once(
    sandbox: Sandbox, tmp_path: Path, log: list[str], retries: int
) -> None:
    """Rule: Prefect never runs a row again by itself, though a profile has all tasks retried."""
    rows = [{"task_id": sandbox.add_task(REFUSED), "name": "refused"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with temporary_settings({PREFECT_TASK_DEFAULT_RETRIES: retries}):
        await run_batch(
            str(tmp_path / "rows.jsonl"), str(tmp_path / "images"), poll=SOON, allow_partial=True
        )
    [task_run] = (await task_runs_of(await last_run())).values()
    assert task_run.run_count == 1
    assert len([line for line in log if "Too odd" in line]) == 1
    assert "NoneType" not in "\n".join(log)
