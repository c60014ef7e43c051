"""The main flow against a real Prefect server and a real API sandbox."""

import base64
import io
import json
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image
from prefect import get_client
from prefect.blocks.fields import SecretDict
from prefect.client.schemas.objects import State
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import ParameterTypeError
from pydantic import SecretStr

from flows.land_images import land_images
from nanobanana_blocks import (
    GenericRequest,
    ImageStore,
    LandingReport,
    NanoBananaCredentials,
    PollPolicy,
    errors,
    tasks,
)
from nanobanana_blocks.images.download import ImageDownloader
from nanobanana_blocks.landing import lander
from nanobanana_blocks.orchestration.observability import artifacts, contact_sheet, progress
from nanobanana_blocks.orchestration.runs import landing_runs
from nanobanana_blocks.sandbox import CONTENT_POLICY_MESSAGE, Fault, Sandbox, TaskPlan
from tests.support.prefect_runs import artifact_of, last_run
from tests.support.storage_servers import s3_server
from tests.support.until import until

pytestmark = pytest.mark.usefixtures("prefect_api")

SOON = PollPolicy.fixed(0.05)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the pauses out of retries that would otherwise wait for a slow service."""
    downloader = partial(ImageDownloader, first_pause_seconds=0.01, fresh_url_seconds=0)
    monkeypatch.setattr(lander, "ImageDownloader", downloader)


async def test_lands_and_reports(sandbox: Sandbox, tmp_path: Path) -> None:
    """Everything asked for is in storage, and the report tells it in the order asked."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=s) for s in (0.4, 0.1, 0)])
    report = await land_images([*task_ids, task_ids[0]], str(tmp_path), poll=SOON)
    assert [outcome.task_id for outcome in report.outcomes] == [*task_ids, task_ids[0]]
    assert report.counts == {"landed": 4, "already_landed": 0, "failed": 0, "timed_out": 0}
    for outcome in report.outcomes:
        [image] = outcome.images
        assert Path(image.path).stat().st_size == image.size
        assert outcome.polls >= 1
    assert sandbox.stats().images_served == dict.fromkeys(task_ids, 1)


async def test_more_ids_than_a_run_takes(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: said in one line, with what to do; Prefect's answer would repeat them all."""
    task_ids = [f"{number:032x}" for number in range(20_000)]
    with pytest.raises(errors.InvalidInput) as caught:
        await land_images(task_ids, str(tmp_path))
    assert str(caught.value).startswith("task_ids: the parameters of a run may take 524,288 bytes")
    assert "file" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert sandbox.stats().requests == {}


async def test_what_the_ui_shows(sandbox: Sandbox, tmp_path: Path) -> None:
    """A run says in its name, task runs, table, progress and contact sheet what it did."""
    good = sandbox.add_tasks([TaskPlan(seconds=0)] * 3)
    bad = sandbox.add_task(
        TaskPlan(
            seconds=0,
            outcome="generate-failed",
            error_code=400,
            error_message=CONTENT_POLICY_MESSAGE,
        )
    )
    with pytest.raises(errors.IncompleteLanding, match="3 landed, 1 failed") as caught:
        await land_images([*good, bad], str(tmp_path), poll=SOON)
    assert CONTENT_POLICY_MESSAGE in str(caught.value)
    assert isinstance(caught.value.report, LandingReport)

    run = await last_run()
    assert run.name == f"4 tasks to {tmp_path}"
    assert run.state
    assert run.state.is_failed()
    table = await artifact_of(run, artifacts.OUTCOMES_KEY)
    rows: list[dict[str, Any]] = json.loads(str(table.data))
    assert [row["status"] for row in rows] == ["failed", "landed", "landed", "landed"]
    assert rows[0]["task"] == bad
    assert CONTENT_POLICY_MESSAGE in rows[0]["what happened"]
    bar = await artifact_of(run, progress.PROGRESS_KEY)
    assert bar.data == 100.0
    sheet = await artifact_of(run, artifacts.CONTACT_SHEET_KEY)
    encoded = str(sheet.data).partition("base64,")[2].partition(")")[0]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert picture.width > 3 * contact_sheet.TILE


async def test_a_rerun_does_only_what_is_missing(sandbox: Sandbox, tmp_path: Path) -> None:
    """After a partial run, running again fetches only what did not land."""
    good = sandbox.add_task(TaskPlan(seconds=0))
    late = sandbox.add_task(TaskPlan(seconds=None))
    first = await land_images(
        [good, late], str(tmp_path), timeout=0.3, poll=SOON, allow_partial=True
    )
    assert [outcome.status.value for outcome in first.outcomes] == ["landed", "timed_out"]
    state: State[Any] = await land_images(
        [good, late], str(tmp_path), timeout=0.3, poll=SOON, return_state=True
    )
    assert state.is_failed()
    report = (await state.aresult(raise_on_failure=False)).report
    assert [outcome.status.value for outcome in report.outcomes] == ["already_landed", "timed_out"]
    assert sandbox.stats().images_served == {good: 1}


async def test_a_task_run_that_times_out_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    """A wait that runs out is `TimedOut` in the UI, and is not waited for all over again."""
    task_id = sandbox.add_task(TaskPlan(seconds=None))
    await land_images([task_id], str(tmp_path), timeout=0.2, poll=SOON, allow_partial=True)
    run = await last_run()
    assert run.name == f"{task_id} to {tmp_path}"
    assert sandbox.stats().looks[task_id] < 20


@pytest.mark.parametrize("tasks", [2, 12])
async def test_an_image_host_that_fails_for_a_while_costs_no_image(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int
) -> None:
    """What passes is ridden out alike with a task run for each task and with one for a group."""
    monkeypatch.setattr(landing_runs, "TASK_RUN_EACH", 10)
    sandbox.configure(image_bytes=5000)
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * tasks)
    for task_id in task_ids:
        fault = Fault(kind="http-status", on="files", status=503, count=8, task_id=task_id)
        sandbox.add_fault(fault)
    report = await land_images(task_ids, str(tmp_path), poll=SOON)
    assert report.complete


@pytest.mark.parametrize("tasks", [2, 12])
async def test_a_dead_image_is_not_fetched_again_by_prefect(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int
) -> None:
    """Images are retried in one place, so no task run does it all over again."""
    monkeypatch.setattr(landing_runs, "TASK_RUN_EACH", 10)
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * tasks)
    sandbox.add_fault(Fault(kind="http-status", on="files", status=404))
    report = await land_images(task_ids, str(tmp_path), poll=SOON, allow_partial=True)
    assert report.counts["failed"] == tasks
    assert sandbox.stats().requests["files"] == 4 * tasks


async def test_a_hanging_image_host_is_given_up_on_once(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All URLs and attempts of an image share one allowance of time, and nothing renews it."""
    downloader = partial(ImageDownloader, seconds_per_image=0.5)
    monkeypatch.setattr(lander, "ImageDownloader", downloader)
    task_id = sandbox.add_task(TaskPlan(seconds=0))
    sandbox.add_fault(Fault(kind="latency", on="files", seconds=60))
    report = await land_images([task_id], str(tmp_path), poll=SOON, allow_partial=True)
    [outcome] = report.outcomes
    assert outcome.error
    assert "did not arrive within 0.5 s" in outcome.error.message
    assert sandbox.stats().requests["files"] == 1


async def test_a_large_batch_has_few_task_runs(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the documented size, groups get the task runs; every outcome is told all the same."""
    monkeypatch.setattr(landing_runs, "TASK_RUN_EACH", 10)
    plans = [TaskPlan(seconds=0)] * 24 + [TaskPlan(seconds=0, outcome="create-failed")]
    sandbox.configure(image_bytes=5000)
    task_ids = sandbox.add_tasks(plans)
    report = await land_images(task_ids, str(tmp_path), poll=SOON, allow_partial=True)
    assert (report.counts["landed"], report.counts["failed"]) == (24, 1)


@pytest.mark.parametrize("batch", [2, 12])
async def test_a_wrong_key_is_one_clear_error(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """A refused key fails the run once, with what to do, and nothing is written."""
    monkeypatch.setattr(landing_runs, "TASK_RUN_EACH", 10)
    monkeypatch.setenv("NANOBANANA_API_KEY", "not-the-key")
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * batch)
    with pytest.raises(errors.Unauthorized, match="IP allow list"):
        await land_images(task_ids, str(tmp_path / "images"), poll=SOON, allow_partial=True)
    assert list((tmp_path / "images").iterdir()) == []


@pytest.mark.parametrize(
    ("task_ids", "error"),
    [
        ([], "task_ids is empty"),
        ([" "], "blank"),
        (["good", "x" * 5000], "5000 characters"),
        (["a\nb"], "control character"),
    ],
)
async def test_bad_ids_are_refused_before_anything(
    sandbox: Sandbox, tmp_path: Path, task_ids: list[str], error: str
) -> None:
    """An id that cannot be one is named in one error, and nothing is asked or made."""
    with pytest.raises(errors.InvalidInput, match=error):
        await land_images(task_ids, str(tmp_path / "images"))
    assert sandbox.stats().requests == {}
    assert not (tmp_path / "images").exists()


async def test_parameters_of_the_wrong_type_are_named(sandbox: Sandbox) -> None:
    """Prefect refuses a parameter of the wrong type by its name."""
    with pytest.raises(ParameterTypeError, match="requests_per_second"):
        await land_images(["t"], poll={"requests_per_second": -1})  # type: ignore[arg-type]  # meant


async def test_blocks_by_name(sandbox: Sandbox, tmp_path: Path) -> None:
    """Credentials and destination are names of saved blocks; the store may keep prompts."""
    await NanoBananaCredentials(
        api_key=SecretStr(sandbox.api_key), base_url=sandbox.base_url
    ).asave("flow-test", overwrite=True)
    await ImageStore(url=str(tmp_path), keep_prompts=True).asave("flow-test", overwrite=True)
    task_id = sandbox.add_task(TaskPlan(seconds=0, prompt="A banana"))
    report = await land_images([task_id], "flow-test", "flow-test", poll=SOON)
    assert report.destination == str(tmp_path)
    assert json.loads((tmp_path / f"{task_id}.json").read_text())["prompt"] == "A banana"


async def test_lands_in_s3_by_a_block(sandbox: Sandbox) -> None:
    """A saved store leads to S3: images with their media type, receipts, and nothing else."""
    # moto's buckets belong to the process: other tests' files may be in them too.
    with s3_server() as s3:
        await ImageStore(url="s3://bucket/tonight", storage_options=SecretDict(s3.options())).asave(
            "s3-test", overwrite=True
        )
        task_ids = sandbox.add_tasks([TaskPlan(seconds=0, media_type="image/png")] * 3)
        report = await land_images(task_ids, "s3-test", poll=SOON)
        again = await land_images(task_ids, "s3-test", poll=SOON)
        stored = s3.client.list_objects_v2(Bucket="bucket", Prefix="tonight/")["Contents"]
        [image] = report.outcomes[0].images
        head = s3.client.head_object(Bucket="bucket", Key=image.path.removeprefix("s3://bucket/"))
    assert {item["Key"] for item in stored} == {
        f"tonight/{task_id}.{kind}" for task_id in task_ids for kind in ("png", "json")
    }
    assert head["ContentType"] == "image/png"
    assert again.counts["already_landed"] == 3
    assert sandbox.stats().images_served == dict.fromkeys(task_ids, 1)


async def test_events_tell_what_automations_need(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each image landed, and each failure for good, is an event of its task and of the run."""
    landed = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=0, images=2))
    failed = sandbox.add_task(
        TaskPlan(task_id=uuid4().hex, seconds=0, outcome="generate-failed", error_message="No")
    )
    late = sandbox.add_task(TaskPlan(task_id=uuid4().hex, seconds=None))
    await land_images(
        [landed, failed, late], str(tmp_path), timeout=0.2, poll=SOON, allow_partial=True
    )
    run = await last_run()
    names = EventFilter(event=EventNameFilter(prefix=["nanobanana."]))

    async def kept() -> list[Event]:
        async with get_client() as client:
            answer = await client.request(
                "POST", "/events/filter", json={"filter": names.model_dump(mode="json")}
            )
        found = [Event.model_validate(event) for event in answer.json()["events"]]
        ours = [event for event in found if event.payload["task_id"] in {landed, failed, late}]
        return ours if len(ours) >= 3 else []

    ours = await until(kept)
    told = Counter((event.event, event.payload["task_id"]) for event in ours)
    assert told == {
        ("nanobanana.image.landed", landed): 2,
        ("nanobanana.task.failed", failed): 1,
    }
    for event in ours:
        assert event.resource.id == f"nanobanana.task.{event.payload['task_id']}"
        assert f"prefect.flow-run.{run.id}" in {related.id for related in event.related}


@pytest.mark.parametrize("name", ["ids.txt", "ids.csv", "ids.jsonl", "ids.json"])
async def test_ids_from_a_file(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    """More ids than a run's parameters can hold come from a file, and none is lost on the way."""
    task_ids = sandbox.add_tasks([TaskPlan(seconds=0)] * 3)
    file = tmp_path / name
    objects = [{"task_id": task_id} for task_id in task_ids]
    file.write_text(
        {
            "ids.txt": "# yesterday's\n" + "\r\n".join([*task_ids, ""]),
            "ids.csv": "name,task_id\n" + "".join(f"x,{task_id}\n" for task_id in task_ids),
            "ids.jsonl": "".join(f"{json.dumps(item)}\n" for item in objects),
            "ids.json": json.dumps(task_ids),
        }[name]
    )
    report = await land_images(str(file), str(tmp_path / "images"), poll=SOON)
    assert [outcome.task_id for outcome in report.outcomes] == task_ids
    assert report.complete
    assert (await last_run()).name == f"tasks of {file} to {tmp_path / 'images'}"


async def test_one_id_is_not_taken_for_a_file(sandbox: Sandbox, tmp_path: Path) -> None:
    """A text that names no file is refused with what task_ids takes."""
    with pytest.raises(errors.InvalidInput, match=r"a list of ids, or the path.*no such file"):
        await land_images("933259930a1fc855a4e3835b7c60a028", str(tmp_path / "images"))
    assert sandbox.stats().requests == {}


async def test_a_date_in_the_destination_is_the_runs_day(sandbox: Sandbox, tmp_path: Path) -> None:
    """{date} means the same for flow, task and batch, and other words in braces are refused."""
    a, b = sandbox.add_tasks([TaskPlan(seconds=0)] * 2)
    before = datetime.now(UTC).date()
    await land_images([a], f"{tmp_path}/{{date}}", poll=SOON)
    await tasks.land_task(b, f"{tmp_path}/{{date}}", poll=SOON)
    days = {str(before), str(datetime.now(UTC).date())}
    assert {folder.name for folder in tmp_path.iterdir()} <= days
    assert {path.stem for path in tmp_path.rglob("*.json")} == {a, b}
    with pytest.raises(errors.InvalidInput, match="day"):
        await land_images([a], f"{tmp_path}/{{day}}", poll=SOON)


async def test_tasks_take_plain_json_values(sandbox: Sandbox, tmp_path: Path) -> None:
    """What a JSON caller gives is read, and what is wrong with it is named."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0))
    poll = {"mode": "fixed", "interval_seconds": 0.05}
    task_id = await tasks.submit_generation({"prompt": "a fig"})
    assert (await tasks.wait_for_task(task_id, timeout=60, poll=poll)).image_count == 1
    outcome = await tasks.land_task(task_id, str(tmp_path), poll=poll)
    assert outcome.in_storage
    pro = {"endpoint": "generate-pro", "prompt": "a fig", "resolution": "1K"}
    assert await tasks.submit_generation(pro)
    submits = sandbox.stats().submits
    for wrong, words in (
        ({"prompt": ""}, "prompt"),
        ({"endpoint": "paint", "prompt": "a fig"}, "generate-pro"),
        ("a fig", "request is neither"),
    ):
        with pytest.raises(errors.InvalidInput, match=words):
            await tasks.submit_generation(wrong)
    with pytest.raises(errors.InvalidInput, match="mode"):
        await tasks.wait_for_task(task_id, poll={"mode": "never"})
    assert sandbox.stats().submits == submits


async def test_tasks_take_endpoints_that_are_newer(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rule: fields and credits as JSON, or as an object; nothing is sent without credits."""
    sandbox.configure(submitted_task=TaskPlan(seconds=0), other_endpoints={"generate-3": 6})
    asked = {"endpoint": "generate-3", "fields": {"prompt": "a fig", "seed": 7}, "credits": 6}
    task_id = await tasks.submit_generation(asked)
    outcome = await tasks.land_task(task_id, str(tmp_path), request=asked)
    assert outcome.in_storage
    made = json.loads((tmp_path / f"{task_id}.json").read_text())["provenance"]
    assert (made["endpoint"], made["options"]) == ("generate-3", {"seed": 7})
    assert await tasks.submit_generation(GenericRequest(**asked))
    for wrong in ({"endpoint": "generate-3"}, {"endpoint": "../x", "credits": 1}):
        with pytest.raises(errors.InvalidInput, match="endpoint"):
            await tasks.submit_generation(wrong)
    assert [submit.credits for submit in sandbox.submits()] == [6, 6]


async def test_no_credentials_says_how_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no key at all, one error names the block and the command that saves it."""
    monkeypatch.delenv("NANOBANANA_API_KEY", raising=False)
    with pytest.raises(errors.MissingCredentials, match="nanobanana save-key no-such-block"):
        await land_images(["t"], str(tmp_path), "no-such-block")


async def test_composable_tasks(sandbox: Sandbox, tmp_path: Path) -> None:
    """The tasks serve flows of one's own: look, wait, land."""
    task_id = sandbox.add_task(TaskPlan(seconds=0.1))
    assert (await tasks.get_task_details(task_id)).task_id == task_id
    assert (await tasks.wait_for_task(task_id, poll=SOON)).image_count == 1
    outcome = await tasks.land_task(task_id, str(tmp_path), poll=SOON)
    assert outcome.in_storage
    failed = sandbox.add_task(TaskPlan(seconds=0, outcome="generate-failed"))
    with pytest.raises(errors.GenerationFailed):
        await tasks.wait_for_task(failed)
    with pytest.raises(errors.GenerationFailed):
        await tasks.land_task(failed, str(tmp_path))
