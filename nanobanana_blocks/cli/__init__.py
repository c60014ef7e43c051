"""The `nanobanana` command: reads arguments, prints outcomes; the work is done elsewhere.

What needs Prefect is imported by the commands that do, for that takes seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from nanobanana_blocks._version import __version__
from nanobanana_blocks.api.client import (
    BASE_URL_VARIABLE,
    DEFAULT_BASE_URL,
    KEY_VARIABLE,
    NanoBananaClient,
    key_and_base_url_from_environment,
)
from nanobanana_blocks.api.details import TaskDetails, TaskStatus, check_task_ids
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.errors import InvalidInput, MissingCredentials, NanoBananaError
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.landing.report import ErrorSummary, LandingOutcome, LandingReport
from nanobanana_blocks.storage import dates
from nanobanana_blocks.storage.destination import Destination

app = typer.Typer(
    name="nanobanana",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Land every finished NanoBanana image in your storage.

    The key comes from the environment variable NANOBANANA_API_KEY (and the server, if it is not
    the public one, from NANOBANANA_BASE_URL). `nanobanana demo` shows everything on this machine
    and spends nothing.

    Exit codes: 0 all is well · 1 nothing could be done · 2 wrong usage · 3 not everything landed,
    or the generation failed · 4 still generating · 130 interrupted.
    """,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # its callback does it
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of the command itself; the help text is the application's."""


messages = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    """What scripts can rely on."""

    OK = 0
    ERROR = 1
    NOT_ALL = 3
    STILL_GENERATING = 4
    INTERRUPTED = 130


TaskIds = Annotated[
    list[str],
    typer.Argument(metavar="TASK_ID...", help="Generation tasks; - reads their ids from stdin."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
CredentialsName = Annotated[
    str | None,
    typer.Option(
        "--credentials", help="Name of a saved NanoBananaCredentials block, not the environment."
    ),
]


@app.command()
def demo(
    to: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("nanobanana-demo"),
    batch: Annotated[
        bool, typer.Option("--batch", help="Show a batch from a file of prompts instead.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Prefect's UI up until Ctrl-C.")
    ] = False,
) -> None:
    """Show all of it on this machine: API sandbox, Prefect, images on disk.

    Nothing of your own Prefect profile or database is touched, and no credits are spent.
    """
    with _ending_well(), tempfile.TemporaryDirectory(prefix="nanobanana-demo-") as home:
        _forget_own_prefect(home)
        from nanobanana_blocks.cli.demo import run_demo

        run_demo(to, Path(home), keep=keep, batch=batch)


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8378,
    speed: Annotated[
        float, typer.Option(help="How many times faster than the service it generates.")
    ] = 1.0,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen where other machines can reach it.")
    ] = False,
) -> None:
    """Serve a local stand-in for the API; no credits are spent."""
    from nanobanana_blocks.sandbox import SandboxSettings, serve

    with _ending_well():
        if not speed > 0:
            raise InvalidInput(f"--speed must be more than 0, not {speed:g}")
        serve(host, port, settings=SandboxSettings(speed=speed), allow_remote=allow_remote)


@app.command()
def land(
    task_ids: TaskIds,
    to: Annotated[str, typer.Option("--to", help="Folder or fsspec URL for the images.")],
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to wait for each task.")
    ] = 900.0,
    requests_per_second: Annotated[
        float, typer.Option(min=0.01, max=1000, help="Request budget of all waits together.")
    ] = 20.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Land again what has landed already.")
    ] = False,
    credentials: CredentialsName = None,
    as_json: AsJson = False,
) -> None:
    """Wait for generation tasks and land their images, without a Prefect run.

    What has a receipt at the destination already is not fetched again.
    """
    poll = PollPolicy(requests_per_second=requests_per_second)

    async def run() -> LandingReport:
        async with (
            await _client(credentials) as client,
            await Destination.open(dates.for_date(to, _today())) as destination,
            open_lander(
                _read_ids(task_ids),
                client,
                destination,
                timeout=timeout,
                poll=poll,
                overwrite=overwrite,
                on_outcome=_tell_outcome,
            ) as landing,
        ):
            with messages.status(f"Landing in {escape(destination.path)} …"):
                await landing.land_each(landing.unique_task_ids)
            return landing.report()

    with _ending_well():
        report = asyncio.run(run())
        if as_json:
            typer.echo(report.model_dump_json(indent=2))
        else:
            typer.echo(f"{report.describe()}, in {report.destination}")
        if not report.complete:
            raise typer.Exit(Exit.NOT_ALL)


@app.command()
def status(
    task_ids: TaskIds,
    credentials: CredentialsName = None,
    as_json: AsJson = False,
) -> None:
    """Ask once about generation tasks.

    The JSON holds the temporary image URLs; the lines do not.
    """

    async def run() -> dict[str, TaskDetails | BaseException]:
        ids = check_task_ids(_read_ids(task_ids))
        async with await _client(credentials) as client:
            looks = (client.get_task_details(task_id) for task_id in ids)
            return dict(zip(ids, await asyncio.gather(*looks, return_exceptions=True), strict=True))

    with _ending_well():
        answered = asyncio.run(run())
        answers = answered.values()
        found = [answer for answer in answers if isinstance(answer, TaskDetails)]
        if as_json:
            told = [_as_json(task_id, answer) for task_id, answer in answered.items()]
            typer.echo(json.dumps(told, indent=2))
        else:
            for details in found:
                reason = f"  {details.error_message}" if details.error_message else ""
                typer.echo(f"{details.task_id}  {details.status.name}{reason}")
        failures = {str(answer): answer for answer in answers if isinstance(answer, BaseException)}
        for failure in failures.values():
            if not isinstance(failure, NanoBananaError):
                raise failure
            _tell_error(failure)
        statuses = {details.status for details in found}
        if failures:
            raise typer.Exit(Exit.ERROR)
        if statuses & {TaskStatus.CREATE_TASK_FAILED, TaskStatus.GENERATE_FAILED}:
            raise typer.Exit(Exit.NOT_ALL)
        if TaskStatus.GENERATING in statuses:
            raise typer.Exit(Exit.STILL_GENERATING)


@app.command("credits")
def account_credits(credentials: CredentialsName = None, as_json: AsJson = False) -> None:
    """Ask how many credits the account has left."""

    async def run() -> int:
        async with await _client(credentials) as client:
            return await client.get_credits()

    with _ending_well():
        left = asyncio.run(run())
        typer.echo(json.dumps({"credits": left}) if as_json else left)


@app.command()
def callbacks(
    public_url: Annotated[
        str | None,
        typer.Option(help="How the service reaches this receiver, such as https://host/folder."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8379,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", help="Folder, URL or ImageStore whose sweep shall know the tasks called back."
        ),
    ] = None,
    spool: Annotated[
        Path | None, typer.Option(help="File that keeps callbacks until they are forwarded.")
    ] = None,
    job_key: Annotated[
        str | None, typer.Option(help="Print the address bound to this key of yours.")
    ] = None,
    credentials: CredentialsName = None,
) -> None:
    """Receive the service's callbacks and turn each into a Prefect event.

    The secret that the address is made from comes from NANOBANANA_CALLBACK_SECRET or a saved
    block; `openssl rand -hex 32` makes a good one. Events go to the server that PREFECT_API_URL or
    the active profile names.
    """
    from nanobanana_blocks.callbacks import callback_secret, serve_callbacks
    from nanobanana_blocks.orchestration.blocks.credentials import load_credentials
    from nanobanana_blocks.orchestration.callback_events import Announcer

    with _ending_well():
        block = (
            asyncio.run(load_credentials(credentials, or_environment=False))
            if credentials
            else None
        )
        serve_callbacks(
            host,
            port,
            public_url=public_url,
            secret=callback_secret(block),
            job_key=job_key,
            spool=spool,
            consumer=Announcer(to) if to else None,
        )


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(help="Folder to deploy from; made if need be.")
    ] = Path(),
) -> None:
    """Write a prefect.yaml that deploys every flow, and an example manifest, into a folder."""
    from nanobanana_blocks.cli.project import NEXT_STEPS, write_project

    with _ending_well():
        for path in write_project(folder):
            typer.echo(f"Wrote {path}")
        typer.echo(NEXT_STEPS)


@app.command("save-key")
def save_key(
    name: Annotated[str, typer.Argument(help="Name for the NanoBananaCredentials block.")] = (
        "default"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a saved key.")] = False,
) -> None:
    """Save the API key as a Prefect block, without it landing in the shell's history.

    The key is asked for, or taken from NANOBANANA_API_KEY where that is set; the API's address is
    NANOBANANA_BASE_URL, where that is set.
    """
    from nanobanana_blocks.orchestration.blocks.credentials import (
        NanoBananaCredentials,
        check_block_name,
    )

    with _ending_well():
        check_block_name(name)
        block = NanoBananaCredentials.from_environment() or NanoBananaCredentials(
            api_key=SecretStr(typer.prompt("NanoBanana API key", hide_input=True)),
            base_url=os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL,
        )
        block.get_client()
        try:
            asyncio.run(block.asave(name, overwrite=overwrite))
        except ValueError as refusal:
            told = str(refusal).replace("'overwrite=True'", "--overwrite")
            raise InvalidInput(f"the block was not saved: {told}") from None
        typer.echo(f"Saved NanoBananaCredentials {name!r} for {block.base_url}.")


@app.command()
def automations(
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE/NAME",
            help="Saved notification block to tell of failed runs, such as slack-webhook/ops.",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the automations instead.")
    ] = False,
) -> None:
    """Have Prefect notice failed runs and dead workers.

    Makes an automation that marks runs Crashed whose worker has died and, with `--notify`, one that
    tells of runs that end Failed, Crashed or TimedOut. Made again, they are updated.
    """
    from nanobanana_blocks.orchestration.observability.automations import (
        delete_automations,
        make_automations,
    )

    with _ending_well():
        if delete and notify is not None:
            raise InvalidInput("--notify is for making automations: leave it out with --delete")
        lines = asyncio.run(delete_automations() if delete else make_automations(notify))
        typer.echo("\n".join(lines) or "There are none of these automations.")


def _tell_outcome(outcome: LandingOutcome) -> None:
    messages.print(escape(f"{outcome.task_id}  {outcome.describe()}"), soft_wrap=True)


def _today() -> date:
    """What {date} in a destination means here: the day in UTC."""
    return datetime.now(UTC).date()


def _read_ids(task_ids: list[str]) -> list[str]:
    if "-" not in task_ids:
        return task_ids
    if len(task_ids) > 1:
        raise InvalidInput("- reads all ids from stdin: give either it or ids, not both")
    return sys.stdin.read().split()


async def _client(credentials: str | None) -> NanoBananaClient:
    if credentials:
        from nanobanana_blocks.orchestration.blocks.credentials import load_credentials

        block = await load_credentials(credentials, or_environment=False)
        return block.get_client()
    found = key_and_base_url_from_environment()
    if found is None:
        raise MissingCredentials(
            f"{KEY_VARIABLE} is not set. Set it, or name a saved block with --credentials."
        )
    return NanoBananaClient(*found)


def _forget_own_prefect(home: str) -> None:
    """Have Prefect, when it is imported, know nothing of the user's settings and profiles."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= {"PREFECT_HOME": home, "DO_NOT_TRACK": "1"}


def _as_json(task_id: str, answer: TaskDetails | BaseException) -> dict[str, Any]:
    if isinstance(answer, TaskDetails):
        return answer.model_dump(mode="json")
    if isinstance(answer, NanoBananaError):
        return {"task_id": task_id, "error": ErrorSummary.of(answer).model_dump()}
    raise answer


def _tell_error(error: object) -> None:
    messages.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)


@contextmanager
def _ending_well() -> Iterator[None]:
    """Turn what can go wrong into one line and an exit code."""
    try:
        yield
    except NanoBananaError as error:
        _tell_error(error)
        raise typer.Exit(Exit.ERROR) from None
    except KeyboardInterrupt:
        messages.print("Interrupted. Nothing partial is left; running again goes on from here.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except Exception as error:
        if not _is_prefects(error):
            raise
        from prefect.settings import PREFECT_API_URL

        _tell_error(
            f"Prefect's API ({PREFECT_API_URL.value() or 'a temporary server'}) is out of reach "
            f"or refuses: {type(error).__name__}. Check PREFECT_API_URL, and that the server runs."
        )
        raise typer.Exit(Exit.ERROR) from None


def _is_prefects(error: Exception) -> bool:
    """Whether an error comes from talking to Prefect; all others of ours are NanoBananaErrors."""
    return isinstance(error, httpx.HTTPError) or (
        type(error).__module__.startswith("prefect.")
        or (type(error) is RuntimeError and "Prefect API" in str(error))
    )


def main() -> None:
    """Run the command line."""
    app()
