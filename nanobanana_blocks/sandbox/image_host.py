"""The image host: signed, expiring URLs and the pictures behind them.

Draws nothing itself, and wants no key.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from nanobanana_blocks.sandbox import pictures
from nanobanana_blocks.sandbox.envelopes import media_type, sign
from nanobanana_blocks.sandbox.exchange import Answer
from nanobanana_blocks.sandbox.faults import PAGE, Misbehaviour, endure

if TYPE_CHECKING:
    from nanobanana_blocks.sandbox.exchange import Exchange
    from nanobanana_blocks.sandbox.faults import Closing
    from nanobanana_blocks.sandbox.state import GenerationTask, SandboxState


class ImageHost:
    """Serves the images of the tasks of one `SandboxState`."""

    def __init__(self, state: SandboxState, closing: Closing) -> None:
        self._state = state
        self._closing = closing
        self._sized_jpegs: dict[int, pictures.SizedJpeg] = {}

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request under `/files/`, or spoil the answer."""
        state = self._state
        counts = state.counts  # of before a reset that comes meanwhile
        counts.requests["files"] += 1
        if exchange.header(b"authorization") or self._carries_key(exchange):
            counts.keys_on_image_host += 1
        if exchange.method not in {"GET", "HEAD"}:
            await exchange.answer(Answer(PAGE, 405, "text/html"))
            return
        file_name, _, number = exchange.path.rpartition("/")[2].partition(".")[0].partition("_")
        task = state.tasks_by_file.get(file_name)
        if not self._is_welcome(exchange):
            await exchange.answer(Answer(PAGE, 403, "text/html"))
            return
        fault = await endure(
            state.strike("files", task.task_id if task else None), self._closing.pause
        )
        if task is None or not number.isdecimal():
            image = Answer(PAGE, 404, "text/html")
        elif not self._is_signed_and_fresh(exchange):
            image = Answer(PAGE, state.settings.expired_url_status, "text/html")
        else:
            image = await self._image(task, int(number))
        if fault is not None:
            await Misbehaviour(fault, exchange, self._closing.pause, image).happen()
            return
        await exchange.answer(image)
        if task is not None and image.status == 200 and exchange.method == "GET":
            counts.images_served[task.task_id] += 1

    def _carries_key(self, exchange: Exchange) -> bool:
        return self._state.settings.api_key.encode() in exchange.query

    def _is_welcome(self, exchange: Exchange) -> bool:
        agent = exchange.header(b"user-agent").decode("latin-1").strip().lower()
        refused = self._state.settings.refused_user_agents
        return bool(agent) and not any(agent.startswith(name.lower()) for name in refused)

    def _is_signed_and_fresh(self, exchange: Exchange) -> bool:
        query = parse_qs(exchange.query.decode("latin-1"))
        expires = query.get("Expires", [""])[0]
        signature = query.get("Signature", [""])[0]
        if not expires.isdecimal():
            return False
        wanted = sign(self._state, exchange.path, int(expires))
        fresh = self._state.clock.now() * 1000 < int(expires)
        return fresh and hmac.compare_digest(signature.encode(), wanted.encode())

    async def _image(self, task: GenerationTask, number: int) -> Answer:
        settings, plan = self._state.settings, task.plan
        if settings.image_bytes is not None:
            body = self._sized_jpeg(settings.image_bytes).marked(f"{task.task_id} #{number}")
            kind = "image/jpeg"
        else:
            kind = media_type(self._state, task)
            drawn = pictures.size_for(task.task_id, settings.image_edge)
            size = (plan.width or drawn[0], plan.height or drawn[1])
            body = await asyncio.to_thread(pictures.draw, task.task_id, number, kind, size)
        return Answer(body, media_type=plan.content_type or kind)

    def _sized_jpeg(self, size: int) -> pictures.SizedJpeg:
        if size not in self._sized_jpegs:
            self._sized_jpegs[size] = pictures.SizedJpeg(size)
        return self._sized_jpegs[size]
