"""`nanobanana generate`: from a prompt to a file, paid for once."""

from __future__ import annotations

import inspect
import json
import os
import signal
from pathlib import Path

import pytest

from nanobanana_blocks.batches.manifest.fields import OPTIONS, OTHER_OPTIONS
from nanobanana_blocks.cli.generate import generate
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from tests.support.command_line import Command

DONE = TaskPlan(seconds=0, media_type="image/png")


@pytest.fixture(autouse=True)
def _done_at_once(sandbox: Sandbox) -> None:
    sandbox.configure(submitted_task=DONE)


def submits(sandbox: Sandbox) -> int:
    return len(sandbox.submits())


def test_a_prompt_becomes_a_file(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: standard output is the image's path, and nothing else is said."""
    result = nanobanana("generate", "a fox", "--to", f"{tmp_path}/images", "--name", "fox")
    assert (result.code, result.stdout) == (0, f"{tmp_path}/images/fox.png\n")
    assert (tmp_path / "images/fox.png").read_bytes().startswith(b"\x89PNG")
    assert submits(sandbox) == 1


def test_its_receipt_tells_what_made_it(nanobanana: Command, tmp_path: Path) -> None:
    """Rule: endpoint, options and credits; there is no manifest, and no row of one."""
    options = ("--endpoint", "generate-2", "--resolution", "2K", "--name", "fox")
    assert nanobanana("generate", "a fox", "--to", "./images", *options).code == 0
    made = json.loads((tmp_path / "images/fox.json").read_text())["provenance"]
    assert made == {
        "endpoint": "generate-2",
        "options": {"resolution": "2K"},
        "credits_estimated": 12,
    }


def test_the_same_again_is_not_paid_for_again(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: the same command gives the same file, and says how to have another."""
    first = nanobanana("generate", "a fox", "--to", "images")
    second = nanobanana("generate", "a fox", "--to", "images")
    assert (second.code, second.stdout) == (0, first.stdout)
    assert "--again" in second.stderr
    assert submits(sandbox) == 1
    third = nanobanana("generate", "a fox", "--to", "images", "--again")
    assert third.code == 0
    assert third.stdout != first.stdout
    assert submits(sandbox) == 2


def test_all_images_are_printed(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: a line for each image, in their order."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0, images=2, media_type="image/png"))
    result = nanobanana("generate", "a", "--to", "images", "--name", "x", "--num-images", "2")
    assert [Path(line).name for line in result.stdout.splitlines()] == ["x-1.png", "x-2.png"]


def test_no_wait_prints_the_task(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: it is submitted and noted; the same command without it lands that very task."""
    sandbox.configure(submitted_task=TaskPlan(seconds=None))
    result = nanobanana("generate", "a", "--to", "images", "--no-wait")
    task_id = result.stdout.strip()
    assert (result.code, result.stderr) == (0, "")
    as_json = nanobanana("generate", "a", "--to", "images", "--no-wait", "--json")
    assert as_json.json == {"task_id": task_id}
    assert submits(sandbox) == 1
    assert nanobanana("status", task_id).code == 4


def test_an_interrupted_wait_is_gone_on_with(
    nanobanana: Command, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: Ctrl-C is one line and exit code 130; the same command then pays nothing more."""
    sandbox.configure(submitted_task=TaskPlan(seconds=None))
    process = nanobanana.start("generate", "a", "--to", "images", "--timeout", "600")
    nanobanana.until(lambda: sandbox.stats().requests.get("record-info", 0) > 0)
    os.kill(process, signal.SIGINT)
    result = nanobanana.ended()
    assert (result.code, result.stdout) == (130, "")
    assert len(result.stderr.splitlines()) == 1
    late = nanobanana("generate", "a", "--to", "images", "--timeout", "0.2")
    assert (late.code, late.stdout) == (4, "")
    assert len(late.stderr.splitlines()) == 1
    assert submits(sandbox) == 1


def test_a_failed_generation(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: exit code 3 and one line with the service's reason; in JSON it is the outcome."""
    plan = TaskPlan(seconds=0, outcome="generate-failed", error_message="[no] bananas")
    sandbox.configure(submitted_task=plan)
    result = nanobanana("generate", "a", "--to", "images")
    assert (result.code, result.stdout) == (3, "")
    [line] = result.stderr.splitlines()
    assert "[no] bananas" in line
    as_json = nanobanana("generate", "a", "--to", "images", "--json")
    assert (as_json.code, as_json.json["status"]) == (3, "failed")
    assert as_json.json["error"]["class_name"] == "GenerationFailed"


def test_a_lost_answer_is_not_paid_for_twice(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: of a submit without an answer it is said that it may be paid; again sends none."""
    sandbox.add_fault(Fault(kind="drop", on="submit", takes_effect=True, count=1))
    for _ in range(2):
        result = nanobanana("generate", "a", "--to", "images", "--json")
        assert result.code == 3
        assert result.json["error"]["class_name"] == "UnconfirmedSubmit"
        assert "The same command with --again submits it once more" in result.stderr
        assert "retry=" not in result.stdout + result.stderr
    assert submits(sandbox) == 1


@pytest.mark.slow
def test_an_api_that_does_not_answer(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: where nothing answers, nothing is reserved: the same command submits it later."""
    here = ("generate", "a", "--to", "images", "--timeout", "10")
    result = nanobanana(*here, NANOBANANA_BASE_URL="http://127.0.0.1:1")
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: http://127.0.0.1:1: ")
    assert not list((tmp_path / "images/.nanobanana/ledger").glob("*.1.json"))
    assert nanobanana(*here).code == 0
    assert submits(sandbox) == 1


def test_a_key_that_is_refused(nanobanana: Command, tmp_path: Path) -> None:
    """Rule: it is known before anything is reserved."""
    result = nanobanana("generate", "a", "--to", "images", NANOBANANA_API_KEY="wrong")
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: the API refused the key")
    assert not list((tmp_path / "images/.nanobanana/ledger").glob("*.1.json"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "--num-images", "9", "--resolution", "2K"], ("--num-images: must", "--resolution:")),
        ([" "], ("the prompt: must not be blank",)),
        (["a", "--name", "a/b"], ("--name: must be a plain file name",)),
        (["a", "--image", "https://x/a,https://x/b"], ("--image: item 1 joins several URLs",)),
        (["a", "--image", "stdin"], ("--image: image 1", "stdin is empty")),
        (["a", "--endpoint", "generate-2", "--output-format", "gif"], ("--output-format: must",)),
        (["a", "--storage-option", "secret"], ("--storage-option 'secret': write KEY=VALUE",)),
        (["a", "--to", "s3://bucket/{day}"], ("{day}",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_are_invalid_are_named(
    nanobanana: Command, sandbox: Sandbox, arguments: list[str], words: tuple[str, ...]
) -> None:
    """Rule: every wrong option is named as it is typed, before anything is asked or spent."""
    result = nanobanana("generate", "--to", "./images", *arguments)
    assert (result.code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    assert all(word in line for word in words)
    assert sandbox.stats().requests == {}


def test_every_option_of_every_endpoint_can_be_given() -> None:
    """Rule: a field that an endpoint learns is an option of the command, or follows from others."""
    fields = {field for options in (*OPTIONS.values(), OTHER_OPTIONS) for field in options}
    given = set(inspect.signature(generate).parameters)
    given |= {"image_urls", "type", "fields", "credits"}
    assert fields <= given


def test_a_deployment_goes_on_with_it(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: a batch whose row asks for the same in the same place does not pay for it again."""
    landed = nanobanana("generate", "a fox", "--to", "images")
    (Path(landed.stdout.strip()).parents[1] / "m.jsonl").write_text(json.dumps({"prompt": "a fox"}))
    again = nanobanana("batch", "m.jsonl", "--to", "images", "--json")
    assert again.json["counts"]["already_landed"] == 1
    assert submits(sandbox) == 1


def test_a_job_by_the_name_of_a_model(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: the variable's dialect is that of all requests, and a wrong one is told."""
    sandbox.configure(submitted_task=DONE, other_endpoints={"google/nano-banana": 4})
    asked = ("--to", "images", "--endpoint", "google/nano-banana", "--credits", "4")
    for _ in range(2):
        done = nanobanana("generate", "A fig", *asked, NANOBANANA_DIALECT="jobs")
        assert done.code == 0, done.stderr
    (submit,) = sandbox.submits()
    assert (submit.endpoint, submit.body["prompt"]) == ("google/nano-banana", "A fig")
    for dialect, says in (("", "the dialect `jobs`"), ("kobs", "NANOBANANA_DIALECT: the dialect")):
        refused = nanobanana("generate", "A pear", *asked, NANOBANANA_DIALECT=dialect)
        assert refused.code != 0
        assert says in refused.stderr
    assert submits(sandbox) == 1


class TestNewerEndpoints:
    """An endpoint that this version does not know."""

    @pytest.fixture(autouse=True)
    def newer(self, sandbox: Sandbox) -> None:
        sandbox.configure(submitted_task=DONE, other_endpoints={"generate-3": 6})

    def test_its_own_fields(self, nanobanana: Command, sandbox: Sandbox) -> None:
        """Rule: values are JSON or text; the same again is paid for once; no prompt is needed."""
        own = ("--field", "seed=7", "--field", "style=ink", "--fields", '{"size": {"w": 2}}')
        asked = ("generate", "--to", "images", "--endpoint", "generate-3", "--credits", "6", *own)
        for _ in range(2):
            assert nanobanana(*asked).code == 0
        (submit,) = sandbox.submits()
        assert submit.endpoint == "generate-3"
        del submit.body["callBackUrl"]
        assert submit.body == {"seed": 7, "style": "ink", "size": {"w": 2}}

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--endpoint", "generate-3"), "--endpoint: must be one of generate, generate-pro"),
            (("--endpoint", "../x", "--credits", "6"), "last part of a newer endpoint's path"),
            (("--endpoint", "generate-3", "--credits", "six"), "--credits: must be a number"),
            (("--field", "seed=7"), "--field: generate has no fields"),
            (("--field", "seed"), "write NAME=VALUE"),
            (("--fields", "[1]"), "--fields is no JSON object"),
            (("--fields", '{"a": 1}', "--field", "a=1"), "is given twice"),
        ],
    )
    def test_mistakes(
        self, nanobanana: Command, sandbox: Sandbox, options: tuple[str, ...], says: str
    ) -> None:
        """Rule: refused in the words of the command, before anything is sent."""
        result = nanobanana("generate", "a fox", "--to", "images", *options)
        assert result.code != 0
        assert says in result.stderr
        assert submits(sandbox) == 0

    def test_a_default_of_a_batch(
        self, nanobanana: Command, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """Rule: `--default` takes the fields as JSON, and the credits."""
        (tmp_path / "m.jsonl").write_text(json.dumps({"prompt": "a fox"}))
        given = ("endpoint=generate-3", 'fields={"seed": 7}', "credits=6")
        defaults = [text for each in given for text in ("--default", each)]
        result = nanobanana("batch", "m.jsonl", "--to", "images", *defaults)
        assert result.code == 0
        assert sandbox.submits()[0].body["seed"] == 7
