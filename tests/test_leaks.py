"""Nothing secret leaves: neither the key nor a signed URL is in any log, error, report or file."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import get_args

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort

from flows.run_batch import run_batch
from flows.sweep import sweep
from nanobanana_blocks import LandingOutcome, NanoBananaClient, PollPolicy, errors
from nanobanana_blocks.api.budget import RequestBudget
from nanobanana_blocks.api.wait_state import Patience
from nanobanana_blocks.images import EgressRules
from nanobanana_blocks.images.download import ImageDownloader
from nanobanana_blocks.landing.lander import Lander, open_lander
from nanobanana_blocks.orchestration.observability.outcome_table import outcome_rows
from nanobanana_blocks.sandbox import DEFAULT_API_KEY, SIGNATURE_MARK, Fault, Sandbox, TaskPlan
from nanobanana_blocks.sandbox.settings import API_ONLY_KINDS, IMAGE_ONLY_KINDS
from nanobanana_blocks.sandbox.settings import FaultKind as Kind
from nanobanana_blocks.storage.destination import Destination
from nanobanana_blocks.storage.locations import redact
from tests.support.raw_http import answer, raw_server
from tests.support.storage_servers import sftp_server

QUICK = PollPolicy(mode="fixed", interval_seconds=0.05, requests_per_second=1000)
KEY = DEFAULT_API_KEY
ON_FILES = sorted((IMAGE_ONLY_KINDS - {"drip"}) | {"http-status", "drop", "redirect", "html"})


class Everything(logging.Handler):
    """Keeps what all loggers say, formatted, with traces, and pickled arguments."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{self.format(record)} {record.args!r}")


@pytest.fixture
def log() -> Iterator[list[str]]:
    """All that is logged, by anybody, at DEBUG; the sandbox's own server is left out."""
    handler = Everything()
    handler.addFilter(lambda record: not record.name.startswith("uvicorn"))
    root = logging.getLogger()
    names = ("", "httpx", "httpcore", "asyncio", "nanobanana_blocks", "PIL", "fsspec")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler.lines
    root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


IMPATIENT = Patience(max_backoff_seconds=0.05, short_backoff_seconds=0.05, unknown_task_seconds=0.1)


def assert_clean(text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    for secret in (KEY, SIGNATURE_MARK, "Signature="):
        where = data.find(secret.encode())
        assert where < 0, f"{secret} in: {data[max(0, where - 300) : where + 80]!r}"


async def land(sandbox: Sandbox, task_ids: list[str], to: Path) -> Lander:
    client = NanoBananaClient(KEY, sandbox.base_url, budget=RequestBudget(1000), patience=IMPATIENT)
    downloader = ImageDownloader(
        EgressRules.for_api(client.base_url),
        max_bytes=1 << 20,
        first_pause_seconds=0.01,
        fresh_url_seconds=0.01,
    )
    async with (
        client,
        aclosing(await Destination.open(str(to))) as destination,
        open_lander(
            task_ids, client, destination, timeout=5, poll=QUICK, downloader=downloader
        ) as made,
    ):
        assert_clean(repr(client) + repr(destination))
        await made.land_each(made.unique_task_ids)
        return made


def assert_errors_clean(found: list[errors.NanoBananaError]) -> None:
    for error in found:
        assert_clean(repr(error) + str(error) + str(vars(error)))
        assert_clean(pickle.dumps(error))
        assert_clean("".join(traceback.format_exception(error)))
        for link in (error.__cause__, error.__context__):
            assert link is None or isinstance(link, errors.NanoBananaError)


@pytest.mark.parametrize("kind", ON_FILES)
async def test_a_landing_with_bad_images_leaks_nothing(
    sandbox: Sandbox, tmp_path: Path, log: list[str], kind: Kind
) -> None:
    """Rule: whatever an image host does, no signed URL gets anywhere, not even at DEBUG."""
    bad, good = sandbox.add_tasks([TaskPlan(seconds=0, width=64, height=64)] * 2)
    sandbox.add_fault(Fault(kind=kind, on="files", task_id=bad))
    made = await land(sandbox, [bad, good], tmp_path)
    assert list(made.errors) == [bad]
    assert_errors_clean(list(made.errors.values()))
    report = made.report()
    assert_clean(report.model_dump_json() + repr(report) + str(outcome_rows(report)))
    assert_clean(pickle.dumps(report))
    for path in tmp_path.iterdir():
        assert_clean(path.read_bytes())
    assert sandbox.stats().keys_on_image_host == 0
    assert_clean("\n".join(log))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="body-code", code=500, message=f"at http://h/i.png?Signature={SIGNATURE_MARK}"),
        Fault(kind="body-code", code=400, message=f"bad key {KEY}"),
        Fault(kind="body-code", code=401, message=f"Bearer {KEY}"),
        Fault(kind="http-status", status=503),
        Fault(kind="redirect", on="record-info", url="http://h/"),
        *(Fault(kind="drop", on="record-info"), Fault(kind="html", on="record-info")),
        *(Fault(kind="not-json"), Fault(kind="not-envelope")),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.code}",
)
async def test_a_refusing_api_leaks_nothing(sandbox: Sandbox, log: list[str], fault: Fault) -> None:
    """Rule: whatever the API says, even what it echoes, errors and logs hold no secret."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    sandbox.add_fault(fault)
    async with NanoBananaClient(KEY, sandbox.base_url) as client:
        with pytest.raises(errors.APIError) as caught:
            await client.get_task_details(task_id)
    assert_errors_clean([caught.value])
    assert_clean("\n".join(log))


async def test_details_do_not_show_their_urls(sandbox: Sandbox, log: list[str]) -> None:
    """Rule: the representation of task details, which gets into logs, holds no URL."""
    task_id = sandbox.add_task(TaskPlan(seconds=0, images=2))
    async with NanoBananaClient(sandbox.api_key, sandbox.base_url) as client:
        details = await client.wait_for_task(task_id, 5, QUICK)
    assert SIGNATURE_MARK in details.result_urls[0]
    assert_clean(f"{details!r} {details}")
    assert_clean("\n".join(log))


async def test_a_callback_or_message_that_names_a_signed_url(
    sandbox: Sandbox, tmp_path: Path, log: list[str]
) -> None:
    """Rule: a reason that the service gives is shown without the signature of a URL in it."""
    told: list[LandingOutcome] = []
    plan = TaskPlan(
        seconds=0,
        outcome="generate-failed",
        error_message=f"cannot fetch https://h/in.png?Signature={SIGNATURE_MARK}&x=1 (timeout)",
    )
    made = await land(sandbox, [sandbox.add_task(plan)], tmp_path)
    told += made.outcomes.values()
    assert told[0].error is not None
    assert "https://h/in.png" in told[0].error.message
    assert_errors_clean(list(made.errors.values()))
    assert_clean(str(told) + "\n".join(log))


async def test_an_unexpected_error_leaks_nothing(
    sandbox: Sandbox, tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: even a bug in what we build upon, whose text holds a URL, is told without it."""

    text = f"https://h/i.png?Signature={SIGNATURE_MARK}"

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(ImageDownloader, "_fetch", broken)
    made = await land(sandbox, [sandbox.add_task(TaskPlan(seconds=0))], tmp_path)
    assert_errors_clean(list(made.errors.values()))
    assert_clean(made.report().model_dump_json())
    assert_clean("\n".join(log))


async def test_the_key_goes_to_no_other_host(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: a redirect from the image host to elsewhere carries neither key nor referrer."""
    async with raw_server(answer(b"no image")) as elsewhere:
        sandbox.add_fault(Fault(kind="redirect", on="files", url=elsewhere.url))
        await land(sandbox, [sandbox.add_task(TaskPlan(seconds=0))], tmp_path)
        assert elsewhere.requests
        for request in elsewhere.requests:
            assert_clean(request)
            assert b"authorization" not in request.lower()
            assert b"referer" not in request.lower()
            assert b"cookie" not in request.lower()


def assert_no_password(text: str) -> None:
    assert "s3cr3t" not in text, text


@pytest.mark.parametrize(
    ("place", "called"),
    [
        ("s3://key:s3cr3t@bucket/{date}", "s3://key@bucket/{date}"),
        ("sftp://ann:s3cr3t@host/images", "sftp://ann@host/images"),
        ("simplecache::s3://key:s3cr3t@bucket", "simplecache:…"),
        ("https://ann:s3cr3t@host/rows.csv?s3cr3t", "https:…"),
        ("sftp:/ann:s3cr3t@host/images", "sftp:…"),
        *((same, same) for same in ("images", "my-store", "../rows.csv", "/a b/{date}")),
    ],
)
def test_a_place_is_called_without_its_password(place: str, called: str) -> None:
    """Rule: what a flow was told is shown as it was told, less what is secret."""
    assert redact(place) == called


@pytest.mark.usefixtures("prefect_api")
async def test_a_password_in_a_url_gets_nowhere(
    sandbox: Sandbox,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    log: list[str],
) -> None:
    """Rule: neither names, reports, results nor logs of runs repeat a destination's password."""
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    (tmp_path / "rows.jsonl").write_text(f'{{"task_id": "{task_id}"}}')
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    async with sftp_server() as server:
        server.make_known(home)
        place = f"{server.url}{tmp_path}"
        batch = await run_batch(f"{place}/rows.jsonl", f"{place}/images", allow_partial=True)
        swept = await sweep(f"{place}/images", older_than=0)
        masked = place.replace(":s3cr3t", "")
    assert swept.destination == batch.destination == f"{masked}/images"
    async with get_client() as client:
        runs = await client.read_flow_runs(limit=2, sort=FlowRunSort.START_TIME_DESC)
    assert [run.name for run in runs] == [
        f"sweep {masked}/images",
        f"rows.jsonl to {masked}/images",
    ]
    assert_no_password(swept.model_dump_json() + batch.model_dump_json())
    assert_no_password("\n".join(path.read_text() for path in tmp_path.rglob("*.report.json")))
    assert_no_password("\n".join(log))


def test_every_error_survives_pickling_without_more_than_it_says() -> None:
    """Rule: each class of error is pickled whole: Prefect sends it between processes."""
    kinds = [errors.NanoBananaError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert len(kinds) > 15
    for kind in kinds:
        error = kind("it broke.", **({} if kind is errors.IncompleteLanding else {"task_id": "t1"}))
        error.is_fatal = True
        copied = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        assert type(copied) is kind
        assert (str(copied), vars(copied)) == (str(error), vars(error))


def test_all_faults_of_the_image_host_are_tried() -> None:
    """Rule: a new kind of fault of the image host is tried here, too."""
    assert set(get_args(Kind)) - API_ONLY_KINDS - {"latency", "drip"} == set(ON_FILES)
