"""The blocks in Prefect: saved, loaded, masked, and found by name; and `NanoBananaTask`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import aclosing
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import prefect.testing.standard_test_suites.blocks as standard_blocks
import pytest
from prefect import Flow, flow
from prefect.blocks.core import Block
from prefect.blocks.fields import SecretDict
from prefect.runtime import deployment
from pydantic import SecretStr, ValidationError

from nanobanana_blocks import (
    Generate2Request,
    GenerateProRequest,
    GenerateRequest,
    GenericRequest,
    ImageStore,
    NanoBananaCredentials,
    NanoBananaGeneration,
    NanoBananaTask,
    PollPolicy,
    TaskStatus,
    errors,
)
from nanobanana_blocks.api.client import DEFAULT_BASE_URL
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.flows.land_images import land_images
from nanobanana_blocks.flows.run_batch import run_batch
from nanobanana_blocks.flows.sweep import sweep
from nanobanana_blocks.orchestration.blocks.credentials import load_credentials
from nanobanana_blocks.orchestration.blocks.image_store import load_store
from nanobanana_blocks.sandbox import Fault, Sandbox, TaskPlan
from tests.support.until import until

KEY = "k3y-0f-mine-123456"
SECRET = "s3cr3t-access-key-654321"
OPTIONS = {"key": "AKIAEXAMPLE", "secret": SECRET, "client_kwargs": {"endpoint_url": "http://h"}}
LOGO = Path(__file__).parents[2] / "docs" / "logo.png"
QUICK = PollPolicy.fixed(0.05)

MakeBlock = Callable[[], Block]


def credentials() -> NanoBananaCredentials:
    return NanoBananaCredentials(
        api_key=SecretStr(KEY), base_url="http://127.0.0.1:1", callback_secret=SecretStr(SECRET)
    )


def store() -> ImageStore:
    return ImageStore(url="s3://bucket/folder", storage_options=SecretDict(OPTIONS))


def generation() -> NanoBananaGeneration:
    return NanoBananaGeneration(
        credentials=credentials(),
        request=GenerateProRequest(prompt="a fig"),
        callback_url=SecretStr(f"https://example.com/{SECRET}"),
    )


def unused_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


class _FitsIn(standard_blocks.BlockStandardTestSuite):
    @pytest.fixture(autouse=True)
    def _logo_from_this_checkout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def urlopen(url: str) -> BytesIO:
            assert url.endswith("/main/docs/logo.png")
            return BytesIO(LOGO.read_bytes())

        monkeypatch.setattr(standard_blocks, "urlopen", urlopen)


class TestCredentialsFitIn(_FitsIn):
    """Rule: the credentials block passes what Prefect asks of any block."""

    @pytest.fixture
    def block(self) -> type[Block]:
        return NanoBananaCredentials


class TestStoreFitsIn(_FitsIn):
    """Rule: the store block passes what Prefect asks of any block."""

    @pytest.fixture
    def block(self) -> type[Block]:
        return ImageStore


class TestGenerationFitsIn(_FitsIn):
    """Rule: the generation block passes what Prefect asks of any block."""

    @pytest.fixture
    def block(self) -> type[Block]:
        return NanoBananaGeneration


def test_the_names_are_the_contracts() -> None:
    """Rule: slugs are what people wrote into their deployments, and never change."""
    assert NanoBananaCredentials.get_block_type_slug() == "nanobanana-credentials"
    assert ImageStore.get_block_type_slug() == "image-store"
    assert NanoBananaGeneration.get_block_type_slug() == "nanobanana-generation"
    assert credentials().model_copy().base_url == "http://127.0.0.1:1"
    made = NanoBananaCredentials(api_key=SecretStr(KEY))
    assert made.base_url == DEFAULT_BASE_URL == "https://api.nanobananaapi.ai"


@pytest.mark.usefixtures("prefect_api")
class TestSaving:
    """Rule: what is saved comes back whole, in sync and in async code."""

    async def test_async(self) -> None:
        """Rule: `asave` and `aload` are each other's opposite, secrets included."""
        name = unused_name()
        await credentials().asave(name)
        await store().asave(name)
        loaded: NanoBananaCredentials = await NanoBananaCredentials.aload(name)
        assert loaded.api_key.get_secret_value() == KEY
        assert loaded.callback_secret is not None
        assert loaded.callback_secret.get_secret_value() == SECRET
        assert loaded.base_url == "http://127.0.0.1:1"
        place: ImageStore = await ImageStore.aload(name)
        assert (place.url, place.keep_prompts) == ("s3://bucket/folder", False)
        assert place.storage_options.get_secret_value() == OPTIONS

    async def test_the_dialect(self) -> None:
        """Rule: a saved dialect is that of the client; blocks of before have the first one."""
        name = unused_name()
        jobs = NanoBananaCredentials(api_key=KEY, dialect="jobs")
        await jobs.asave(name)
        loaded: NanoBananaCredentials = await NanoBananaCredentials.aload(name)
        assert loaded.get_client().dialect.name == "jobs"
        assert credentials().get_client().dialect.name == "nanobanana"
        form = NanoBananaCredentials.model_json_schema()["properties"]["dialect"]
        assert form["enum"] == ["nanobanana", "jobs"]

    def test_sync(self) -> None:
        """Rule: `save` and `load` do the same without an event loop."""
        name = unused_name()
        credentials().save(name)
        store().save(name)
        loaded, place = NanoBananaCredentials.load(name), ImageStore.load(name)
        assert isinstance(loaded, NanoBananaCredentials)
        assert isinstance(place, ImageStore)
        assert loaded.api_key.get_secret_value() == KEY
        assert place.storage_options.get_secret_value() == OPTIONS

    def test_the_apis_listing_masks_secrets(self, prefect_api: str) -> None:
        """Rule: who lists blocks over Prefect's API, as its UI does, sees no secret."""
        name = unused_name()
        credentials().save(name)
        store().save(name)
        listed = httpx.post(f"{prefect_api}/block_documents/filter", json={}, timeout=30)
        assert listed.status_code == 200
        assert name in listed.text
        assert KEY not in listed.text
        assert SECRET not in listed.text


@pytest.mark.parametrize("make", [credentials, store, generation])
def test_secrets_are_masked(make: MakeBlock) -> None:
    """Rule: no way to show a block shows its secrets."""
    block = make()
    shown = [repr(block), str(block), f"{block}", block.model_dump_json(), str(block.model_dump())]
    shown.append(str(getattr(block, "get_client", lambda: "")()))
    for text in shown:
        assert KEY not in text
        assert SECRET not in text
        assert "AKIAEXAMPLE" not in text


def test_blocks_are_registered_by_the_command(prefect_server: str) -> None:
    """Rule: `prefect block register -m nanobanana_blocks` makes all block types known."""
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "nanobanana_blocks"]
    environment = os.environ | {"PREFECT_API_URL": prefect_server}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    for slug in ("nanobanana-credentials", "image-store", "nanobanana-generation"):
        found = httpx.get(f"{prefect_server}/block_types/slug/{slug}", timeout=30)
        assert found.status_code == 200
        assert found.json()["logo_url"].endswith("logo.png")


# --- credentials by name


@pytest.mark.usefixtures("prefect_api", "sandbox")
class TestLoadCredentials:
    """Rule: a name means the block saved under it, else the environment, else a clear error."""

    async def test_the_block_comes_first(self) -> None:
        """Rule: a saved block wins over the environment."""
        name = unused_name()
        await credentials().asave(name)
        assert (await load_credentials(name)).api_key.get_secret_value() == KEY

    async def test_then_the_environment(self, sandbox: Sandbox) -> None:
        """Rule: where no block is saved under the name, the environment serves."""
        found = await load_credentials(unused_name())
        assert found.api_key.get_secret_value() == sandbox.api_key
        assert found.base_url == sandbox.base_url

    @pytest.mark.parametrize("key", ["", "  "])
    async def test_then_a_clear_error(self, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
        """Rule: where there is neither, the error says both ways to make one."""
        monkeypatch.setenv("NANOBANANA_API_KEY", key)
        name = unused_name()
        with pytest.raises(errors.MissingCredentials) as caught:
            await load_credentials(name)
        for word in (name, "NANOBANANA_API_KEY", f"nanobanana save-key {name}"):
            assert word in str(caught.value)

    async def test_the_public_server_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rule: a blank base URL in the environment is none."""
        monkeypatch.setenv("NANOBANANA_BASE_URL", " ")
        assert (await load_credentials(unused_name())).base_url == DEFAULT_BASE_URL

    @pytest.mark.parametrize("name", ["", "a/b", "../x", "Not A Name", "é", "%2e", "x" * 300])
    async def test_a_name_that_cannot_be_one(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Rule: whatever the name, the error is one of ours."""
        monkeypatch.delenv("NANOBANANA_API_KEY")
        with pytest.raises(errors.NanoBananaError):
            await load_credentials(name)

    @pytest.mark.parametrize(
        ("field", "value", "reason"),
        [
            ("api_key", "two words", "the API key holds a space"),
            ("base_url", "http://api.example.com", "the base URL must be https"),
            ("callback_secret", "short", "has only 5 characters"),
        ],
    )
    async def test_a_saved_value_that_is_invalid(
        self, prefect_api: str, field: str, value: str, reason: str
    ) -> None:
        """Rule: what Prefect's form let through is a clear error that names the block alone."""
        name = unused_name()
        await credentials().asave(name)
        address = f"{prefect_api}/block_documents"
        saved = httpx.get(
            f"{prefect_api}/block_types/slug/nanobanana-credentials/block_documents/name/{name}"
        ).json()
        httpx.patch(
            f"{address}/{saved['id']}", json={"data": {field: value}, "merge_existing_data": True}
        ).raise_for_status()
        with pytest.raises(errors.InvalidInput, match=reason) as caught:
            await load_credentials(name)
        assert f"NanoBananaCredentials block '{name}'" in str(caught.value)
        assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: NanoBananaCredentials(api_key=SecretStr("two w0rds")), "the API key"),
        (lambda: NanoBananaCredentials(api_key=SecretStr("")), "the API key is blank"),
        (
            lambda: NanoBananaCredentials(api_key=SecretStr(KEY), base_url="ftp://w0rds"),
            "the base URL must be like",
        ),
        (
            lambda: NanoBananaCredentials(
                api_key=SecretStr(KEY), callback_secret=SecretStr("w0rds")
            ),
            "callback secret has only 5",
        ),
        (lambda: ImageStore(url="https://w0rds.example/x"), "it can be read only"),
        (lambda: ImageStore(url="s3:///"), "it names no bucket"),
        (lambda: ImageStore(url=" "), "blank"),
        (
            lambda: NanoBananaGeneration(
                credentials=credentials(),
                request=GenerateRequest(prompt="a fig"),
                callback_url=SecretStr("ftp://w0rds"),
            ),
            "the callback URL must be like",
        ),
    ],
)
def test_an_invalid_block_cannot_be_saved(make: MakeBlock, reason: str) -> None:
    """Rule: bad values are refused when a block is made, with the reason and without the secret."""
    with pytest.raises(ValidationError, match=reason) as caught:
        make()
    assert "input_value" not in str(caught.value)


@pytest.mark.parametrize("block", [NanoBananaCredentials, ImageStore, NanoBananaGeneration])
def test_an_example_reads_as_it_was_written(block: type[Block]) -> None:
    """Rule: Prefect's UI escapes `<`, `>` and `&` in examples, so that none has any."""
    example = block.get_code_example()
    assert example
    assert not set("<>&") & set(example)
    introduction, _, code = example.partition("```python")
    assert introduction.strip().endswith(":")
    assert "\n" not in introduction.strip()
    compile(code.rstrip().removesuffix("```"), block.__name__, "exec")


@pytest.mark.parametrize("block", [NanoBananaCredentials, ImageStore, NanoBananaGeneration])
def test_a_description_is_one_line(block: type[Block]) -> None:
    """Rule: the UI shows a description on a card, as one sentence or two."""
    description = block.get_description()
    assert description
    assert "\n" not in description
    assert description.endswith(".")


# --- destinations


@pytest.mark.usefixtures("prefect_api")
class TestLoadStore:
    """Rule: a destination is a URL, a path, or the name of a saved block."""

    async def test_a_block_by_its_name(self, tmp_path: Path) -> None:
        """Rule: a name under which a block is saved means that block."""
        name = unused_name()
        saved = ImageStore(url=str(tmp_path), keep_prompts=True)
        await saved.asave(name)
        found = await load_store(name)
        assert (found.url, found.keep_prompts) == (str(tmp_path), True)
        async with aclosing(await found.open()) as place:
            assert place.path == str(tmp_path)

    @pytest.mark.parametrize(
        "destination",
        ["images", "my-pictures", "./images", "a/b", "/abs/x", "~/x", "memory://x", "s3://b/f"],
    )
    async def test_anything_else_is_a_place(self, destination: str) -> None:
        """Rule: what is no saved block's name is taken as a path or URL, as it stands."""
        assert (await load_store(destination)).url == destination

    async def test_an_error_about_a_block_names_it(self, prefect_api: str, tmp_path: Path) -> None:
        """Rule: who gave a block's name is told of that name, whatever is wrong with its place."""
        name = unused_name()
        await ImageStore(url="gdrive://folder").asave(name)
        with pytest.raises(errors.DestinationError, match=f"the ImageStore '{name}'"):
            async with await (await load_store(name)).open():
                pass
        saved = httpx.get(
            f"{prefect_api}/block_types/slug/image-store/block_documents/name/{name}"
        ).json()
        url = f"{prefect_api}/block_documents/{saved['id']}"
        change = {"data": {"url": "https://example.com/x"}, "merge_existing_data": True}
        # A server whose database is busy answers 503, after which Prefect's own client asks again.
        await until(lambda: httpx.patch(url, json=change).is_success)
        with pytest.raises(errors.DestinationError, match=f"'{name}' is invalid: .*read only"):
            await load_store(name)

    @pytest.mark.parametrize("destination", ["", " ", "\n", None, 7])
    async def test_blank(self, destination: str) -> None:
        """Rule: a blank destination is refused with the three things that it may be."""
        with pytest.raises(errors.InvalidInput, match="a path, an fsspec URL or a block's name"):
            await load_store(destination)

    async def test_a_relative_path_in_a_workers_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rule: a deployment's images never go into a folder that its worker deletes."""
        folder = tmp_path / "abcdprefect"
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setitem(deployment.FIELDS, "id", lambda: "some-deployment")
        for destination in ("images", "./images", "a/b"):
            with pytest.raises(errors.DestinationError, match="temporary folder"):
                await load_store(destination)
        for destination in ("/abs/x", "~/x", "memory://x"):
            assert (await load_store(destination)).url == destination
        name = unused_name()
        await ImageStore(url="images").asave(name)
        with pytest.raises(errors.DestinationError, match="temporary folder"):
            await load_store(name)


# --- NanoBananaTask


def job(sandbox: Sandbox, plan: TaskPlan, timeout: float = 10) -> NanoBananaTask:
    block = NanoBananaCredentials(api_key=SecretStr(sandbox.api_key), base_url=sandbox.base_url)
    return NanoBananaTask(sandbox.add_task(plan), block, timeout=timeout, poll=QUICK)


def test_a_job_without_an_event_loop(sandbox: Sandbox) -> None:
    """Rule: the sync methods wait and fetch without any event loop of the caller's."""
    run = job(sandbox, TaskPlan(seconds=0.1))
    run.wait_for_completion()
    assert run.fetch_result().status is TaskStatus.SUCCESS


async def test_a_job_in_async_code(sandbox: Sandbox) -> None:
    """Rule: the async twins do the same."""
    run = job(sandbox, TaskPlan(seconds=0.1))
    await run.await_for_completion()
    details = await run.afetch_result()
    assert (details.task_id, details.status) == (run.task_id, TaskStatus.SUCCESS)


async def test_fresh_urls_come_with_the_result(sandbox: Sandbox) -> None:
    """Rule: the result is asked for anew, as its URLs may have expired since."""
    run = job(sandbox, TaskPlan(seconds=0, dead_result_url="first-look"))
    await run.await_for_completion()
    async with httpx.AsyncClient(headers={"user-agent": "test"}) as http:
        assert (await http.get((await run.afetch_result()).result_urls[0])).status_code == 200


async def test_a_job_that_failed(sandbox: Sandbox) -> None:
    """Rule: waiting for a failed task ends well, its result is the service's reason."""
    run = job(sandbox, TaskPlan(seconds=0, outcome="generate-failed"))
    await run.await_for_completion()
    with pytest.raises(errors.GenerationFailed, match="Image generation task failed"):
        await run.afetch_result()


async def test_a_result_before_waiting(sandbox: Sandbox) -> None:
    """Rule: fetching before waiting is told, and nothing is asked."""
    run = job(sandbox, TaskPlan(seconds=0))
    with pytest.raises(errors.NanoBananaError, match="wait for completion"):
        await run.afetch_result()
    assert sandbox.stats().requests == {}


def test_a_job_that_takes_too_long(sandbox: Sandbox) -> None:
    """Rule: a job's time is limited."""
    with pytest.raises(errors.WaitTimedOut):
        job(sandbox, TaskPlan(seconds=None), timeout=0.1).wait_for_completion()


@pytest.mark.filterwarnings("error")
async def test_the_sync_methods_in_async_code_say_what_to_do(sandbox: Sandbox) -> None:
    """Rule: who calls the sync method where a loop runs is told of the async twin."""
    run = job(sandbox, TaskPlan(seconds=0))
    with pytest.raises(errors.NanoBananaError, match="await_for_completion"):
        run.wait_for_completion()


@pytest.mark.usefixtures("prefect_api")
def test_a_job_in_a_sync_flow(sandbox: Sandbox) -> None:
    """Rule: a sync flow can compose jobs."""
    run = job(sandbox, TaskPlan(seconds=0))

    @flow
    def composed() -> str:
        run.wait_for_completion()
        return run.fetch_result().status.name

    assert composed() == "SUCCESS"


def test_a_job_wants_an_id() -> None:
    """Rule: an id that cannot be one is refused when the job is made."""
    with pytest.raises(errors.InvalidInput, match="task id"):
        NanoBananaTask(" ", credentials())


# --- NanoBananaGeneration


REQUESTS: list[GenerationRequest] = [
    GenerateRequest(prompt="a fig"),
    GenerateProRequest(prompt="a fig"),
    Generate2Request(prompt="a fig", resolution="2K"),
    GenericRequest(endpoint="generate-3", prompt="a fig", fields={"seed": 7}, credits=6),
]


def generation_at(
    sandbox: Sandbox, request: GenerationRequest = REQUESTS[0], **fields: Any
) -> NanoBananaGeneration:
    block = NanoBananaCredentials(api_key=SecretStr(sandbox.api_key), base_url=sandbox.base_url)
    sandbox.configure(submitted_task=TaskPlan(seconds=0.1), other_endpoints={"generate-3": 6})
    return NanoBananaGeneration(credentials=block, request=request, poll=QUICK, **fields)


def test_a_generation_without_an_event_loop(sandbox: Sandbox) -> None:
    """Rule: the sync method submits once and gives the job of the new task."""
    run = generation_at(sandbox).trigger()
    assert [submit.task_id for submit in sandbox.submits()] == [run.task_id]
    run.wait_for_completion()
    assert run.fetch_result().status is TaskStatus.SUCCESS


async def test_a_generation_in_async_code(sandbox: Sandbox) -> None:
    """Rule: the async twin does the same, and waits no longer than the block says."""
    block = generation_at(sandbox, timeout=0.01)
    sandbox.configure(submitted_task=TaskPlan(seconds=None))  # the final poll may come late
    run = await block.atrigger()
    with pytest.raises(errors.WaitTimedOut):
        await run.await_for_completion()
    assert sandbox.stats().submits == 1


async def test_each_trigger_is_a_generation_task_of_its_own(sandbox: Sandbox) -> None:
    """Rule: to trigger again is to order again."""
    block = generation_at(sandbox)
    assert (await block.atrigger()).task_id != (await block.atrigger()).task_id
    assert sandbox.stats().credits_spent == 8


async def test_a_generation_with_a_callback_address(sandbox: Sandbox) -> None:
    """Rule: the block's callback address, where it has one, is what the service is told."""
    await generation_at(sandbox, callback_url=SecretStr("https://example.com/t0ken")).atrigger()
    assert sandbox.submits()[0].body["callBackUrl"] == "https://example.com/t0ken"


async def test_a_generation_whose_answer_is_lost(sandbox: Sandbox) -> None:
    """Rule: a trigger never pays twice: what is not known is told."""
    sandbox.add_fault(Fault(kind="drop", on="submit", takes_effect=True))
    with pytest.raises(errors.UnconfirmedSubmit):
        await generation_at(sandbox).atrigger()
    assert sandbox.stats().submits == 1


@pytest.mark.filterwarnings("error")
async def test_a_sync_trigger_in_async_code(sandbox: Sandbox) -> None:
    """Rule: it says what to do, before anything is submitted."""
    with pytest.raises(errors.NanoBananaError, match="await atrigger"):
        generation_at(sandbox).trigger()
    assert sandbox.stats().requests == {}


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: str(request.endpoint))
async def test_a_saved_generation_goes_to_its_endpoint(
    sandbox: Sandbox, request_: GenerationRequest
) -> None:
    """Rule: what was saved is what is submitted: the same request, the same endpoint and price."""
    name = unused_name()
    await generation_at(sandbox, request_).asave(name)
    loaded: NanoBananaGeneration = await NanoBananaGeneration.aload(name)
    assert loaded.request == request_
    assert (loaded.poll, loaded.timeout) == (QUICK, 900)
    await loaded.atrigger()
    [submit] = sandbox.submits()
    assert (submit.endpoint, submit.credits) == (
        str(request_.endpoint),
        request_.estimated_credits,
    )


def test_a_request_must_say_its_endpoint() -> None:
    """Rule: where a form leaves the endpoint out, none is guessed: they differ in price."""
    with pytest.raises(ValidationError, match="endpoint"):
        NanoBananaGeneration.model_validate(
            {"credentials": credentials(), "request": {"prompt": "a fig"}}
        )


def test_the_form_offers_the_endpoints() -> None:
    """Rule: Prefect's form lets people choose an endpoint, and every field has a description."""
    schema = NanoBananaGeneration.model_json_schema()
    offered = [choice["$ref"].split("/")[-1] for choice in schema["properties"]["request"]["anyOf"]]
    assert offered == [
        "GenerateRequest",
        "GenerateProRequest",
        "Generate2Request",
        "GenericRequest",
    ]
    for name in offered:
        for field in schema["definitions"][name]["properties"].values():
            assert field["title"]
            assert field["description"].endswith(".")


@pytest.mark.parametrize("flow_", [run_batch, land_images, sweep], ids=lambda flow_: flow_.name)
def test_forms_explain_what_is_nested_in_a_sentence(flow_: Flow[..., Any]) -> None:
    """Rule: what a form says of a group of fields is plain text, not a docstring of the code."""
    in_flow = flow_.parameters.definitions
    in_block = NanoBananaGeneration.model_json_schema()["definitions"]
    for group in (in_flow | in_block).values():
        description = group.get("description", "")
        assert "\n" not in description
        assert "`" not in description


def test_importing_the_package_starts_nothing() -> None:
    """Rule: `import nanobanana_blocks` runs no thread, no loop and no server."""
    program = "import threading, nanobanana_blocks; print(threading.active_count())"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert told.stdout.strip() == b"1"


def test_requests_are_made_without_prefect() -> None:
    """Rule: what needs no Prefect does not import it, for that takes seconds."""
    program = (
        "import sys, nanobanana_blocks as n; n.GenerateRequest; print('prefect' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert told.stdout.strip() == b"False"
