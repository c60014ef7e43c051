"""Names built from untrusted ids: one component, inside the folder, different for different ids."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanobanana_blocks.batches.report import report_name
from nanobanana_blocks.landing.naming import image_name, receipt_name
from nanobanana_blocks.storage.names import MAX_NAME_BYTES, safe_name

ANY_ID = st.text(min_size=1, max_size=300)
PLAIN_ID = st.from_regex(r"\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\Z")


@pytest.mark.parametrize(
    "task_id",
    [
        *("task-1", "933259930a1fc855a4e3835b7c60a028", "nanobanana_task_123456", "a", "a..b"),
        *("x" * 100, "task-0123456789abcdef", "console", "com10"),
    ],
)
def test_a_plain_id_is_its_own_name(task_id: str) -> None:
    """Rule: what is already a safe file name stays as it is, so that people find it."""
    assert safe_name(task_id) == task_id


@pytest.mark.parametrize(
    "task_id",
    [
        *("../etc/passwd", "..", ".", ".hidden", "a/b", "a\\b", "a b", "x" * 101, "é", "\ud800"),
        *("a\0b", "con", "NUL.txt", "LPT1", "a\n", "C:x", "a--0123456789abcdef", ""),
    ],
)
def test_any_other_id_gets_a_name_with_its_hash(task_id: str) -> None:
    """Rule: what had to be changed says so by 16 digits of the id's SHA-256."""
    digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()
    assert safe_name(task_id) != task_id
    assert safe_name(task_id).endswith(f"-{digest[:16]}")


@given(ANY_ID)
@example("..")
@example("con")
@example("/" * 300)
def test_a_name_is_one_component_that_stays_in_its_folder(task_id: str) -> None:
    """Rule: no id makes a name with a separator, a dot in front, or more than 100 bytes."""
    name = safe_name(task_id)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name)
    assert len(name.encode()) <= MAX_NAME_BYTES
    for path in (PurePosixPath("folder", name), PureWindowsPath("folder", name)):
        assert path.parent.name == "folder"
        assert path.name == name
    stem = name.split(".")[0].upper()
    assert not re.fullmatch(r"CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9]", stem)


@given(ANY_ID, ANY_ID)
def test_different_ids_have_different_names(one: str, other: str) -> None:
    """Rule: two generation tasks never share a name."""
    assert (safe_name(one) == safe_name(other)) == (one == other)


@given(ANY_ID)
def test_an_id_that_imitates_a_changed_name_gets_another(task_id: str) -> None:
    """Rule: knowing the naming rule does not help to make two ids meet."""
    name = safe_name(task_id)
    assert task_id == name or safe_name(name) != name


@given(PLAIN_ID)
def test_a_plain_id_with_a_numbered_name_still_has_its_own_receipt(task_id: str) -> None:
    """Rule: no id's receipt can be another's, whatever the names of its images."""
    assert receipt_name(task_id) != receipt_name(f"{task_id}-1")


def test_one_image_has_no_number_and_several_are_numbered_from_one() -> None:
    """Rule: the names on storage are the contract's."""
    assert image_name("task-1", 0, 1, "png") == "task-1.png"
    assert image_name("t", 0, 3, "png") == "t-1.png"
    assert image_name("t", 2, 3, "jpg") == "t-3.jpg"
    assert receipt_name("task-1") == "task-1.json"
    assert receipt_name("a/b").endswith(".json")
    assert "/" not in receipt_name("a/b")


@pytest.mark.parametrize(
    ("manifest", "report"),
    [
        ("s3://bucket/prompts.v1.csv", "prompts.v1.report.json"),
        ("prompts.v2.csv", "prompts.v2.report.json"),
        ("rows.jsonl", "rows.report.json"),
        ("C:\\batches\\rows", "rows.report.json"),
        (".jsonl", "batch.report.json"),
    ],
)
def test_a_report_is_called_after_its_manifest(manifest: str, report: str) -> None:
    """Rule: only the extension is left out, so versions of a manifest have a report each."""
    assert report_name(manifest) == report
