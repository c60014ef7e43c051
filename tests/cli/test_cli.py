"""The `nanobanana` command as scripts see it: exit codes, standard output, and plain words."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import uuid
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client

from nanobanana_blocks.sandbox import SIGNATURE_MARK, Fault, Sandbox, TaskPlan
from tests.support.command_line import Command, Result
from tests.support.until import block_until

NANOBANANA = Path(sys.executable).with_name("nanobanana")
DONE = TaskPlan(seconds=0)
NEVER = TaskPlan(seconds=None)


# --- the command itself


def test_the_command_is_installed_and_explains_itself() -> None:
    """Rule: `nanobanana` alone is help, which tells of the key, the exit codes and each command."""
    told = subprocess.run([NANOBANANA, "--help"], capture_output=True, text=True, check=True)
    for word in (
        "NANOBANANA_API_KEY",
        "Exit codes",
        "demo",
        "land",
        "status",
        "credits",
        "save-key",
    ):
        assert word in told.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        *(["nonsense"], ["land"], ["land", "t1"], ["status"], ["land", "t1", "--too", "x"]),
        *(["land", "t1", "--to", "x", "--timeout", "soon"], ["sandbox", "--port", "x"]),
        ["land", "t1", "--to", "x", "--requests-per-second", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage(nanobanana: Command, arguments: list[str]) -> None:
    """Rule: what cannot be read as a command is exit code 2, with nothing on standard output."""
    result = nanobanana(*arguments)
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr
    as_json = nanobanana(*arguments[:1], "--json", *arguments[1:])
    assert (as_json.code, as_json.json["error"]["class_name"]) == (2, "InvalidInput")
    assert as_json.json["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["land", "t1", "--to", "x", "--requests-per-second", "5000"], "requests-per-second"),
        (["land", "t1", "--to", "x", "--requests-per-second", "nan"], "requests-per-second"),
        (["land", "t1", "--to", "x", "--timeout", "nan"], "timeout"),
        (["land", "t1", "--to", "x", "--timeout", "-1"], "timeout"),
        (["sandbox", "--port", "99999"], "port"),
        (["sandbox", "--port", "-1"], "port"),
        (["sandbox", "--speed", "0"], "speed"),
        (["sandbox", "--speed", "nan"], "speed"),
        (["sandbox", "--host", "192.0.2.1", "--port", "0"], "remote"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_numbers_that_cannot_be_meant(
    nanobanana: Command, sandbox: Sandbox, arguments: list[str], word: str
) -> None:
    """Rule: a value out of its bounds is one line that names the option, never a traceback."""
    result = nanobanana(*arguments)
    assert result.code in (1, 2)
    assert word in result.stderr.lower()
    assert result.stdout == ""
    assert sandbox.stats().requests == {}


# --- status


def test_status_of_tasks_that_are_done(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: one line a task in the order asked, exit code 0, and no signed URL."""
    task_ids = sandbox.add_tasks([DONE, DONE])
    result = nanobanana("status", *task_ids)
    assert result == Result(0, "".join(f"{t}  SUCCESS\n" for t in task_ids), "")


def test_status_as_json(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: with --json, standard output is JSON and nothing else; it holds the image URLs."""
    task_id = sandbox.add_task(DONE)
    result = nanobanana("status", task_id, "--json")
    assert result.code == 0
    [found] = result.json
    assert (found["task_id"], found["status"]) == (task_id, "SUCCESS")
    assert SIGNATURE_MARK in found["result_urls"][0]


@pytest.mark.parametrize(
    ("plans", "code"),
    [
        ([NEVER], 4),
        ([DONE, NEVER], 4),
        ([TaskPlan(seconds=0, outcome="generate-failed")], 3),
        ([NEVER, TaskPlan(seconds=0, outcome="create-failed"), DONE], 3),
    ],
)
def test_status_exit_codes(
    nanobanana: Command, sandbox: Sandbox, plans: list[TaskPlan], code: int
) -> None:
    """Rule: 4 says still generating, 3 that a generation failed, whatever else there is."""
    result = nanobanana("status", *sandbox.add_tasks(plans))
    assert (result.code, len(result.stdout.splitlines())) == (code, len(plans))
    assert ("Image generation task failed" in result.stdout) is (code == 3)


def test_status_reads_ids_from_standard_input(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: `-` takes the ids from standard input, whatever blanks are between them."""
    a, b, c = sandbox.add_tasks([DONE] * 3)
    result = nanobanana("status", "-", stdin=f"{a}\n\n  {b}\t{c}\r\n")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [a, b, c]


def test_status_of_one_unknown_task_does_not_hide_the_others(
    nanobanana: Command, sandbox: Sandbox
) -> None:
    """Rule: what is known is told, even where one of the ids is not."""
    task_id = sandbox.add_task(DONE)
    result = nanobanana("status", "nobody", task_id)
    assert result.code in (1, 3)
    assert "nobody" in result.stdout + result.stderr
    assert f"{task_id}  SUCCESS" in result.stdout


def test_status_as_json_tells_errors_too(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: with --json, an id that has no answer has its error in the place of one."""
    task_id = sandbox.add_task(DONE)
    result = nanobanana("status", "nobody", task_id, "--json")
    assert result.code in (1, 3)
    failed, found = result.json
    assert (failed["task_id"], failed["error"]["class_name"]) == ("nobody", "UnknownTask")
    assert found["task_id"] == task_id


def test_status_with_a_wrong_key(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: a refused key is one line with the cause and the next step, exit code 1."""
    task_ids = sandbox.add_tasks([DONE] * 3)
    result = nanobanana("status", *task_ids, NANOBANANA_API_KEY="wr0ng-key")
    assert (result.code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    assert "the API refused the key" in line
    assert "Check the key" in line


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"NANOBANANA_API_KEY": ""}, ("NANOBANANA_API_KEY is not set", "--credentials")),
        ({"NANOBANANA_API_KEY": "two words"}, ("the API key",)),
        ({"NANOBANANA_API_KEY": "ключ"}, ("the API key",)),
        ({"NANOBANANA_BASE_URL": "http://example.com"}, ("https", "example.com")),
        ({"NANOBANANA_BASE_URL": "nonsense"}, ("base URL",)),
        ({"NANOBANANA_BASE_URL": "http://127.0.0.1:1"}, ("127.0.0.1:1", "connection failed")),
        ({"NANOBANANA_BASE_URL": "https://127.0.0.1:99999"}, ("base URL",)),
    ],
)
def test_what_the_environment_gets_wrong(
    nanobanana: Command, environment: dict[str, str], words: tuple[str, ...]
) -> None:
    """Rule: a missing or impossible key or server is one line that names it, exit code 1."""
    result = nanobanana("status", "t1", **environment)
    assert (result.code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr


def test_a_base_url_that_is_not_the_api(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: the message points at the base URL, and shows where the request went."""
    url = f"{sandbox.base_url}/wrong"
    result = nanobanana("status", "t1", NANOBANANA_BASE_URL=url)
    assert result.code == 1
    assert "Check the base URL" in result.stderr
    assert url in result.stderr


@pytest.mark.parametrize("task_id", ["", " ", "a b", "x" * 5000])
def test_an_id_that_cannot_be_one(nanobanana: Command, sandbox: Sandbox, task_id: str) -> None:
    """Rule: it is refused in one short line, and nothing is asked."""
    result = nanobanana("status", task_id)
    assert (result.code, result.stdout) == (1, "")
    assert "task id" in result.stderr
    assert len(result.stderr) < 300
    assert sandbox.stats().requests == {}


def test_markup_in_what_the_service_says_is_only_text(
    nanobanana: Command, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Rule: brackets and escape codes of others neither vanish nor colour the terminal."""
    task_id = sandbox.add_task(
        TaskPlan(seconds=0, outcome="generate-failed", error_message="[red]x[/] \x1b[31mred")
    )
    status = nanobanana("status", task_id)
    land = nanobanana("land", task_id, "--to", str(tmp_path / "images"))
    for said in (status.stdout, land.stderr):
        assert "[red]x[/]" in said
        assert "\x1b" not in said


# --- credits


def test_credits(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: the number alone, or in JSON; asking costs nothing."""
    sandbox.configure(credits=1234)
    plain, as_json = nanobanana("credits"), nanobanana("credits", "--json")
    assert (plain.code, plain.stdout, plain.stderr) == (0, "1234\n", "")
    assert (as_json.code, as_json.json) == (0, {"credits": 1234})
    assert sandbox.stats().requests == {"credit": 2}


def test_credits_with_a_wrong_key(nanobanana: Command) -> None:
    """Rule: a refused key is one line, exit code 1."""
    result = nanobanana("credits", NANOBANANA_API_KEY="wr0ng-key")
    assert (result.code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    assert "the API refused the key" in line


# --- land


def test_land_all(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: exit code 0, the result in one line, progress on standard error; again is no work."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0, media_type="image/png")] * 2)
    folder = tmp_path / "images"
    result = nanobanana("land", *task_ids, "--to", str(folder))
    assert (result.code, result.stdout) == (0, f"2 landed, in {folder}\n")
    assert len(result.stderr.splitlines()) == 2
    assert all(f"{folder}/{task_id}.png" in result.stderr for task_id in task_ids)
    again = nanobanana("land", *task_ids, "--to", str(folder))
    assert (again.code, again.stdout) == (0, f"2 already landed, in {folder}\n")
    assert set(sandbox.stats().images_served.values()) == {1}


def test_land_as_json(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: with --json, standard output is the report and nothing else, also on exit code 3."""
    good, bad = sandbox.add_tasks([DONE, TaskPlan(seconds=0, outcome="generate-failed")])
    asked = [good, bad, good]
    result = nanobanana("land", "-", "--to", "images", "--json", stdin="\n".join(asked))
    assert result.code == 3
    report = result.json
    assert report["counts"] == {"landed": 2, "already_landed": 0, "failed": 1, "timed_out": 0}
    assert [outcome["task_id"] for outcome in report["outcomes"]] == asked
    assert report["outcomes"][1]["error"]["class_name"] == "GenerationFailed"
    assert report["destination"] == str(tmp_path / "images")
    assert SIGNATURE_MARK not in result.stdout + result.stderr


def test_land_what_is_not_ready_in_time(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: a task that is still generating at the end of the time is exit code 3."""
    result = nanobanana("land", sandbox.add_task(NEVER), "--to", "images", "--timeout", "0.2")
    assert (result.code, result.stdout.split(",")[0]) == (3, "1 timed out")
    assert "Running again picks it up" in result.stderr


@pytest.mark.parametrize(
    "to", ["", "s3:/one-slash", "http://example.com/x", "nosuch://x", "/dev/null/x", "stdin"]
)
def test_land_where_nothing_can_be_written(nanobanana: Command, sandbox: Sandbox, to: str) -> None:
    """Rule: a destination that cannot be used is exit code 1 before anything is asked."""
    result = nanobanana("land", sandbox.add_task(DONE), "--to", to)
    assert (result.code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert sandbox.stats().requests == {}


def test_land_nothing(nanobanana: Command) -> None:
    """Rule: no ids on standard input is told, and is an error."""
    result = nanobanana("land", "-", "--to", "images")
    assert (result.code, result.stdout) == (1, "")
    assert "at least one task id" in result.stderr


def test_land_with_a_wrong_key(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: a refused key is told once, not once for each task."""
    task_ids = sandbox.add_tasks([DONE] * 10)
    result = nanobanana("land", *task_ids, "--to", "images", NANOBANANA_API_KEY="wr0ng-key")
    assert (result.code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1


def test_interrupted(nanobanana: Command, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: Ctrl-C is exit code 130 and one line; what has landed stays, nothing partial does."""
    done, never = sandbox.add_tasks([DONE, NEVER])
    sandbox.add_fault(Fault(kind="latency", on="record-info", task_id=never, seconds=0.01))
    process = nanobanana.start("land", done, never, "--to", "images", "--json")
    receipt = tmp_path / "images" / f"{done}.json"
    nanobanana.until(receipt.exists)
    os.kill(process, signal.SIGINT)
    result = nanobanana.ended()
    assert (result.code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1].startswith("Interrupted.")
    assert sorted(path.stem for path in (tmp_path / "images").iterdir()) == [done, done]


# --- saved credentials


def test_save_key_and_use_it(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: a saved key serves by its name, is not replaced unasked, and is never shown."""
    name = f"cli-{uuid.uuid4().hex[:8]}"
    saved = nanobanana("save-key", name)
    assert (saved.code, saved.stderr) == (0, "")
    assert name in saved.stdout
    refused = nanobanana("save-key", name)
    assert (refused.code, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"Error: the block '{name}' exists already and was not changed. Replace its key with "
        "--overwrite, or give another name.\n"
    )
    assert nanobanana("save-key", name, "--overwrite").code == 0
    task_id = sandbox.add_task(DONE)
    used = nanobanana("status", task_id, "--credentials", name, "--json", NANOBANANA_API_KEY="")
    assert used.code == 0
    assert used.json[0]["task_id"] == task_id
    left = nanobanana("credits", "--credentials", name, NANOBANANA_API_KEY="")
    assert (left.code, left.stdout) == (0, "10000\n")


QUIET = """
import logging
from nanobanana_blocks.cli.options import quieten_prefect
from nanobanana_blocks.cli.output import show_log

quieten_prefect()
logging.getLogger("EventsWorker").warning("of a library")
import prefect.main
from prefect.logging.configuration import setup_logging
from prefect.settings import get_current_settings

setup_logging()
show_log()
logging.getLogger("docket.dependencies").error("of a library")
logging.getLogger("nanobanana_blocks.batches").warning("of ours")
assert not get_current_settings().server.analytics_enabled
"""


def without_prefect(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user who has never set up Prefect."""
    environment = {name: one for name, one in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {"HOME": str(tmp_path), "NANOBANANA_API_KEY": "a-key-of-sixteen-and-more"}
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_nothing_of_the_libraries_that_prefect_uses_is_shown(tmp_path: Path) -> None:
    """Rule: what this package warns of is shown, and nothing else."""
    done = without_prefect(tmp_path, "-c", QUIET)
    assert (done.returncode, done.stdout) == (0, "")
    assert "of ours" in done.stderr
    assert "of a library" not in done.stderr


@pytest.mark.slow
def test_without_a_server_of_ones_own_a_command_says_one_line(tmp_path: Path) -> None:
    """Rule: Prefect then starts a server for the command alone, whose troubles are not shown."""
    saved = without_prefect(tmp_path, "-m", "nanobanana_blocks", "save-key", "first")
    assert (saved.returncode, saved.stderr) == (0, "")
    assert saved.stdout.startswith("Saved NanoBananaCredentials 'first'")
    assert saved.stdout.count("\n") == 1


def test_a_key_from_standard_input_or_none(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: where there is no terminal the key is read unasked; no key is an error that says so."""
    name = f"piped-{uuid.uuid4().hex[:8]}"
    none = nanobanana("save-key", name, NANOBANANA_API_KEY="")
    assert (none.code, none.stdout) == (1, "")
    assert "there is no key, and no terminal to ask for it. Set NANOBANANA_API_KEY" in none.stderr
    piped = nanobanana("save-key", name, stdin=f"{sandbox.api_key}\n", NANOBANANA_API_KEY="")
    assert (piped.code, piped.stderr) == (0, "")
    task_id = sandbox.add_task(DONE)
    assert nanobanana("status", task_id, "--credentials", name, NANOBANANA_API_KEY="").code == 0


@pytest.mark.parametrize("name", ["Not A Name", "a/b", "../x", "", "é"])
def test_a_block_name_that_cannot_be_one(nanobanana: Command, name: str) -> None:
    """Rule: a name that Prefect refuses is told in plain words, for saving and for using."""
    for arguments, key in (
        (["save-key", name], "k3y"),
        (["status", "t", "--credentials", name], ""),
    ):
        result = nanobanana(*arguments, NANOBANANA_API_KEY=key)
        assert (result.code, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1


def test_credentials_that_are_not_there(nanobanana: Command) -> None:
    """Rule: an unknown block name is told with the command that would make it."""
    result = nanobanana("status", "t1", "--credentials", "nobody", NANOBANANA_API_KEY="")
    assert (result.code, result.stdout) == (1, "")
    assert "nanobanana save-key nobody" in result.stderr


def test_a_misspelt_block_name_is_not_replaced_by_the_environment(
    nanobanana: Command, sandbox: Sandbox
) -> None:
    """Rule: `--credentials` means that block, and "not the environment", as its help says."""
    result = nanobanana("status", sandbox.add_task(DONE), "--credentials", "misspelt")
    assert result.code == 1
    assert sandbox.stats().requests == {}


@pytest.mark.parametrize(
    "arguments", [["save-key", "x"], ["status", "t1", "--credentials", "x"]], ids=" ".join
)
def test_prefect_is_out_of_reach(arguments: list[str]) -> None:
    """Rule: where Prefect's server does not answer, that is said, without a traceback."""
    environment = os.environ | {
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "NANOBANANA_API_KEY": "k3y-0f-mine",
    }
    result = subprocess.run(
        [NANOBANANA, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "127.0.0.1:1" in result.stderr
    assert "k3y-0f-mine" not in result.stdout + result.stderr


def test_save_key_asks_without_echo(prefect_server: str) -> None:
    """Rule: without the environment variable the key is asked for, and not echoed."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("NANOBANANA_")}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [NANOBANANA, "save-key", f"asked-{uuid.uuid4().hex[:8]}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=environment | {"PREFECT_API_URL": prefect_server},
    ) as process:
        os.close(theirs)
        said = b""
        while b"API key" not in said:
            said += os.read(ours, 1000)
        block_until(lambda: not termios.tcgetattr(ours)[3] & termios.ECHO)
        os.write(ours, b"typed-k3y\n")
        try:
            while chunk := os.read(ours, 1000):
                said += chunk
        except OSError:
            pass  # how a terminal ends on Linux
    os.close(ours)
    assert process.returncode == 0, said
    assert b"Saved NanoBananaCredentials" in said
    assert b"typed-k3y" not in said


# --- sandbox


def test_sandbox_says_what_it_is_and_stops_when_told(nanobanana: Command, tmp_path: Path) -> None:
    """Rule: it says on start that no credits are spent and how to reach it; Ctrl-C ends it."""
    process = nanobanana.start("sandbox", "--port", "0", NANOBANANA_API_KEY="")
    output = tmp_path / "stdout"
    nanobanana.until(lambda: output.exists() and "Ctrl-C" in output.read_text())
    said = output.read_text().splitlines()
    [url] = [line.split("=")[1] for line in said if "NANOBANANA_BASE_URL" in line]
    assert "No credits are spent" in httpx.get(f"{url}/sandbox", trust_env=False).text
    os.kill(process, signal.SIGINT)
    code = nanobanana.wait()
    assert code == 0
    assert "No credits are spent" in "\n".join(said)


def test_a_port_that_is_taken(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: a port in use is one line that says to choose another."""
    result = nanobanana("sandbox", "--port", sandbox.base_url.rpartition(":")[2])
    assert (result.code, result.stdout) == (1, "")
    assert "choose another port" in result.stderr


# --- errors as JSON


@pytest.mark.parametrize(
    "arguments",
    [
        ["credits"],
        ["status", "t1"],
        ["land", "t1", "--to", "./images"],
        ["generate", "a", "--to", "./images"],
        ["batch", "stdin", "--to", "./images"],
    ],
    ids=" ".join,
)
def test_json_means_the_same_everywhere(nanobanana: Command, arguments: list[str]) -> None:
    """Rule: with --json, an error is one JSON value on standard output, and a line beside."""
    result = nanobanana(*arguments, "--json", NANOBANANA_API_KEY="")
    assert result.code == 1
    assert result.json["error"]["class_name"] in ("MissingCredentials", "InvalidManifest")
    assert result.stderr.startswith("Error: ")
    assert set(result.json["error"]) == {"class_name", "message", "retryable"}


def test_land_with_options_of_the_storage(nanobanana: Command, sandbox: Sandbox) -> None:
    """Rule: what fsspec's backend takes can be given, and no value of it is shown."""
    task_id = sandbox.add_task(DONE)
    result = nanobanana(
        *("land", task_id, "--to", "s3://bucket/images", "--storage-option", "key=s3cr3t-key"),
        *("--storage-option", "secret=s3cr3t", "--json"),
        *("--storage-option", "client_kwargs.endpoint_url=http://127.0.0.1:1"),
    )
    assert result.code == 1
    assert result.json["error"]["class_name"] in ("DestinationError", "StorageError")
    assert "s3://bucket/images" in result.stderr
    assert "s3cr3t" not in result.stdout + result.stderr


# --- callbacks


async def test_callbacks_that_would_land_elsewhere(
    nanobanana: Command, tmp_path: Path, prefect_api: str
) -> None:
    """Rule: the receiver does not start where its place and the deployment's differ."""
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("land-images")
        parameters = {"destination": f"{tmp_path}/theirs"}
        made = await client.create_deployment(flow_id, "on-callback", parameters=parameters)
        result = nanobanana(
            *("callbacks", "--port", "0", "--to", f"{tmp_path}/ours"),
            NANOBANANA_CALLBACK_SECRET="d2f7" * 16,
        )
        await client.delete_deployment(made)
    assert (result.code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    assert f"--to is {tmp_path}/ours" in line
    assert f"lands in {tmp_path}/theirs" in line


@pytest.mark.parametrize("command", ["verify", "history"])
def test_a_place_with_nothing_in_it(nanobanana: Command, command: str) -> None:
    """Rule: a misspelt place, which storages take for an empty one, is pointed out."""
    result = nanobanana(command, "./imagse", "--json")
    assert result.code == 0
    assert "/imagse: check that this is the right place." in result.stderr
