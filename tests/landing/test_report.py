"""Reports and ids as values."""

import pickle

import pytest
from prefect.utilities.collections import visit_collection

from nanobanana_blocks import LandingOutcome, LandingReport, LandingStatus, errors
from nanobanana_blocks.api.details import check_task_id, check_task_ids
from nanobanana_blocks.landing.report import ErrorSummary


def report() -> LandingReport:
    error = ErrorSummary(class_name="ServerError", message="the API failed.", retryable=True)
    return LandingReport(
        destination="/images",
        outcomes=[
            LandingOutcome(task_id="a", status=LandingStatus.LANDED),
            LandingOutcome(task_id="b", status=LandingStatus.FAILED, error=error),
        ],
    )


def test_a_report_survives_json_and_pickling() -> None:
    """A report is the same after the ways in which Prefect and users may keep it."""
    assert LandingReport.model_validate_json(report().model_dump_json()) == report()
    assert LandingReport.model_validate(report().model_dump()) == report()
    assert pickle.loads(pickle.dumps(report())) == report()  # noqa: S301  # our own bytes
    assert report().model_dump()["counts"]["landed"] == 1


def test_prefect_does_not_walk_through_the_outcomes() -> None:
    """What a flow returns is walked through by Prefect; thousands of outcomes are spared that."""
    seen: list[object] = []
    visit_collection(report(), seen.append)
    assert not [item for item in seen if isinstance(item, LandingOutcome)]


def test_an_incomplete_report_says_what_is_missing() -> None:
    """The error at the end of a run names counts, tasks, reasons and the next step."""
    assert not report().complete
    with pytest.raises(errors.IncompleteLanding) as caught:
        report().raise_unless_complete()
    assert str(caught.value) == (
        "1 landed, 1 failed. b failed: the API failed. Running again does only what is missing."
    )


@pytest.mark.parametrize(
    "task_id", ["", " ", "\t", None, 7, "a b", "a\nb", "a\u202eb", "\ud800", "x" * 256]
)
def test_what_cannot_be_a_task_id_is_refused(task_id: object) -> None:
    """Blank, spaced, unprintable and endless ids are refused, in one line."""
    with pytest.raises(errors.InvalidInput) as caught:
        check_task_id(task_id)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_one_text_is_not_a_list_of_ids() -> None:
    """A single id in place of a list is not taken for a list of its letters."""
    with pytest.raises(errors.InvalidInput, match="list"):
        check_task_ids("abc")
