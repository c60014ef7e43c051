"""The demonstration: an API sandbox and a Prefect of its own, the main flow, images on disk.

It touches nothing of the user's Prefect profile or database, and spends no credits. The flow runs
in a process of its own, as it would under a worker, and is watched through Prefect's API.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.flow_engine import run_flow_async
from prefect.flows import Flow, load_flow_from_entrypoint
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from nanobanana_blocks.api.client import BASE_URL_VARIABLE, KEY_VARIABLE
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.gallery.pages import FIRST_PAGE
from nanobanana_blocks.orchestration.blocks.credentials import NanoBananaCredentials
from nanobanana_blocks.orchestration.observability.artifacts import OUTCOMES_KEY
from nanobanana_blocks.sandbox import CONTENT_POLICY_MESSAGE, Fault, Sandbox, TaskPlan
from nanobanana_blocks.signals import wait_for_stop_signal

SERVER_START_SECONDS = 90.0
FLOW_START_SECONDS = 8
REFRESH_SECONDS = 0.5
STYLES = {"Completed": "green", "Failed": "red", "TimedOut": "red", "AwaitingRetry": "yellow"}

console = Console(highlight=False)

REFUSED = TaskPlan(
    seconds=FLOW_START_SECONDS + 3,
    outcome="generate-failed",
    error_code=400,
    error_message=CONTENT_POLICY_MESSAGE,
)
PLANS = [
    *(TaskPlan(seconds=FLOW_START_SECONDS + wait) for wait in (1, 2, 4, 6, 7, 9, 12, 18)),
    TaskPlan(seconds=FLOW_START_SECONDS + 5, images=4),
    TaskPlan(seconds=FLOW_START_SECONDS + 8, media_type="image/webp", url_extension="png"),
    REFUSED,
    TaskPlan(seconds=FLOW_START_SECONDS + 4, dead_result_url="always"),
]


PROMPTS = ("sunrise", "harbour", "orchard", "glacier", "lantern", "meadow", "canyon", "library")

REFUSED_ON_PURPOSE = "the sandbox plays a prompt that the service refuses"
LOST_ON_PURPOSE = "the sandbox takes the first submit and loses its answer"


class Show(NamedTuple):
    """What a demonstration runs.

    Attributes:
        flow: The flow's name.
        parameters: What it is given.
        task_runs: What its task runs are called on the screen, by name.
        staged: What goes wrong on purpose, and why, by the name on the screen.
    """

    flow: str
    parameters: dict[str, Any]
    task_runs: dict[str, str]
    staged: dict[str, str]


def show_landing(sandbox: Sandbox, to: Path) -> Show:
    """A dozen generation tasks to be landed, one of which fails."""
    task_ids = sandbox.add_tasks(PLANS)
    return Show(
        "land_images",
        {"task_ids": task_ids, "destination": str(to)},
        {f"land {task_id}": f"{task_id[:10]}…" for task_id in task_ids},
        {f"{task_ids[PLANS.index(REFUSED)][:10]}…": REFUSED_ON_PURPOSE},
    )


def show_batch(sandbox: Sandbox, to: Path) -> Show:
    """A manifest of prompts to be submitted and landed; the answer to one submit is lost."""
    refused = sandbox.add_task(REFUSED)
    sandbox.configure(submitted_task=TaskPlan(), speed=3)
    sandbox.add_fault(Fault(kind="drop", on="submit", takes_effect=True, count=1))
    rows = [{"prompt": f"Bananas in a {place}", "name": place} for place in PROMPTS]
    rows += [{"task_id": refused, "name": "refused"}]
    to.mkdir(parents=True, exist_ok=True)
    manifest = to / "prompts.jsonl"
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Show(
        "run_batch",
        {"manifest": str(manifest), "destination": str(to)},
        {f"row {n}: {row['name']}": row["name"] for n, row in enumerate(rows, start=1)},
        {rows[0]["name"]: LOST_ON_PURPOSE, "refused": REFUSED_ON_PURPOSE},
    )


def run_demo(to: Path, home: Path, *, keep: bool, batch: bool = False) -> None:
    """Run the demonstration and print what came of it.

    Args:
        to: Folder for the images; made if need be.
        home: Folder for the demonstration's own Prefect; its caller removes it.
        keep: Leave Prefect running, so that its UI shows this very run, until Ctrl-C.
        batch: Show a batch from a manifest of prompts, not the landing of given tasks.

    Raises:
        NanoBananaError: The demonstration could not be run.
    """
    to = to.absolute()
    with Sandbox() as sandbox:
        console.print("A local sandbox stands in for the NanoBanana API: no credits are spent.")
        with own_prefect(home) as environment:
            show = show_batch(sandbox, to) if batch else show_landing(sandbox, to)
            environment |= {
                KEY_VARIABLE: sandbox.api_key,
                BASE_URL_VARIABLE: sandbox.base_url,
            }
            ui = environment["PREFECT_API_URL"].removesuffix("/api")
            run = asyncio.run(_run_and_watch(show, to, home, environment))
            _say_what_was_staged(show)
            _say_what_next(to, batch=batch)
            if keep:
                console.print(f"\nPrefect shows this run: {ui}/runs/flow-run/{run}")
                console.print("It stays up until you press Ctrl-C.")
                wait_for_stop_signal()
                console.print("Stopped.")


async def _run_and_watch(show: Show, to: Path, home: Path, environment: dict[str, str]) -> UUID:
    log = home / "flow.log"
    with log.open("wb") as output:
        flow_process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, show.flow, json.dumps(show.parameters)),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            async with PrefectClient(environment["PREFECT_API_URL"]) as prefect:
                run = await _watch(prefect, show, to, flow_process)
                if run is None:
                    raise NanoBananaError(f"the flow did not start:\n{log.read_text()[-2000:]}")
                await _print_outcomes(prefect, run)
                return run.id
        finally:
            if flow_process.returncode is None:
                flow_process.terminate()
                await flow_process.wait()


async def _watch(
    prefect: PrefectClient, show: Show, to: Path, flow_process: asyncio.subprocess.Process
) -> FlowRun | None:
    """Show the run's task runs as they change, until its process has ended."""
    run: FlowRun | None = None
    ended = asyncio.create_task(flow_process.wait())
    with Live(console=console, refresh_per_second=8) as live:
        while True:
            last_look = ended.done()
            runs = await prefect.read_flow_runs(limit=1)
            run = runs[0] if runs else None
            task_runs = await _task_runs(prefect, run) if run else []
            live.update(_draw(show, to, run, task_runs))
            if last_look:
                return run
            await asyncio.wait([ended], timeout=REFRESH_SECONDS)


async def _task_runs(prefect: PrefectClient, run: FlowRun) -> list[TaskRun]:
    return await prefect.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}))


def _draw(show: Show, to: Path, run: FlowRun | None, task_runs: list[TaskRun]) -> Table:
    settled = sum(bool(task_run.state and task_run.state.is_final()) for task_run in task_runs)
    progress = f"Flow run '{run.name}': {settled} of {len(show.task_runs)} settled" if run else ""
    table = Table(
        title=escape(progress) or "Starting the flow …",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        expand=True,
    )
    table.add_column("task", no_wrap=True, min_width=11)
    table.add_column("task run", no_wrap=True, min_width=13)
    table.add_column("s", justify="right", min_width=3)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    by_name = {task_run.name: task_run for task_run in task_runs}
    for name, called in show.task_runs.items():
        label = f"{escape(called)}{' [dim](staged)[/]' if called in show.staged else ''}"
        task_run = by_name.get(name)
        state = task_run.state if task_run else None
        state_name = state.name if state and state.name else "–"
        seconds = f"{task_run.total_run_time.total_seconds():.0f}" if task_run else ""
        message = (state.message or "") if state and state.is_final() else ""
        shown = f"[{STYLES.get(state_name, 'cyan')}]{escape(state_name)}[/]"
        told = re.sub(r"task \w+: ", "", message).replace(f"{to}{os.sep}", "…")
        table.add_row(label, shown, seconds, escape(told))
    return table


async def _print_outcomes(prefect: PrefectClient, run: FlowRun) -> None:
    [table] = await prefect.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[OUTCOMES_KEY])),
        flow_run_filter=FlowRunFilter(id={"any_": [run.id]}),
    )
    rows: list[dict[str, Any]] = json.loads(str(table.data))
    console.print(f"\n[bold]{escape(table.description or '')}[/]")
    for row in rows:
        if row["what happened"]:
            who = str(row.get("row") or row["task"])
            style = "green" if row["status"].endswith("landed") else "red"
            told = f"[{style}]{escape(who)}[/]  {escape(row['what happened'])}"
            console.print(told, soft_wrap=True)


def _say_what_was_staged(show: Show) -> None:
    console.print("\nStaged, to show what a failure looks like:")
    for name, why in show.staged.items():
        console.print(f"  {escape(name)}: {why}", soft_wrap=True)


def _say_what_next(to: Path, *, batch: bool) -> None:
    console.print(f"\nThe images, and a receipt beside each: {to}", soft_wrap=True)
    if batch:
        console.print(f"What became of each row: {to / 'prompts.report.json'}", soft_wrap=True)
        console.print(f"A gallery of them: {to / FIRST_PAGE}", soft_wrap=True)
    else:
        console.print(f"Make a page that shows them: {_command()} gallery {to}", soft_wrap=True)
    generate, init = f'{_command()} generate "A banana" --to FOLDER_OR_URL', f"{_command()} init"
    console.print(
        "Next, with the real API: export NANOBANANA_API_KEY, then\n"
        f"  {generate}    without a Prefect run\n"
        f"  {init:{len(generate)}}    a folder to deploy from",
        soft_wrap=True,
    )
    if not batch:
        console.print(f"A batch from a file of prompts: {_command()} demo --batch", soft_wrap=True)


def _command() -> str:
    """What to type for this command: its path where the shell does not find its name."""
    own = Path(sys.executable).with_name("nanobanana")
    if shutil.which("nanobanana") or not own.exists():
        return "nanobanana"
    return os.path.relpath(own)


@contextmanager
def own_prefect(home: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server that knows nothing of the user's; give the environment that uses it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "NANOBANANA_"))
    }
    environment |= {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with console.status("Starting a Prefect server for this demonstration …"):
                _wait_until_healthy(environment["PREFECT_API_URL"], server, log)
            yield environment
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_healthy(api_url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{api_url}/health", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise NanoBananaError(f"Prefect's server did not start:\n{log.read_text()[-2000:]}")


async def _run_flow(name: str, parameters: dict[str, Any]) -> None:
    block = NanoBananaCredentials.from_environment()
    if block is None:
        raise NanoBananaError(f"{KEY_VARIABLE} is not set")
    await block.asave("default", overwrite=True)
    shown: Flow[..., Any] = load_flow_from_entrypoint(f"nanobanana_blocks.flows.{name}.{name}")
    await run_flow_async(shown, parameters=parameters, return_type="state")


if __name__ == "__main__":
    asyncio.run(_run_flow(sys.argv[1], json.loads(sys.argv[2])))
