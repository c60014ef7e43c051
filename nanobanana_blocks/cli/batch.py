"""The command that does a batch without a Prefect run; its ledger is that of the flow."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.batches.balance import (
    held_back_in_words,
    note_balance_after,
    note_balance_before,
    spending_in_words,
)
from nanobanana_blocks.batches.ledger import Failure
from nanobanana_blocks.batches.manifest import RowDefaults
from nanobanana_blocks.batches.opening import (
    finder_near,
    open_batch,
    read_manifest_near,
    summarise_ledger,
)
from nanobanana_blocks.batches.plan import BatchPlan
from nanobanana_blocks.batches.planning import plan_batch
from nanobanana_blocks.batches.policies import OnContentPolicy
from nanobanana_blocks.batches.report import BatchReport, report_name
from nanobanana_blocks.batches.reporting import keeping_report
from nanobanana_blocks.cli.options import (
    AsJson,
    CredentialsName,
    References,
    ReferencesUrl,
    RequestsPerSecond,
    StorageOptions,
    Timeout,
    To,
    find_place,
    find_public_place,
    find_saved_store,
    finite,
    make_client,
)
from nanobanana_blocks.cli.output import (
    Exit,
    ending_well,
    log,
    print_json,
    print_message,
    show_log,
)
from nanobanana_blocks.cli.own_fields import read_json
from nanobanana_blocks.cli.progress import Progress
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.gallery import make_gallery_of_batch
from nanobanana_blocks.garbage import short_collections
from nanobanana_blocks.landing import Provenance
from nanobanana_blocks.landing.generation_times import learned_so_far
from nanobanana_blocks.storage import dates
from nanobanana_blocks.storage.locations import Location


def batch(
    manifest: Annotated[str, typer.Argument(help="Path or fsspec URL of a JSONL or CSV file.")],
    to: To,
    defaults: Annotated[
        list[str] | None,
        typer.Option(
            "--default",
            metavar="FIELD=VALUE",
            help="Default for rows that do not set the field, such as numImages=2; repeatable.",
        ),
    ] = None,
    retry: Annotated[
        list[Failure] | None,
        typer.Option(help="Kind of failure to submit again, which may cost again; repeatable."),
    ] = None,
    on_content_policy: Annotated[
        OnContentPolicy,
        typer.Option(
            help="Whether rows whose content is refused are submitted once more, and paid for, "
            "with their promptOnContentPolicy."
        ),
    ] = OnContentPolicy.SKIP,
    in_flight: Annotated[int, typer.Option(min=1, help="Rows under way at a time.")] = 200,
    timeout: Timeout = 900.0,
    requests_per_second: RequestsPerSecond = 20.0,
    check_credits: Annotated[
        bool,
        typer.Option(help="Begin only if the account has about as many credits as the rows cost."),
    ] = True,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENDPOINT[/RESOLUTION]=CREDITS",
            help="What an image costs you, such as generate-pro/2K=18; repeatable.",
        ),
    ] = None,
    max_credits: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            help="The most credits, by estimate, that this run spends on submits.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what would be done, how, and for how many credits; nothing is written.",
        ),
    ] = False,
    date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="What {date} stands for; by default today (UTC)."),
    ] = None,
    gallery: Annotated[
        bool, typer.Option(help="Write a gallery, index.html, beside the images.")
    ] = True,
    references: References = None,
    references_url: ReferencesUrl = None,
    storage_option: StorageOptions = None,
    credentials: CredentialsName = None,
    as_json: AsJson = False,
) -> None:
    """Submit the rows of a manifest, each once, and land their images, without a Prefect run.

    What was submitted is noted beside the images, so running again, here or as the deployment
    run-batch, does only what is missing.
    """
    show_log()
    poll = PollPolicy(requests_per_second=requests_per_second)
    day = (date or datetime.now(UTC)).date()

    async def run() -> BatchReport | BatchPlan:
        place = await find_place(to, storage_option, day)
        url = dates.for_date(manifest, day)
        found = await read_manifest_near(url, place.location, _defaults(defaults or []))
        found = found.priced(_prices(price or []))
        public = await find_public_place(references, references_url, storage_option)
        progress = Progress("Batch", len(found.rows), estimates=True)
        async with (
            short_collections(),
            await make_client(credentials) as client,
            open_batch(
                client,
                place.location,
                Location.parse(url).redacted,
                found.digest,
                found.rows,
                timeout=timeout,
                in_flight=in_flight,
                poll=poll,
                max_credits=max_credits,
                retry=retry or (),
                on_content_policy=on_content_policy,
                keep_prompts=place.keep_prompts,
                finder=finder_near(url, place.location, find_saved_store),
                public=public,
                facts=Provenance(
                    manifest=Location.parse(url).redacted, manifest_digest=found.digest
                ),
                read_only=dry_run,
                on_outcome=progress.settle,
                log=log,
            ) as opened,
        ):
            if dry_run:
                learned = await learned_so_far(place.location)
                return await plan_batch(
                    opened, learned, in_flight=in_flight, poll=poll, check_credits=check_credits
                )
            progress.waits = opened.submitter.waits.describe
            await note_balance_before(opened, log, check=check_credits)
            try:
                with progress.shown():
                    async with keeping_report(opened):
                        await opened.process_each(opened.rows)
                        await note_balance_after(opened)
            finally:
                await summarise_ledger(opened, log)
            report = opened.report(finished=True)
            if gallery:
                await make_gallery_of_batch(report, opened.landing, log)
            return report

    with ending_well(as_json=as_json):
        report = asyncio.run(run())
        if isinstance(report, BatchPlan):
            if as_json:
                print_json(report.model_dump(mode="json"))
            else:
                typer.echo("\n".join([*report.in_lines(), *report.rows_in_lines()]))
            return
        if as_json:
            print_json(report.model_dump(mode="json"))
        else:
            typer.echo(f"{report.describe()}, in {report.destination}")
        if spent := spending_in_words(report):
            print_message(spent)
        if held_back := held_back_in_words(report):
            print_message(held_back)
        path = Location.child(report.destination, report_name(report.manifest))
        print_message(f"What became of each row: {path}")
        if not report.complete:
            raise typer.Exit(Exit.NOT_ALL)


def _prices(texts: list[str]) -> dict[str, float]:
    """The prices that ``endpoint/resolution=credits`` texts give; whether they exist is not asked.

    Raises:
        InvalidInput: One has no number.
    """
    given: dict[str, float] = {}
    for text in texts:
        name, _, figure = text.partition("=")
        try:
            given[name.strip()] = float(figure)
        except ValueError:
            raise InvalidInput(
                f"--price {text[:40]!r}: write ENDPOINT=CREDITS or ENDPOINT/RESOLUTION=CREDITS"
            ) from None
    return given


def _defaults(texts: list[str]) -> RowDefaults:
    """The defaults that ``field=value`` texts give.

    Raises:
        InvalidInput: One is no field, or its value is none of its.
    """
    given: dict[str, Any] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"--default {field[:40]!r}: write FIELD=VALUE")
        given[field.strip()] = value
    for field, value in given.items():
        if field in ("numImages", "num_images") and value.strip().isdigit():
            given[field] = int(value)
        elif field in ("googleSearch", "google_search"):
            given[field] = {"true": True, "false": False}.get(value.strip().lower(), value)
        elif field in ("fields", "credits"):
            given[field] = read_json(value)
        elif field in ("imageUrls", "image_urls"):
            given[field] = value.split()
    try:
        return RowDefaults.model_validate(given)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise InvalidInput(f"--default {detail['loc'][0]}: {detail['msg']}") from None
