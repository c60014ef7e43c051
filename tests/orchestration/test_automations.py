"""The shipped automations, on a real Prefect server: made once, and doing what they are for."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect import State, flow, tags
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.schemas.automations import Automation
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.settings.models.flows import FlowsSettings
from prefect.states import Crashed, Failed, Running
from typer.testing import CliRunner, Result

from nanobanana_blocks import ImageStore
from nanobanana_blocks.cli.app import app
from nanobanana_blocks.errors import InvalidInput, NanoBananaError
from nanobanana_blocks.orchestration.observability.automations import (
    CHILD_FLOW,
    RUN_FAILED,
    SILENCE,
    TAG,
    WORKER_DIED,
    delete_automations,
    make_automations,
)
from nanobanana_blocks.orchestration.observability.events import post_events
from tests.support.until import until

PROJECT = Path(__file__).parents[2]
HEARTBEAT = "prefect.flow-run.heartbeat"
OF_THIS_PROJECT = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}


@pytest.fixture
async def prefect(prefect_api: str) -> AsyncIterator[PrefectClient]:
    """A client of the session's server, which has none of the automations before and after."""
    await delete_automations()
    async with get_client() as client:
        yield client
    await delete_automations()


@pytest.fixture
def notices() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A web server that notices are posted to: its URL, and what has come."""
    came: list[dict[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()
        thread.join()


async def save_block(url: str = "http://127.0.0.1:1", name: str = "ops") -> str:
    """Save a real notification block that posts to a URL; give it as the command takes it."""
    block = CustomWebhookNotificationBlock(
        name=name, url=url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
    )
    await block.asave(name, overwrite=True)
    return f"custom-webhook/{name}"


async def ours(prefect: PrefectClient) -> dict[str, Automation]:
    """The shipped automations that the server has; never two of a name."""
    found = [
        automation
        for name in (RUN_FAILED, WORKER_DIED)
        for automation in await prefect.read_automations_by_name(name)
    ]
    assert len({automation.name for automation in found}) == len(found)
    return {automation.name: automation for automation in found}


# --- made once


async def test_made_twice_they_are_there_once(prefect: PrefectClient) -> None:
    """Rule: making them again leaves them as they are, under the same ids."""
    block = await save_block()
    made = await make_automations(block)
    before = await ours(prefect)
    kept = await make_automations(block)
    assert set(before) == {RUN_FAILED, WORKER_DIED}
    assert [line.split()[0] for line in made + kept] == ["Made", "Made", "Kept", "Kept"]
    assert await ours(prefect) == before


async def test_without_a_block_nobody_is_notified(prefect: PrefectClient) -> None:
    """Rule: without a notification block only dead runs are taken care of."""
    [line] = await make_automations()
    assert WORKER_DIED in line
    assert set(await ours(prefect)) == {WORKER_DIED}


async def test_another_block_takes_the_place_of_the_first(prefect: PrefectClient) -> None:
    """Rule: what is asked for now replaces what the automation did, under the same id."""
    await make_automations(await save_block())
    before = await ours(prefect)
    lines = await make_automations(await save_block(name="others"))
    after = await ours(prefect)
    assert [line.split()[0] for line in lines] == ["Kept", "Updated"]
    assert after[RUN_FAILED].id == before[RUN_FAILED].id
    assert after[RUN_FAILED].actions != before[RUN_FAILED].actions


async def test_a_paused_automation_stays_paused(prefect: PrefectClient) -> None:
    """Rule: somebody paused it for a reason; an update does not undo that, and says so."""
    await make_automations(await save_block())
    await prefect.pause_automation((await ours(prefect))[RUN_FAILED].id)
    lines = await make_automations(await save_block(name="others"))
    assert "paused" in lines[1]
    assert not (await ours(prefect))[RUN_FAILED].enabled


async def test_deleted_they_are_gone(prefect: PrefectClient) -> None:
    """Rule: deleting removes both and names them; where there are none, nothing is wrong."""
    await make_automations(await save_block())
    assert len(await delete_automations()) == 2
    assert await ours(prefect) == {}
    assert await delete_automations() == []


@pytest.mark.parametrize("block", ["slack-webhook/nobodys", "no-such-type/ops"])
async def test_an_unknown_block_makes_nothing(prefect: PrefectClient, block: str) -> None:
    """Rule: a block that is not saved is named, with the next step, before anything is made."""
    with pytest.raises(InvalidInput, match=f"'{block}'.*prefect block ls"):
        await make_automations(block)
    assert await ours(prefect) == {}


@pytest.mark.parametrize("block", ["ops", "/ops", "custom-webhook/", "a/b/c", ""])
async def test_what_is_no_name_of_a_block(prefect: PrefectClient, block: str) -> None:
    """Rule: a block is written TYPE/NAME."""
    with pytest.raises(InvalidInput, match="TYPE/NAME"):
        await make_automations(block)


async def test_a_block_that_cannot_notify(prefect: PrefectClient) -> None:
    """Rule: a block of another kind is refused now, not when a run has failed."""
    await ImageStore(url="memory://x").asave("automations-test", overwrite=True)
    with pytest.raises(InvalidInput, match="cannot notify"):
        await make_automations("image-store/automations-test")


async def test_a_temporary_server_has_no_automations() -> None:
    """Rule: without PREFECT_API_URL Prefect would start a server that ends with the command."""
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(NanoBananaError, match="PREFECT_API_URL"),
    ):
        await make_automations()


# --- told of failed runs


def test_every_deployment_carries_the_tag() -> None:
    """Rule: the automations know this project's runs by a tag, so every deployment has it."""
    configuration = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
    assert all(TAG in deployment["tags"] for deployment in configuration["deployments"])


def run_to_failure(name: str, message: str, *, tag: str = TAG) -> UUID:
    """Really run a flow that fails at once; give the id of its run."""

    @flow(name=name, flow_run_name=f"{name} fails")
    def fails() -> None:
        raise ValueError(message)

    with tags(tag):
        state: State[Any] = fails(return_state=True)
    assert state.state_details.flow_run_id
    return state.state_details.flow_run_id


async def start_run(prefect: PrefectClient, tag: str) -> UUID:
    """Have Prefect know of a run that is running, without a process."""

    @flow(name="land-images")
    def never_called() -> None: ...

    return (await prefect.create_flow_run(never_called, tags=[tag], state=Running())).id


async def state_of(prefect: PrefectClient, run: UUID) -> State[Any]:
    state = (await prefect.read_flow_run(run)).state
    assert state
    return state


def heartbeat(run: UUID, occurred: datetime, tag: str) -> dict[str, Any]:
    """The event that Prefect's engine gives for a run that it runs."""
    return {
        "id": str(uuid4()),
        "event": HEARTBEAT,
        "occurred": occurred.isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [OF_THIS_PROJECT | {"prefect.resource.id": f"prefect.tag.{tag}"}],
    }


async def test_a_failed_run_is_told_of(
    prefect: PrefectClient, notices: tuple[str, list[dict[str, str]]]
) -> None:
    """Rule: a notice names flow, run, state, message and a link; and no other run gives one.

    Runs of other projects and child runs fail first, so theirs would have come before.
    """
    url, came = notices
    await make_automations(await save_block(url))
    await asyncio.to_thread(run_to_failure, "sweep", "not ours", tag="another-project")
    await asyncio.to_thread(run_to_failure, CHILD_FLOW, "its parent tells")
    run = await asyncio.to_thread(run_to_failure, "land-images", "2 of 3 have not landed")
    await until(lambda: came)
    [notice] = came
    assert notice["subject"] == "land-images Failed: land-images fails"
    assert "2 of 3 have not landed" in notice["body"]
    assert f"/runs/flow-run/{run}" in notice["body"]


@pytest.mark.parametrize("end", [Crashed(), Failed(name="TimedOut")], ids=lambda end: end.name)
async def test_the_other_bad_ends_are_told_of(
    prefect: PrefectClient, notices: tuple[str, list[dict[str, str]]], end: State[Any]
) -> None:
    """Rule: a run that timed out, or whose process crashed, is told of like one that failed."""
    url, came = notices
    await make_automations(await save_block(url))
    run = await start_run(prefect, TAG)
    await prefect.set_flow_run_state(run, end)
    await until(lambda: came)
    assert f" {end.name}: " in came[0]["subject"]


# --- rid of dead runs


def test_a_live_run_may_lose_heartbeats() -> None:
    """Rule: at Prefect's default frequency, a run two of whose heartbeats get lost is not dead."""
    default = FlowsSettings.model_fields["heartbeat_frequency"].default
    assert timedelta(seconds=default) * 3 < SILENCE


async def test_a_run_gives_heartbeats_with_its_tags(prefect: PrefectClient) -> None:
    """Rule: what the automation waits for is what runs give, without any setting."""

    @flow(name="land-images")
    async def waits_for_its_heartbeat() -> list[dict[str, str]]:
        async def look() -> list[Any]:
            answer = await prefect.request(
                "POST",
                "/events/filter",
                json={
                    "filter": {
                        "event": {"name": [HEARTBEAT]},
                        "any_resource": {"id": [f"prefect.flow-run.{flow_run.id}"]},
                    }
                },
            )
            events: list[Any] = answer.json()["events"]
            return events

        [heartbeat, *_] = await until(look)
        related: list[dict[str, str]] = heartbeat["related"]
        return related

    with tags(TAG):
        related = await waits_for_its_heartbeat()
    assert OF_THIS_PROJECT in related


async def test_a_run_without_heartbeat_becomes_crashed(prefect: PrefectClient) -> None:
    """Rule: a run is Crashed when its last heartbeat is too old; live ones and others' are not.

    Heartbeats are dated back so far that the silence ends now. Prefect has just looked and would
    look again when a silence that begins now ends; resuming the automation has it look at once.
    """
    await make_automations()
    live, others, dead = [await start_run(prefect, tag) for tag in (TAG, "another-project", TAG)]
    long_ago = datetime.now(UTC) - SILENCE
    await post_events(
        prefect,
        [
            heartbeat(live, datetime.now(UTC), TAG),
            heartbeat(others, long_ago, "another-project"),
            heartbeat(dead, long_ago, TAG),
        ],
    )
    automation = (await ours(prefect))[WORKER_DIED]

    async def has_crashed() -> bool:
        await prefect.resume_automation(automation.id)
        return (await state_of(prefect, dead)).is_crashed()

    await until(has_crashed)
    assert "its worker has died" in str((await state_of(prefect, dead)).message)
    assert (await state_of(prefect, live)).is_running()
    assert (await state_of(prefect, others)).is_running()


# --- the command


async def command(*arguments: str) -> Result:
    """Run `nanobanana automations` beside this test's event loop, for it has one of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["automations", *arguments])


async def test_the_command_makes_and_deletes(prefect: PrefectClient) -> None:
    """Rule: it says in a line each what it made and what it deleted."""
    made = await command("--notify", await save_block())
    assert made.exit_code == 0
    assert [WORKER_DIED in line for line in made.stdout.splitlines()] == [True, False]
    assert set(await ours(prefect)) == {RUN_FAILED, WORKER_DIED}
    deleted = await command("--delete")
    assert (deleted.exit_code, len(deleted.stdout.splitlines())) == (0, 2)
    assert await ours(prefect) == {}
    assert "none" in (await command("--delete")).stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--notify", "slack-webhook/nobodys"], "prefect block ls"),
        (["--delete", "--notify", "slack-webhook/ops"], "--delete"),
    ],
    ids=["unknown block", "contradiction"],
)
async def test_the_command_refuses(prefect: PrefectClient, arguments: list[str], told: str) -> None:
    """Rule: what cannot be done is one line, the next step in it, and exit code 1."""
    refused = await command(*arguments)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert told in refused.stderr
    assert await ours(prefect) == {}


@pytest.mark.parametrize("arguments", [[], ["--delete"]], ids=["make", "delete"])
async def test_no_server_answers(arguments: list[str]) -> None:
    """Rule: where Prefect's server does not answer, that is said, and where it was looked for."""
    nobody = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody):
        refused = await command(*arguments)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "127.0.0.1:1" in refused.stderr
