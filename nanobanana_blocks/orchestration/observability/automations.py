"""The Prefect automations that ship with the project: told of failed runs, rid of dead ones.

They are found again by their names, so making them twice makes them once. Prefect's server acts on
them by itself; nothing of this package has to run.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.automations import (
    Automation,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    SendNotification,
)
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from nanobanana_blocks.errors import InvalidInput, NanoBananaError

TAG = "nanobanana"
CHILD_FLOW = "run-shard"
RUN_FAILED = "nanobanana: a run has failed"
WORKER_DIED = "nanobanana: a run's worker has died"

# Three heartbeats of Prefect's default of 180 s and a minute more: a run that lacks any setting of
# ours, or loses a heartbeat or two on the way, must not be taken for dead.
SILENCE = timedelta(minutes=10)

_HEARTBEAT = "prefect.flow-run.heartbeat"
_BAD_ENDS = ("Failed", "Crashed", "TimedOut")
_OTHER_REASONS_FOR_SILENCE = (
    "Completed",
    "Cancelled",
    "AwaitingRetry",
    "Paused",
    "Suspended",
    "Scheduled",
)
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
_OF_THIS_PROJECT = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
_NOT_A_CHILD = {"prefect.resource.role": "flow", "prefect.resource.name": f"!{CHILD_FLOW}"}

_SUBJECT = "{{ flow.name }} {{ event.resource['prefect.state-name'] }}: {{ flow_run.name }}"
_BODY = """\
The run {{ flow_run.name }} of {{ flow.name }} has ended {{ event.resource['prefect.state-name'] }}.
{{ event.resource['prefect.state-message'] | truncate(2000) }}
{{ flow_run | ui_url }}"""


async def make_automations(notify: str | None = None) -> list[str]:
    """Make the automations, or have those of the same names do what they do now.

    One that was paused stays paused.

    Args:
        notify: The saved notification block that tells of failed runs, as ``type-slug/name``, such
            as ``slack-webhook/ops``. Without one no such automation is made, and one that is there
            is left as it is.

    Returns:
        What was done, a line for each automation.

    Raises:
        InvalidInput: There is no such block, or it cannot notify.
        NanoBananaError: No Prefect server is set that could act on automations.
    """
    _require_lasting_server()
    async with get_client() as prefect:
        wanted = [_crash_dead_runs()]
        if notify is not None:
            wanted.append(await _tell_of_failed_runs(prefect, notify))
        return [await _make(prefect, automation) for automation in wanted]


async def delete_automations() -> list[str]:
    """Delete the automations that `make_automations` made.

    Returns:
        What was deleted, a line for each automation.

    Raises:
        NanoBananaError: No Prefect server is set that could have automations.
    """
    _require_lasting_server()
    async with get_client() as prefect:
        found = [
            automation
            for name in (WORKER_DIED, RUN_FAILED)
            for automation in await prefect.read_automations_by_name(name)
        ]
        for automation in found:
            await prefect.delete_automation(automation.id)
    return [f"Deleted {automation.name!r}." for automation in found]


async def _tell_of_failed_runs(prefect: PrefectClient, notify: str) -> Automation:
    block_type, _, name = notify.partition("/")
    if not block_type or not name or "/" in name:
        raise InvalidInput(f"{notify!r:.80} is not a block: write TYPE/NAME, as slack-webhook/ops")
    try:
        block = await prefect.read_block_document_by_name(name, block_type, include_secrets=False)
    except ObjectNotFound:
        raise InvalidInput(
            f"no block is saved as {notify!r:.80}. `prefect block ls` shows those that are; "
            "the UI's page Blocks makes one."
        ) from None
    if block.block_schema is None or "notify" not in block.block_schema.capabilities:
        raise InvalidInput(
            f"the block {notify!r:.80} cannot notify. Name one of a type such as slack-webhook; "
            "`prefect block ls` shows those that are saved."
        )
    return Automation(
        name=RUN_FAILED,
        description=f"Tells {notify} of every run that ends badly; "
        "child runs of a batch are told of by their parent.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{end}" for end in _BAD_ENDS},
            match=_RUNS,
            match_related=[_OF_THIS_PROJECT, _NOT_A_CHILD],
            posture=Posture.Reactive,
        ),
        actions=[SendNotification(block_document_id=block.id, subject=_SUBJECT, body=_BODY)],
    )


def _crash_dead_runs() -> Automation:
    minutes = SILENCE // timedelta(minutes=1)
    ends = (*_BAD_ENDS, *_OTHER_REASONS_FOR_SILENCE)
    return Automation(
        name=WORKER_DIED,
        description=f"Marks a run Crashed when its heartbeat has stopped for {minutes} minutes.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{end}" for end in ends)},
            match=_RUNS,
            match_related=_OF_THIS_PROJECT,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"Nothing heard of this run for {minutes} minutes: its worker has died, or "
                "does not reach Prefect. Running it again does only what is missing.",
            )
        ],
    )


async def _make(prefect: PrefectClient, wanted: Automation) -> str:
    found = await prefect.read_automations_by_name(wanted.name)
    if not found:
        await wanted.acreate()
        return f"Made {wanted.name!r}. {wanted.description}"
    wanted.id = found[0].id
    wanted.enabled = found[0].enabled
    paused = "" if wanted.enabled else " It is paused."
    # An update would forget the heartbeats that the server is waiting for.
    if wanted.model_dump() == found[0].model_dump():
        return f"Kept {wanted.name!r}. {wanted.description}{paused}"
    await wanted.aupdate()
    return f"Updated {wanted.name!r}. {wanted.description}{paused}"


def _require_lasting_server() -> None:
    if not PREFECT_API_URL.value():
        raise NanoBananaError(
            "PREFECT_API_URL is not set, and automations need a Prefect server that stays up. "
            "`prefect server start` runs one."
        )
