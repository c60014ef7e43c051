"""What a user writes, checked as strictly as they may check it; run by nothing."""

from __future__ import annotations

from prefect import flow

from nanobanana_blocks import (
    GenerateRequest,
    ImageStore,
    LandingOutcome,
    LandingReport,
    NanoBananaClient,
    NanoBananaCredentials,
    NanoBananaGeneration,
    PollPolicy,
    TaskDetails,
    TaskStatus,
)
from nanobanana_blocks.callbacks import CallbackReceiver, callback_url, make_app
from nanobanana_blocks.errors import GenerationFailed, NanoBananaError
from nanobanana_blocks.tasks import (
    get_task_details,
    get_task_details_sync,
    land_task,
    land_task_sync,
    submit_generation,
    submit_generation_sync,
    wait_for_task,
    wait_for_task_sync,
)


async def ask(key: str) -> tuple[str, ...]:
    async with NanoBananaClient(key) as client:
        details: TaskDetails = await client.wait_for_task("a1b2", 60, PollPolicy.fixed(5))
        return details.result_urls if details.status is TaskStatus.SUCCESS else ()


@flow
async def edit(prompt: str) -> list[str]:
    request = GenerateRequest(prompt=prompt)
    task_id: str = await submit_generation(request)
    details: TaskDetails = await get_task_details(task_id)
    details = await wait_for_task(details.task_id, timeout=300.0)
    outcome: LandingOutcome = await land_task(details.task_id, "images")
    return [image.path for image in outcome.images]


@flow
def edit_without_async(prompt: str) -> list[str]:
    task_id: str = submit_generation_sync(GenerateRequest(prompt=prompt))
    details: TaskDetails = get_task_details_sync(task_id)
    details = wait_for_task_sync(details.task_id, timeout=300.0)
    outcome: LandingOutcome = land_task_sync(details.task_id, "images")
    return [image.path for image in outcome.images]


def landed(report: LandingReport) -> int:
    try:
        report.raise_unless_complete()
    except GenerationFailed as failure:
        print(failure.error_code, failure.task_id)
    except NanoBananaError as error:
        print(error.message, error.retryable)
    return report.counts["landed"]


def trigger(credentials: NanoBananaCredentials, prompt: str) -> TaskDetails:
    generation = NanoBananaGeneration(
        credentials=credentials, request=GenerateRequest(prompt=prompt)
    )
    job = generation.trigger()
    job.wait_for_completion()
    return job.fetch_result()


async def trigger_with_the_saved_key(prompt: str) -> TaskDetails:
    credentials: NanoBananaCredentials = await NanoBananaCredentials.aload("default")
    return trigger(credentials, prompt)


async def names() -> list[str]:
    store: ImageStore = await ImageStore.aload("my-bucket")
    async with await store.open() as destination:
        return sorted(await destination.list())


def receive(secret: str) -> CallbackReceiver:
    print(callback_url("https://images.example.com", secret, job_key="row-17"))
    return make_app(secret)
