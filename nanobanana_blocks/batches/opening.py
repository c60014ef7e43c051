"""Opens a batch: its manifest checked, its ledger read, its images' place tried; knows no Prefect.

Nothing is submitted or landed here; whoever opens a batch has its rows processed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.dialects import Dialect
from nanobanana_blocks.api.prices import Credits
from nanobanana_blocks.api.schedule import PollPolicy
from nanobanana_blocks.batches.attempts import Failure
from nanobanana_blocks.batches.batch import Batch
from nanobanana_blocks.batches.claims import open_claims
from nanobanana_blocks.batches.leases import open_leases
from nanobanana_blocks.batches.ledger import Ledger, open_ledger
from nanobanana_blocks.batches.manifest import (
    InvalidManifest,
    Manifest,
    Problem,
    Row,
    RowDefaults,
    read_manifest,
)
from nanobanana_blocks.batches.policies import OnContentPolicy, describe_alternatives
from nanobanana_blocks.batches.referencing import (
    has_images,
    identified,
    refuse_unusable_images,
    with_known_digests,
)
from nanobanana_blocks.batches.report import RowOutcome
from nanobanana_blocks.batches.submitter import (
    PATIENCE,
    CallbackURL,
    Submitter,
)
from nanobanana_blocks.batches.waits import Log, Waits
from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.landing.generation_times import SummaryStore, remembering
from nanobanana_blocks.landing.lander import open_lander
from nanobanana_blocks.landing.provenance import Provenance
from nanobanana_blocks.references import (
    LoadStore,
    PublicPlace,
    References,
    SourceFinder,
    open_references,
)
from nanobanana_blocks.storage.destination import StorageLocation
from nanobanana_blocks.storage.locations import Location
from nanobanana_blocks.words import counted

MAX_LOGGED_ROWS = 20


async def read_manifest_near(url: str, images: StorageLocation, defaults: RowDefaults) -> Manifest:
    """Return the manifest at `url`, read with the images' options if it is on the same storage.

    Raises:
        InvalidManifest: It is invalid; every problem is named.
        DestinationError: There is no such file, or access is refused.
        StorageError: The storage is out of reach, or failed.
    """
    same = Location.parse(url).protocol == Location.parse(images.url).protocol
    options = images.options if same else None
    return await read_manifest(url, defaults=defaults, storage_options=options)


def finder_near(
    manifest: str, images: StorageLocation, load_store: LoadStore | None = None
) -> SourceFinder:
    """What finds the images that the rows of the manifest at a URL name, from its folder on.

    Args:
        manifest: The manifest's path or URL.
        images: Where the images go, whose options serve files on the same kind of storage.
        load_store: Gives saved places by their names.
    """
    file = Location.parse(manifest)
    folder, _ = file.parent_and_name()
    same = file.protocol == Location.parse(images.url).protocol
    near = StorageLocation(folder.url, images.options if same else {})
    return SourceFinder(near, images, load_store)


@asynccontextmanager
async def open_batch(
    client: NanoBananaClient,
    images: StorageLocation,
    source: str,
    digest: str,
    rows: Sequence[Row],
    *,
    timeout: float,
    in_flight: int,
    poll: PollPolicy | None = None,
    retry: Collection[Failure] = (),
    on_content_policy: OnContentPolicy = OnContentPolicy.SKIP,
    callback_url: CallbackURL | None = None,
    keep_prompts: bool = False,
    is_part: bool = False,
    max_credits: Credits | None = None,
    credits_share: Credits | None = None,
    finder: SourceFinder | None = None,
    public: PublicPlace | None = None,
    facts: Provenance | None = None,
    account_memory: SummaryStore | None = None,
    read_only: bool = False,
    on_outcome: Callable[[RowOutcome], None] | None = None,
    log: Log,
) -> AsyncIterator[Batch]:
    """Check the place of a batch and what is known of its rows, and give it to be processed.

    Args:
        client: Asks the API; its caller closes it.
        images: Where the images go; the ledger is beside them.
        source: The manifest, as reports name it.
        digest: SHA-256 of the manifest.
        rows: The rows to do.
        timeout: Seconds to wait for each generation task.
        in_flight: Rows under way at a time.
        poll: When to ask the API.
        retry: Kinds of failures whose rows are submitted again, which may cost again.
        on_content_policy: What is done with rows whose content is refused.
        callback_url: Makes callback addresses; None where callbacks are not received.
        keep_prompts: Whether receipts hold the prompts.
        is_part: Whether other runs do other rows of the same manifest.
        max_credits: What the rows that are submitted may cost together, by estimate.
        credits_share: How much of that this run may spend, where others spend the rest.
        finder: Finds the files that rows work from; without it, relative paths begin here.
        public: Where copies of such files go for the service to fetch; else they are signed.
        facts: What is known of the making of all images, such as the manifest, for their receipts.
        account_memory: Keeps what all runs of the account have learned of generation times.
        read_only: Whether nothing is written, for a plan: the rows cannot be processed then.
        on_outcome: Told what became of each row, as soon as it is known.
        log: Gets what is about to be done, and what has changed since earlier runs.

    Raises:
        InvalidManifest: Rows to be submitted are not for this dialect of the service, or work from
            images that it would not get.
        InvalidInput: `max_credits` is too low for any row.
        NanoBananaError: The place cannot be used, or names are taken there; nothing was begun.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        place = await enter(await images.open())
        leases = None if read_only else await enter(open_leases(images))
        owner = leases.owner if leases else None
        ledger = await enter(open_ledger(images, check=not read_only, owner=owner))
        claims = (
            await enter(open_claims(images, leases, exclusive=ledger.is_exclusive))
            if leases
            else None
        )
        landing = await enter(
            open_lander(
                (),
                client,
                place,
                timeout=timeout,
                poll=poll,
                keep_prompts=keep_prompts,
                expecting=len(rows),
                facts=facts,
                check=not read_only,
            )
        )
        if not read_only:
            await enter(remembering(images, client, poll, account=account_memory))
        references, unsettled = None, frozenset[int]()
        if has_images(rows):
            references = await enter(
                open_references(
                    finder or SourceFinder(StorageLocation("."), images),
                    images,
                    base_url=client.base_url,
                    timeout=timeout,
                    public=public,
                    uploads=client.uploads,
                )
            )
            rows, unsettled = await identified(rows, references)
        await ledger.load(row.key for row in rows)
        rows = with_known_digests(rows, unsettled, ledger)
        submitter = Submitter(
            client,
            ledger,
            timeout=timeout,
            retry=retry,
            on_content_policy=on_content_policy,
            callback_url=callback_url,
            leases=leases,
            patience=PATIENCE,
            waits=Waits(log),
            references=references,
        )
        batch = Batch(
            source,
            digest,
            rows,
            submitter,
            landing,
            in_flight=in_flight,
            on_outcome=on_outcome,
            claims=claims,
            references=references,
        )
        await asyncio.to_thread(_refuse_other_dialects, batch, client.dialect)
        await refuse_unusable_images(batch, references, copying=not read_only)
        await batch.refuse_taken_names()
        if max_credits is not None:
            batch.limit_credits(max_credits, credits_share)
        if read_only:
            yield batch
            return
        if references:
            await references.remember()
        await asyncio.to_thread(
            _log_plan, batch, ledger, log, is_part=is_part, references=references
        )
        async with _keeping_index(batch):
            yield batch


def _refuse_other_dialects(batch: Batch, dialect: Dialect) -> None:
    problems = [
        Problem(row.number, "endpoint", problem)
        for row in batch.rows_to_submit
        if row.request and (problem := dialect.problem(row.request))
    ]
    if problems:
        raise InvalidManifest.of(batch.source, problems)


@asynccontextmanager
async def _keeping_index(batch: Batch) -> AsyncIterator[None]:
    """Have the next run know from a listing what has landed; one that is stopped has no time."""
    try:
        yield
    except asyncio.CancelledError:
        raise
    except BaseException:
        await batch.landing.folder.keep_index()
        raise
    await batch.landing.folder.keep_index()


def _log_plan(
    batch: Batch, ledger: Ledger, log: Log, *, is_part: bool, references: References | None
) -> None:
    """Log what is about to be done, and what has changed since earlier runs."""
    log.info(
        "%s in %s, %s to be submitted",
        counted(len(batch.rows), "row"),
        batch.landing.destination.path,
        f"{len(batch.rows_to_submit):,}",
    )
    images = [image for row in batch.rows_to_submit for image in row.images]
    if images and references:
        log.info("Images to work from: %s", references.describe(images))
    if alternatives := describe_alternatives(batch.rows, batch.submitter.policy):
        log.info("%s", alternatives)
    if not ledger.is_exclusive:
        log.warning("On this storage, run one batch at a time: two could pay for the same row")
    if not is_part and ledger.rows_not_in_manifest:
        log.info(
            "Rows of earlier runs that are not in this manifest are left as they are: %s",
            f"{ledger.rows_not_in_manifest:,}",
        )
    left = [r.number for r in batch.rows if batch.is_changed(r) and not batch.submitter.is_due(r)]
    if left:
        log.warning(
            "Rows that have changed since they were submitted are left as they are unless retry "
            "holds 'changed': %s (%s in all)",
            ", ".join(map(str, left[:MAX_LOGGED_ROWS])),
            f"{len(left):,}",
        )


async def summarise_ledger(batch: Batch, log: Log) -> None:
    """Have the next run read one file instead of many; that it cannot be written is logged."""
    try:
        await batch.submitter.ledger.summarise()
    except NanoBananaError as error:
        log.warning("Could not write the ledger's summary; continuing: %s", error)
