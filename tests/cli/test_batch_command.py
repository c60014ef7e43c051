"""`nanobanana batch`: what `run_batch` does, without a server."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanobanana_blocks import ImageStore
from nanobanana_blocks.flows.run_batch import run_batch
from nanobanana_blocks.orchestration.blocks.credentials import NanoBananaCredentials
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from tests.support.command_line import Command

DONE = TaskPlan(seconds=0, media_type="image/png")


@pytest.fixture(autouse=True)
def manifest(sandbox: Sandbox, tmp_path: Path) -> Path:
    sandbox.configure(submitted_task=DONE)
    path = tmp_path / "rows.csv"
    path.write_text("prompt,name\na cat,cat\na dog,dog\n")
    return path


def submits(sandbox: Sandbox) -> int:
    return len(sandbox.submits())


def test_a_manifest_becomes_a_folder(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: one line of result, where the report is, and the same again does nothing."""
    result = nanobanana("batch", "rows.csv", "--to", "./images")
    assert (result.code, result.stdout) == (0, f"2 landed, in {tmp_path}/images\n")
    assert f"{tmp_path}/images/rows.report.json" in result.stderr
    again = nanobanana("batch", "rows.csv", "--to", "./images")
    assert again.stdout == f"2 already landed, in {tmp_path}/images\n"
    assert submits(sandbox) == 2


def test_json_is_the_report(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: standard output is one JSON value: the report, or the error."""
    result = nanobanana("batch", "rows.csv", "--to", "./images", "--json")
    assert result.json["counts"] == {"landed": 2, "already_landed": 0, "failed": 0, "timed_out": 0}
    assert [row["status"] for row in result.json["outcomes"]] == ["landed"] * 2
    (tmp_path / "rows.csv").write_text("prompt,name\nnan,cat\n")
    wrong = nanobanana("batch", "rows.csv", "--to", "./images", "--json")
    assert wrong.code == 1
    assert wrong.json["error"]["class_name"] == "InvalidManifest"
    assert "row 2, prompt: holds nan" in wrong.stderr


async def test_a_flow_goes_on_with_it_and_the_reverse(
    nanobanana: Command, sandbox: Sandbox, tmp_path: Path, manifest: Path, prefect_api: str
) -> None:
    """Rule: command and flow share the ledger: each lands what the other has submitted."""
    sandbox.configure(submitted_task=TaskPlan(seconds=600))
    late = nanobanana("batch", "rows.csv", "--to", f"{tmp_path}/images", "--timeout", "0.3")
    assert (late.code, late.stdout.split(",")[0]) == (3, "2 timed out")
    sandbox.advance(600)
    block = NanoBananaCredentials(api_key=sandbox.api_key, base_url=sandbox.base_url)
    await block.asave("batch-command", overwrite=True)
    report = await run_batch(
        str(manifest), destination=f"{tmp_path}/images", credentials="batch-command"
    )
    assert report.describe() == "2 landed"
    again = nanobanana("batch", "rows.csv", "--to", f"{tmp_path}/images")
    assert again.stdout.startswith("2 already landed")
    assert submits(sandbox) == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("reached", ["generate", "record-info"])
def test_interrupted_and_run_again(
    nanobanana: Command, sandbox: Sandbox, tmp_path: Path, stop: signal.Signals, reached: str
) -> None:
    """Rule: Ctrl-C is exit code 130 and a last line; what was submitted is not paid for again.

    So is SIGTERM, and answers to submits are waited for.
    """
    sandbox.configure(submitted_task=TaskPlan(seconds=None))
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=0.5, takes_effect=True))
    process = nanobanana.start("batch", "rows.csv", "--to", "./images", "--json")
    nanobanana.until(lambda: sandbox.stats().requests.get(reached, 0) > 1)
    os.kill(process, stop)
    result = nanobanana.ended()
    assert (result.code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1].startswith("Interrupted.")
    assert nanobanana("batch", "rows.csv", "--to", "./images", "--timeout", "0.3").code == 3
    assert submits(sandbox) == 2


def test_the_date_has_its_place(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: {date} in manifest and destination is today, or the day that is given."""
    today = datetime.now(UTC).date().isoformat()
    for day, options in ((today, []), ("2026-01-31", ["--date", "2026-01-31"])):
        (tmp_path / f"{day}.jsonl").write_text(json.dumps({"prompt": day, "name": "a"}))
        result = nanobanana("batch", "{date}.jsonl", "--to", "./images/{date}", *options)
        assert result.stdout == f"1 landed, in {tmp_path}/images/{day}\n"


def test_defaults_and_a_field_that_is_none(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: defaults are the form's, in words that a shell has; a wrong one is named."""
    result = nanobanana(
        *("batch", "rows.csv", "--to", "./images"),
        *("--default", "endpoint=generate-2", "--default", "googleSearch=true"),
    )
    assert result.code == 0
    assert [submit.endpoint for submit in sandbox.submits()] == ["generate-2"] * 2
    for wrong in ("numImages=9", "nonsense=1", "numImages"):
        refused = nanobanana("batch", "rows.csv", "--to", "./images", "--default", wrong)
        assert (refused.code, refused.stdout) == (1, "")
        assert f"--default {wrong.partition('=')[0]}" in refused.stderr.replace("'", "")


def test_prices_of_the_users(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: the estimate is made of the prices given; what is none is refused and named."""
    for wrong in ("generate", "generate=much", "generate-pro/8K=1"):
        refused = nanobanana("batch", "rows.csv", "--to", "./images", "--price", wrong)
        assert (refused.code, submits(sandbox)) == (1, 0)
        assert wrong.partition("=")[0] in refused.stderr
    own = ("--price", "generate=1.5", "--price", "generate-pro/2K=18")
    result = nanobanana("batch", "rows.csv", "--to", "./images", "--json", *own)
    assert result.json["credits_estimated"] == 3


def test_a_dry_run(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: the plan is the result, in words or as JSON; nothing is spent or written."""
    result = nanobanana("batch", "rows.csv", "--to", "./images", "--dry-run")
    assert result.code == 0
    assert result.stdout.splitlines()[0] == "2 rows: 2 to submit, for about 8 credits."
    assert "row 2 (cat): submit, for about 4 credits" in result.stdout
    as_json = nanobanana("batch", "rows.csv", "--to", "./images", "--dry-run", "--json").json
    assert (as_json["credits_estimated"], as_json["credits_available"]) == (8, 10_000)
    assert [row["action"] for row in as_json["planned"]] == ["submit", "submit"]
    assert (submits(sandbox), (tmp_path / "images").exists()) == (0, False)
    assert set(sandbox.stats().requests) == {"credit"}


def test_max_credits(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: what fits lands, and it says what was held back and how to go on."""
    low = nanobanana("batch", "rows.csv", "--to", "./images", "--max-credits", "3")
    assert (low.code, submits(sandbox)) == (1, 0)
    assert "max_credits is 3, and row 2" in low.stderr
    assert nanobanana("batch", "rows.csv", "--to", "./images", "--max-credits", "nan").code == 2
    partly = nanobanana("batch", "rows.csv", "--to", "./images", "--max-credits", "4")
    assert (partly.code, partly.stdout.split(", in")[0]) == (3, "1 landed, 1 held back")
    assert "1 row was held back by max_credits (4)" in partly.stderr
    assert "The balance went from 10,000 to 9,996, by 4" in partly.stderr
    again = nanobanana("batch", "rows.csv", "--to", "./images", "--max-credits", "4")
    assert (again.code, submits(sandbox)) == (0, 2)


def test_too_few_credits_begin_nothing(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: nothing is submitted for half of a batch unless that is asked for."""
    sandbox.configure(credits=5)
    result = nanobanana("batch", "rows.csv", "--to", "./images", "--json")
    assert (result.code, result.json["error"]["class_name"]) == (1, "OutOfCredits")
    assert submits(sandbox) == 0
    partly = nanobanana("batch", "rows.csv", "--to", "./images", "--no-check-credits")
    assert (partly.code, partly.stdout.split(",")[0]) == (3, "1 landed")


async def test_a_destination_may_be_a_block(
    nanobanana: Command, sandbox: Sandbox, tmp_path: Path, prefect_api: str
) -> None:
    """Rule: a saved ImageStore is its place for every command, and keeps prompts where it says."""
    store = ImageStore(url=f"{tmp_path}/of-the-block", keep_prompts=True)
    await store.asave("cli-store", overwrite=True)
    task_id = sandbox.add_task(DONE)
    landed = nanobanana("land", task_id, "--to", "cli-store")
    assert landed.stdout == f"1 landed, in {tmp_path}/of-the-block\n"
    assert not (tmp_path / "cli-store").exists()
    generated = nanobanana("generate", "a fox", "--to", "cli-store", "--name", "fox")
    assert generated.stdout == f"{tmp_path}/of-the-block/fox.png\n"
    assert json.loads((tmp_path / "of-the-block/fox.json").read_text())["prompt"] == "a fox"
    batch = nanobanana("batch", "rows.csv", "--to", "cli-store")
    assert batch.stdout == f"2 landed, in {tmp_path}/of-the-block\n"
    misspelt = nanobanana("land", task_id, "--to", "cli-stroe")
    assert "did you mean 'cli-store'?" in misspelt.stderr


@pytest.mark.slow
@pytest.mark.parametrize("answered", [False, True], ids=["under way", "answered"])
def test_a_kill_while_an_alternative_is_submitted(
    nanobanana: Command, sandbox: Sandbox, tmp_path: Path, *, answered: bool
) -> None:
    """Rule: after kill -9 it is landed where it was noted, else doubted; never paid for again."""
    sandbox.configure(submitted_task=TaskPlan(seconds=1), flagged_words=("bad",))
    rows = [{"prompt": "a bad cat", "promptOnContentPolicy": "a cat", "name": "cat"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ("batch", "rows.jsonl", "--to", "./images")
    take = ("--on-content-policy", "alternative-prompt")
    entry = tmp_path / "images/.nanobanana/ledger/cat.2.json"
    process = nanobanana.start(*command, *take)
    nanobanana.until(lambda: submits(sandbox) == 1)
    if answered:
        sandbox.configure(submitted_task=TaskPlan(seconds=1000))
    else:
        hung = Fault(kind="latency", on="submit", seconds=600, takes_effect=True)
        sandbox.add_fault(hung)
    state = "submitted" if answered else "intended"
    nanobanana.until(lambda: submits(sandbox) == 2 and f'"{state}"' in entry.read_text())
    os.kill(process, signal.SIGKILL)
    nanobanana.wait()
    sandbox.clear_faults()
    sandbox.advance(1000)
    for again in (take, take, ()):
        result = nanobanana(*command, *again, "--json")
        [outcome] = result.json["outcomes"]
        assert outcome["alternative_prompt"]
        if answered:
            assert outcome["status"] in ("landed", "already_landed")
        else:
            assert outcome["error"]["class_name"] == "UnconfirmedSubmit"
    assert [submit.body["prompt"] for submit in sandbox.submits()] == ["a bad cat", "a cat"]
