"""The command that makes images of one prompt: submitted once, waited for, landed."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any

import typer

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.requests import Endpoint
from nanobanana_blocks.batches.balance import require_answer
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.ledger import AttemptState, SubmissionAttempt
from nanobanana_blocks.batches.manifest import InvalidManifest, Row, parse_manifest
from nanobanana_blocks.batches.manifest.fields import NAMES
from nanobanana_blocks.batches.opening import open_batch
from nanobanana_blocks.batches.report import RowOutcome
from nanobanana_blocks.batches.submitter import RETRY_UNCONFIRMED, UNANSWERED
from nanobanana_blocks.cli.options import (
    AsJson,
    CredentialsName,
    Place,
    References,
    ReferencesUrl,
    StorageOptions,
    Timeout,
    To,
    find_place,
    find_public_place,
    find_saved_store,
    make_client,
)
from nanobanana_blocks.cli.output import (
    Exit,
    ending_well,
    print_error,
    print_json,
    print_message,
    show_log,
)
from nanobanana_blocks.cli.own_fields import own_fields, read_json
from nanobanana_blocks.cli.progress import Progress
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.landing.report import ErrorSummary, LandingStatus
from nanobanana_blocks.references import PublicPlace, SourceFinder
from nanobanana_blocks.storage.destination import StorageLocation

_SOURCE = "generate.jsonl"
_AGAIN = "The same command with --again submits it once more, and may pay for it twice."

_log = logging.getLogger(f"{__name__}.plan")
_log.setLevel(logging.WARNING)  # of one row there is no plan to tell


def generate(
    to: To,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What the image is to show; only a newer endpoint may do without."),
    ] = None,
    endpoint: Annotated[
        str,
        typer.Option(
            help="The API endpoint: generate, generate-pro, generate-2, or a newer one's name."
        ),
    ] = Endpoint.GENERATE.value,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", help="An image to work from: a URL, a path or store-block/path; repeatable."
        ),
    ] = None,
    num_images: Annotated[
        int | None, typer.Option(help="How many images to make, 1 to 4; generate only.")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Width to height, such as 16:9; generate only.")
    ] = None,
    watermark: Annotated[
        str | None, typer.Option(help="Text to mark the image with; generate only.")
    ] = None,
    aspect_ratio: Annotated[
        str | None, typer.Option(help="Width to height; generate-pro and generate-2.")
    ] = None,
    resolution: Annotated[
        str | None, typer.Option(help="1K, 2K or 4K; generate-pro and generate-2.")
    ] = None,
    google_search: Annotated[
        bool | None, typer.Option(help="Have the service look things up; generate-2 only.")
    ] = None,
    output_format: Annotated[str | None, typer.Option(help="png or jpg; generate-2 only.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="NAME=VALUE",
            help="A field of a newer endpoint, as JSON or else text; repeatable.",
        ),
    ] = None,
    fields_json: Annotated[
        str | None,
        typer.Option("--fields", metavar="JSON", help="A newer endpoint's fields, as an object."),
    ] = None,
    expected_credits: Annotated[
        str | None,
        typer.Option(
            "--credits", metavar="N", help="What you expect it to cost; for newer endpoints."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The file's name, without extension; else the task's id.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Submit and pay again, although the same was submitted before."
        ),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Wait and land; or print the task id after the submit."
        ),
    ] = True,
    timeout: Timeout = 900.0,
    references: References = None,
    references_url: ReferencesUrl = None,
    storage_option: StorageOptions = None,
    credentials: CredentialsName = None,
    as_json: AsJson = False,
) -> None:
    """Generate images from a prompt, land them, and print their paths.

    What was submitted is noted beside the images before it is sent. The same command, run again
    after anything went wrong, goes on with that generation and does not pay twice.
    """
    options = {
        "prompt": prompt,
        "endpoint": endpoint,
        "image_urls": image or None,
        "num_images": num_images,
        "image_size": image_size,
        "watermark": watermark,
        "aspect_ratio": aspect_ratio,
        "resolution": resolution,
        "google_search": google_search,
        "output_format": output_format,
        "name": name,
    }
    show_log()

    async def run() -> RowOutcome | SubmissionAttempt:
        own = {
            "fields": own_fields(field or [], fields_json),
            "credits": expected_credits and read_json(expected_credits),
        }
        row, digest = _row_of(options | own, again=again)
        place = await find_place(to, storage_option)
        public = await find_public_place(references, references_url, storage_option)
        client = await make_client(credentials)
        progress = Progress("Generating" if wait else "Submitting", 1)
        async with _opening(row, digest, place, client, timeout, public) as batch:
            progress.waits = batch.submitter.waits.describe
            (row,) = batch.rows
            with progress.shown():
                await require_answer(batch)
                if wait or row.request is None:
                    return await batch.process(row)
                return await batch.submitter.submit(row)

    with ending_well(as_json=as_json):
        result = asyncio.run(run())
        if isinstance(result, RowOutcome):
            _print_outcome(result, as_json=as_json)
        else:
            _print_attempt(result, as_json=as_json)


def _row_of(fields: dict[str, Any], *, again: bool) -> tuple[Row, str]:
    """The row that the options make, recognised by its content, and the digest of them all.

    Raises:
        InvalidInput: Options are invalid; each is named.
    """
    line = json.dumps({field: value for field, value in fields.items() if value is not None})
    try:
        manifest = parse_manifest(line.encode("utf-8", "surrogatepass"), source=_SOURCE)
    except InvalidManifest as error:
        raise _reworded(error) from None
    (row,) = manifest.rows
    key = f"{row.digest}-{secrets.token_hex(4)}" if again else row.digest
    return replace(row, key=key), manifest.digest


def _reworded(error: InvalidManifest) -> InvalidInput:
    """The same in the words of the command's options."""
    problems = [
        f"{_option(problem.field)}: {problem.message}" if problem.field else problem.message
        for problem in error.problems
    ]
    return InvalidInput("; ".join(problems))


def _option(field: str) -> str:
    name = NAMES.get(field, field)
    special = {"prompt": "the prompt", "image_urls": "--image", "fields": "--field"}
    return special.get(name, f"--{name.replace('_', '-')}")


@asynccontextmanager
async def _opening(
    row: Row,
    digest: str,
    place: Place,
    client: NanoBananaClient,
    timeout: float,
    public: PublicPlace | None,
) -> AsyncIterator[Batch]:
    """Open the batch that has this row only."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client)
        opening = open_batch(
            client,
            place.location,
            _SOURCE,
            digest,
            [row],
            timeout=timeout,
            in_flight=1,
            keep_prompts=place.keep_prompts,
            is_part=True,
            finder=SourceFinder(StorageLocation("."), place.location, find_saved_store),
            public=public,
            log=_log,
        )
        try:
            batch = await stack.enter_async_context(opening)
        except InvalidManifest as error:
            raise _reworded(error) from None
        yield batch


def _print_outcome(outcome: RowOutcome, *, as_json: bool) -> None:
    outcome = outcome.model_copy(update={"error": outcome.error and _naming_again(outcome.error)})
    if as_json:
        print_json(outcome.model_dump(mode="json"))
    else:
        for image in outcome.images:
            typer.echo(image.path)
    if outcome.status is LandingStatus.ALREADY_LANDED:
        print_message(
            "It was generated before, so nothing was submitted. --again pays for a new one."
        )
    if not outcome.in_storage:
        print_error(outcome.error.message if outcome.error else outcome.describe())
        timed_out = outcome.status is LandingStatus.TIMED_OUT
        raise typer.Exit(Exit.STILL_GENERATING if timed_out else Exit.NOT_ALL)


def _print_attempt(attempt: SubmissionAttempt, *, as_json: bool) -> None:
    if attempt.state is AttemptState.SUBMITTED:
        if as_json:
            print_json({"task_id": attempt.task_id})
        else:
            typer.echo(attempt.task_id)
        return
    error = _naming_again(attempt.error or UNANSWERED)
    if as_json:
        print_json({"error": error.model_dump()})
    print_error(error.message)
    raise typer.Exit(Exit.NOT_ALL)


def _naming_again(error: ErrorSummary) -> ErrorSummary:
    """The same error, whose next step is an option of this command and not one of a batch."""
    message = error.message.replace(RETRY_UNCONFIRMED, _AGAIN)
    return error.model_copy(update={"message": message})
