"""What a competent person would write without this project: asyncio and httpx, nothing more.

It looks when the same schedule says so, within the same request budget, over as few connections,
and writes the same images. It verifies nothing, leaves no receipts and retries nothing. It is what
`benchmarks/cost.py` compares with.
"""

from __future__ import annotations

import asyncio
import mimetypes
import time
from pathlib import Path
from typing import Any

import httpx

from nanobanana_blocks.api.schedule import PollPolicy, PollSchedule

RECORD_INFO = "/api/v1/nanobanana/record-info"
CONNECTIONS = 8


async def land(
    task_ids: list[str], folder: Path, base_url: str, api_key: str, policy: PollPolicy
) -> None:
    """Wait for generation tasks and write the image of each into a folder that exists."""
    limits = httpx.Limits(max_connections=CONNECTIONS)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with (
        httpx.AsyncClient(base_url=base_url, headers=headers, limits=limits) as api,
        httpx.AsyncClient(limits=limits) as image_host,
    ):
        await _Script(task_ids, folder, api, image_host, policy).run()


class _Script:
    def __init__(
        self,
        task_ids: list[str],
        folder: Path,
        api: httpx.AsyncClient,
        image_host: httpx.AsyncClient,
        policy: PollPolicy,
    ) -> None:
        self._folder = folder
        self._api = api
        self._image_host = image_host
        self._schedule = PollSchedule(policy)
        self._interval = 1 / policy.requests_per_second
        self._started = self._next_slot = time.monotonic()
        self._looks: asyncio.PriorityQueue[tuple[float, str, float | None]]
        self._looks = asyncio.PriorityQueue()
        self._finished: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        for task_id in task_ids:
            self._looks.put_nowait((self._started, task_id, None))

    async def run(self) -> None:
        workers = [asyncio.create_task(self._look_on()) for _ in range(CONNECTIONS)]
        workers += [asyncio.create_task(self._download_on()) for _ in range(CONNECTIONS)]
        settled = asyncio.create_task(self._all_settled())
        await asyncio.wait([settled, *workers], return_when=asyncio.FIRST_COMPLETED)
        for task in (settled, *workers):
            task.cancel()
        for ended in await asyncio.gather(settled, *workers, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _all_settled(self) -> None:
        await self._looks.join()
        await self._finished.join()

    async def _look_on(self) -> None:
        while True:
            due, task_id, previous = await self._looks.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._wait_for_slot()
            age = time.monotonic() - self._started
            details = await self._record_info(task_id)
            if details["successFlag"] == 0:
                self._schedule.observe_pending(previous, age)
                now = time.monotonic()
                due = now + self._schedule.next_delay(now - self._started)
                self._looks.put_nowait((due, task_id, age))
            elif details["successFlag"] == 1:
                self._schedule.observe_completion(previous, age)
                self._finished.put_nowait((task_id, details["response"]["resultImageUrl"]))
            else:
                raise RuntimeError(f"{task_id}: {details['errorMessage']}")
            self._looks.task_done()

    async def _wait_for_slot(self) -> None:
        slot = max(self._next_slot, time.monotonic())
        self._next_slot = slot + self._interval
        await asyncio.sleep(slot - time.monotonic())

    async def _record_info(self, task_id: str) -> dict[str, Any]:
        response = await self._api.get(RECORD_INFO, params={"taskId": task_id})
        response.raise_for_status()
        envelope = response.json()
        if envelope["code"] != 200:
            raise RuntimeError(f"{task_id}: {envelope}")
        details: dict[str, Any] = envelope["data"]
        return details

    async def _download_on(self) -> None:
        while True:
            task_id, url = await self._finished.get()
            response = await self._image_host.get(url)
            response.raise_for_status()
            extension = mimetypes.guess_extension(response.headers["Content-Type"]) or ""
            path = self._folder / f"{task_id}{extension}"
            await asyncio.to_thread(path.write_bytes, response.content)
            self._finished.task_done()
