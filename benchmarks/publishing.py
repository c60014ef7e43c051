"""Measures publishing: many images at once to storage far away, and to the local disk.

Ours beside what a competent person would write: fsspec's own calls gathered, boto3 or Azure's
client in threads, and obstore where it is installed. S3 is SeaweedFS and Azure is azurite, both
behind a proxy that holds back what clients send; contenders take turns in rotated order, each in a
folder of its own. The disk's contender writes each file under a temporary name, syncs it and
renames it.

Run ``python -m benchmarks.publishing``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from benchmarks.goals import at_most, begin
from benchmarks.pulse import Pulse
from benchmarks.slow_storage import far_away
from nanobanana_blocks.storage.destination import Destination
from tests.support.storage_kinds import azurite, seaweedfs

IMAGES, IMAGE_BYTES, LATENCY_SECONDS, ROUNDS = 300, 300_000, 0.15, 3
LOCAL_ROUNDS = 5
"""Times as many where a round takes a tenth of a second."""
THREADS = 64
MAX_REMOTE, MAX_LOCAL, MAX_STALL_SECONDS = 1.25, 1.15, 0.2


Contender = Callable[[str, dict[str, Any], str, bytes, int], Coroutine[Any, Any, "Took"]]
"""Publishes so many copies of some bytes in a folder below a URL that the options reach."""


class Took(NamedTuple):
    """Seconds that publishing took, and the longest stall of the event loop meanwhile."""

    seconds: float
    stall: float


async def timed(publishing: Awaitable[object]) -> Took:
    """Await what publishes all images; opening and closing are not counted."""
    pulse = Pulse()
    beating = asyncio.create_task(pulse.beat())
    began = time.monotonic()
    await publishing
    took = time.monotonic() - began
    beating.cancel()
    return Took(took, max((one.busy for one in pulse.stalls), default=0.0))


async def ours(url: str, options: dict[str, Any], folder: str, data: bytes, count: int) -> Took:
    async with await Destination.open(f"{url}/{folder}", options) as destination:
        await destination.check_writable()
        publish = partial(destination.publish, data=data, media_type="image/jpeg")
        return await timed(asyncio.gather(*(publish(f"{number}.jpg") for number in range(count))))


async def fsspec_gathered(
    url: str, options: dict[str, Any], folder: str, data: bytes, count: int
) -> Took:
    import fsspec

    file_system = fsspec.filesystem(
        urlsplit(url).scheme, asynchronous=True, skip_instance_cache=True, **options
    )
    if hasattr(file_system, "set_session"):
        session = await file_system.set_session()
    root = f"{url.partition('://')[2]}/{folder}"
    took = await timed(
        asyncio.gather(
            *(file_system._pipe_file(f"{root}/{number}.jpg", data) for number in range(count))
        )
    )
    await (session if hasattr(file_system, "set_session") else file_system.service_client).close()
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        alive = finalizer.peek()
        if alive is not None and alive[0] is file_system:
            finalizer.detach()  # it would close on a loop that has ended
    return took


def _in_threads(put: Callable[[str], object], folder: str, count: int) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, (f"{folder}/{number}.jpg" for number in range(count))))


async def boto_threads(
    url: str, options: dict[str, Any], folder: str, data: bytes, count: int
) -> Took:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=options["client_kwargs"]["endpoint_url"],
        aws_access_key_id=options["key"],
        aws_secret_access_key=options["secret"],
        region_name="us-east-1",
        config=Config(max_pool_connections=THREADS),
    )
    bucket = url.partition("://")[2]
    put = partial(client.put_object, Bucket=bucket, Body=data)
    return await timed(asyncio.to_thread(_in_threads, lambda key: put(Key=key), folder, count))


async def azure_threads(
    url: str, options: dict[str, Any], folder: str, data: bytes, count: int
) -> Took:
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient.from_connection_string(options["connection_string"])
    box = service.get_container_client(url.partition("://")[2])
    put = partial(box.upload_blob, data=data)
    return await timed(asyncio.to_thread(_in_threads, put, folder, count))


async def obstore_gathered(
    url: str, options: dict[str, Any], folder: str, data: bytes, count: int
) -> Took:
    import obstore
    from obstore.store import AzureStore, S3Store

    place = url.partition("://")[2]
    if url.startswith("s3"):
        store: Any = S3Store(
            place,
            endpoint=options["client_kwargs"]["endpoint_url"],
            access_key_id=options["key"],
            secret_access_key=options["secret"],
            region="us-east-1",
            client_options={"allow_http": True},
        )
    else:
        parts = dict(part.split("=", 1) for part in options["connection_string"].split(";"))
        store = AzureStore(
            place,
            endpoint=parts["BlobEndpoint"],
            account_name=parts["AccountName"],
            account_key=parts["AccountKey"],
            client_options={"allow_http": True},
        )
    gate = asyncio.Semaphore(THREADS)

    async def put(key: str) -> None:
        async with gate:
            await obstore.put_async(store, key, data)

    paths = [f"{folder}/{number}.jpg" for number in range(count)]
    return await timed(asyncio.gather(*(put(path) for path in paths)))


async def renamed(url: str, _: dict[str, Any], folder: str, data: bytes, count: int) -> Took:
    place = Path(url) / folder
    place.mkdir()

    def put(key: str) -> None:
        path = Path(url) / f"{key}.part"
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.replace(path.with_suffix(""))

    return await timed(asyncio.to_thread(_in_threads, put, folder, count))


def take_turns(
    what: str,
    contenders: dict[str, Contender],
    url: str,
    options: dict[str, Any],
    count: int,
    rounds: int,
    most: float,
) -> None:
    """Run all contenders, in rotated order, and compare their medians."""
    data, names = os.urandom(IMAGE_BYTES), list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    stall = 0.0
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            folder = f"{name.replace(' ', '-')}-{turn}"
            took = asyncio.run(contenders[name](url, options, folder, data, count))
            seconds[name].append(took.seconds)
            stall = max(stall, took.stall) if name == "ours" else stall
    medians = {name: median(took) for name, took in seconds.items()}
    print(f"\n{what}: {count} images of {IMAGE_BYTES // 1000} kB, median of {rounds}")
    for name, took in medians.items():
        print(f"  {name:<20}{took:8.2f} s{took / medians['ours']:8.2f} of ours")
    others = {name: took for name, took in medians.items() if name != "ours"}
    best = min(others, key=lambda name: others[name])
    beside = f"{best} 1"
    at_most(f"{what}: ours / the best", medians["ours"] / others[best], most, "x", plain=beside)
    at_most(f"{what}: longest stall, CPU in it", stall, MAX_STALL_SECONDS, " s")


def main() -> None:
    options = begin(__doc__, "few images, nearer, once")
    count, latency, rounds = (8, 0.02, 1) if options.smoke else (IMAGES, LATENCY_SECONDS, ROUNDS)
    more: dict[str, Any] = {}
    if importlib.util.find_spec("obstore"):
        more["obstore gathered"] = obstore_gathered
    remote: dict[str, tuple[Any, dict[str, Any]]] = {
        "S3": (seaweedfs, {"threads": boto_threads}),
        "Azure": (azurite, {"threads": azure_threads}),
    }
    with tempfile.TemporaryDirectory(prefix="nanobanana-publishing-") as temporary:
        for what, (kind, threads) in remote.items():
            contenders: dict[str, Contender] = {
                "ours": ours,
                "fsspec gathered": fsspec_gathered,
                **threads,
                **more,
            }
            try:
                with far_away(kind, Path(temporary) / what, latency) as (url, settings):
                    take_turns(what, contenders, url, settings, count, rounds, MAX_REMOTE)
            except pytest.skip.Exception as reason:
                print(f"\n{what}: not measured, {reason}")
        disk = Path(temporary) / "disk"
        disk.mkdir()
        contenders = {"ours": ours, "threads": renamed}
        take_turns("local disk", contenders, str(disk), {}, count, LOCAL_ROUNDS * rounds, MAX_LOCAL)


if __name__ == "__main__":
    main()
