"""Commands about generation tasks that exist, and the account: land, status, credits."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from nanobanana_blocks.api.details import TaskDetails, TaskStatus, check_task_ids
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.cli.options import (
    AsJson,
    CredentialsName,
    RequestsPerSecond,
    StorageOptions,
    TaskIds,
    Timeout,
    To,
    find_place,
    make_client,
    read_ids,
)
from nanobanana_blocks.cli.output import (
    Exit,
    ending_well,
    error_as_json,
    print_error,
    print_json,
    show_log,
)
from nanobanana_blocks.cli.progress import Progress
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.garbage import short_collections
from nanobanana_blocks.landing.generation_times import remembering
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.landing.report import LandingReport


def land(
    task_ids: TaskIds,
    to: To,
    timeout: Timeout = 900.0,
    requests_per_second: RequestsPerSecond = 20.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Land again what has landed already.")
    ] = False,
    storage_option: StorageOptions = None,
    credentials: CredentialsName = None,
    as_json: AsJson = False,
) -> None:
    """Wait for generation tasks and land their images, without a Prefect run.

    What has a receipt at the destination already is not fetched again.
    """
    show_log()
    poll = PollPolicy(requests_per_second=requests_per_second)

    async def run() -> LandingReport:
        progress = Progress("Landing")
        place = await find_place(to, storage_option)
        async with (
            short_collections(),
            await make_client(credentials) as client,
            await place.location.open() as destination,
            open_lander(
                read_ids(task_ids),
                client,
                destination,
                timeout=timeout,
                poll=poll,
                overwrite=overwrite,
                keep_prompts=place.keep_prompts,
                on_outcome=progress.settle,
            ) as landing,
            remembering(place.location, client, poll),
        ):
            progress.total = len(landing.unique_task_ids)
            with progress.shown():
                await landing.land_each(landing.unique_task_ids)
            return landing.report()

    with ending_well(as_json=as_json):
        report = asyncio.run(run())
        if as_json:
            print_json(report.model_dump(mode="json"))
        else:
            typer.echo(f"{report.describe()}, in {report.destination}")
        if not report.complete:
            raise typer.Exit(Exit.NOT_ALL)


def status(
    task_ids: TaskIds,
    credentials: CredentialsName = None,
    as_json: AsJson = False,
) -> None:
    """Ask once about generation tasks.

    The JSON holds the temporary image URLs; the lines do not.
    """

    async def run() -> dict[str, TaskDetails | BaseException]:
        ids = check_task_ids(read_ids(task_ids))
        async with await make_client(credentials) as client:
            polls = (client.get_task_details(task_id) for task_id in ids)
            return dict(zip(ids, await asyncio.gather(*polls, return_exceptions=True), strict=True))

    with ending_well(as_json=as_json):
        answered = asyncio.run(run())
        answers = answered.values()
        found = [answer for answer in answers if isinstance(answer, TaskDetails)]
        failures = {str(answer): answer for answer in answers if isinstance(answer, BaseException)}
        for failure in failures.values():
            if not isinstance(failure, NanoBananaError):
                raise failure
        if as_json:
            print_json([_as_json(task_id, answer) for task_id, answer in answered.items()])
        else:
            for details in found:
                reason = f"  {details.error_message}" if details.error_message else ""
                typer.echo(f"{details.task_id}  {details.status.name}{reason}")
        for message in failures:
            print_error(message)
        statuses = {details.status for details in found}
        if failures:
            raise typer.Exit(Exit.ERROR)
        if statuses & {TaskStatus.CREATE_TASK_FAILED, TaskStatus.GENERATE_FAILED}:
            raise typer.Exit(Exit.NOT_ALL)
        if TaskStatus.GENERATING in statuses:
            raise typer.Exit(Exit.STILL_GENERATING)


def _as_json(task_id: str, answer: TaskDetails | BaseException) -> dict[str, Any]:
    if isinstance(answer, TaskDetails):
        return answer.model_dump(mode="json") | {"status": answer.status.name}
    if isinstance(answer, NanoBananaError):
        return {"task_id": task_id, **error_as_json(answer)}
    raise answer


def account_credits(credentials: CredentialsName = None, as_json: AsJson = False) -> None:
    """Ask how many credits the account has left."""

    async def run() -> int | float:
        async with await make_client(credentials) as client:
            return await client.get_credits()

    with ending_well(as_json=as_json):
        left = asyncio.run(run())
        if as_json:
            print_json({"credits": left})
        else:
            typer.echo(left)
