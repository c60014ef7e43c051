"""The API's endpoints, others by name, and jobs: who may ask, what is answered, what it costs.

The hot path (record-info) is a dictionary look-up and one cached body.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from nanobanana_blocks.sandbox import jobs, submits, uploads
from nanobanana_blocks.sandbox.envelopes import encode, job_info, record_info, refusal, spring_error
from nanobanana_blocks.sandbox.exchange import Answer, BodyTooLargeError
from nanobanana_blocks.sandbox.faults import Misbehaviour, endure
from nanobanana_blocks.sandbox.references import ReferenceFetcher
from nanobanana_blocks.sandbox.settings import Submit

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanobanana_blocks.sandbox.callbacks import CallbackPoster
    from nanobanana_blocks.sandbox.exchange import Exchange
    from nanobanana_blocks.sandbox.faults import Closing
    from nanobanana_blocks.sandbox.state import GenerationTask, SandboxState

API = "/api/v1/nanobanana/"
MAX_UPLOAD_BYTES = 100_000_000
ROUTES = {
    f"{API}record-info": ("record-info", "GET"),
    f"{API}generate": ("generate", "POST"),
    f"{API}generate-pro": ("generate-pro", "POST"),
    f"{API}generate-2": ("generate-2", "POST"),
    "/api/v1/common/credit": ("credit", "GET"),
    jobs.CREATE_PATH: (jobs.CREATE, "POST"),
    jobs.TELL_PATH: ("record-info", "GET"),
    jobs.CREDIT_PATH: ("credit", "GET"),
    uploads.UPLOAD_PATH: (uploads.UPLOAD, "POST"),
}


class Api:
    """Answers for the service's API, over one `SandboxState`."""

    def __init__(self, state: SandboxState, poster: CallbackPoster, closing: Closing) -> None:
        self._state = state
        self._poster = poster
        self._closing = closing
        self._references = ReferenceFetcher(state)

    def has(self, path: str) -> bool:
        """Whether a path is the API's."""
        return path in ROUTES or self._other(path) in self._state.settings.other_endpoints

    def _other(self, path: str) -> str:
        return path.removeprefix(API) if path.startswith(API) else ""

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request to a path that it has, or spoil the answer."""
        route, method = ROUTES.get(exchange.path) or (self._other(exchange.path), "POST")
        state = self._state
        state.counts.requests[route] += 1
        if exchange.method != method:
            await exchange.answer(Answer(spring_error(405, exchange.path), 405))
            return
        task_id = _task_id(exchange.query) if route == "record-info" else None
        if task_id:
            state.counts.looks[task_id] += 1
        struck = state.strike(route, task_id)
        early = any(fault.takes_effect for fault in struck)
        answer = await self._answer(exchange, route, task_id) if early else None
        fault = await endure(struck, self._closing.pause)
        if fault and fault.kind == "drop-kept-alive" and exchange.is_first_on_connection:
            fault = None
        if fault is None:
            await exchange.answer(answer or await self._answer(exchange, route, task_id))
            return
        await Misbehaviour(fault, exchange, self._closing.pause).happen()

    async def _answer(self, exchange: Exchange, route: str, task_id: str | None) -> Answer:
        if not exchange.bears(self._state.settings.api_key):
            return self._refuse(401, route=route)
        exceeded = self._state.over_limit(route)
        if exceeded is not None:
            limit, wait = exceeded
            after = (("retry-after", str(math.ceil(wait))),) if limit.retry_after else ()
            body = refusal(429, message_key=_message_key(route))
            return Answer(body, limit.status, headers=after)
        if route == "record-info":
            tell = job_info if exchange.path == jobs.TELL_PATH else record_info
            return self._record_info(task_id, tell)
        if route == "credit":
            return Answer(encode({"code": 200, "msg": "success", "data": self._balance()}))
        if route == uploads.UPLOAD:
            return await self._upload(exchange)
        return await self._submit(exchange, route)

    def _balance(self) -> int | float | str:
        left = self._state.credits_left
        match self._state.settings.credits_as:
            case "decimal":
                return left + 0.5
            case "decimal-text":
                return f"{left}.50"
            case _:
                return left

    def _refuse(self, code: int, message: str | None = None, *, route: str = "") -> Answer:
        status = code if self._state.settings.refusals_as_http_status else 200
        return Answer(refusal(code, message, message_key=_message_key(route)), status)

    def _record_info(
        self, task_id: str | None, tell: Callable[[SandboxState, GenerationTask], bytes]
    ) -> Answer:
        if not task_id or not task_id.strip():
            return self._refuse(400)
        state = self._state
        task = state.tasks.get(task_id)
        if task is None or state.clock.now() < task.created_at + task.plan.invisible_seconds:
            unknown = state.settings.unknown_task
            if unknown == "null":
                return Answer(encode({"code": 200, "msg": "success", "data": None}))
            return self._refuse(int(unknown))
        return Answer(tell(state, task))

    async def _submit(self, exchange: Exchange, endpoint: str) -> Answer:
        body: Any = None
        try:
            raw = await exchange.read_body(self._state.settings.max_body_bytes)
            body = _json(raw)
            if endpoint == jobs.CREATE:
                endpoint, body = jobs.read_submit(body, self._state.settings.other_endpoints)
            submits.judge(endpoint, body)
            if self._state.settings.fetch_references:
                await self._references.fetch(body)
        except BodyTooLargeError:
            return self._refuse_submit(endpoint, None, 413)
        except submits.RefusedSubmitError as refused:
            return self._refuse_submit(endpoint, body, refused.code, str(refused))
        others = self._state.settings.other_endpoints
        cost = others[endpoint] if endpoint in others else submits.price(endpoint, body)
        if cost > self._state.credits_left:
            return self._refuse_submit(endpoint, body, 402)
        return self._accept_submit(endpoint, body, cost, is_job=exchange.path == jobs.CREATE_PATH)

    async def _upload(self, exchange: Exchange) -> Answer:
        try:
            body = await exchange.read_body(MAX_UPLOAD_BYTES)
            kept = uploads.keep(self._state, exchange.header(b"content-type"), body)
        except BodyTooLargeError:
            return self._refuse(413)
        except submits.RefusedSubmitError as refused:
            return self._refuse(refused.code, str(refused))
        return Answer(encode({"success": True, "code": 200, "msg": "success", "data": kept}))

    def _refuse_submit(
        self, endpoint: str, body: Any, code: int, message: str | None = None
    ) -> Answer:
        self._state.submits.append(
            Submit(endpoint=endpoint, body=body, code=code, task_id=None, credits=0)
        )
        return self._refuse(code, message, route=endpoint)

    def _accept_submit(
        self, endpoint: str, body: dict[str, Any], cost: int, *, is_job: bool
    ) -> Answer:
        state = self._state
        template, edge = state.settings.submitted_task, state.settings.image_edge
        plan = submits.plan_for(endpoint, body, template, edge)
        if is_job:
            plan = plan.model_copy(update={"callback_shape": "job"})
        if any(word in plan.prompt for word in state.settings.flagged_words):
            plan = submits.flagged(plan)
        task = state.begin(plan, body, submits.operation_type(endpoint, body))
        state.credits_spent += cost
        state.submits.append(
            Submit(endpoint=endpoint, body=body, code=200, task_id=task.task_id, credits=cost)
        )
        self._poster.expect(task)
        key = _message_key(endpoint)
        return Answer(encode({"code": 200, key: "success", "data": {"taskId": task.task_id}}))


def _message_key(route: str) -> str:
    return "message" if route == "generate-pro" else "msg"


def _task_id(query: bytes) -> str:
    if query.startswith(b"taskId=") and query[7:].isalnum():
        return query[7:].decode()
    return parse_qs(query.decode("latin-1")).get("taskId", [""])[0]


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        raise submits.RefusedSubmitError(400, "The request body is not JSON") from None
