"""The control interface: what tests, benchmarks and people ask of a sandbox over HTTP.

It is no part of the service's API; nothing asked here is counted or delayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nanobanana_blocks.sandbox.envelopes import encode
from nanobanana_blocks.sandbox.exchange import Answer
from nanobanana_blocks.sandbox.settings import SUBMITS, Fault, SandboxSettings, TaskPlan
from nanobanana_blocks.sandbox.state import UnusableTaskIdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanobanana_blocks.sandbox.callbacks import CallbackPoster
    from nanobanana_blocks.sandbox.exchange import Exchange
    from nanobanana_blocks.sandbox.state import SandboxState

MAX_BODY_BYTES = 256 * 1024 * 1024
GUIDE = {
    "what": "A local stand-in for the NanoBanana API. No credits are spent here.",
    "authorization": "Bearer <the sandbox's key>, here as on the API",
    "control": {
        "POST /sandbox/tasks": 'begin tasks at no cost: {"tasks": [{"seconds": 1}]}',
        "POST /sandbox/faults": 'arm a fault: {"kind": "http-status", "status": 503, "count": 2}',
        "DELETE /sandbox/faults": "disarm every fault",
        "PATCH /sandbox/settings": 'change settings: {"speed": 20}',
        "POST /sandbox/advance": 'move the clock forward: {"seconds": 600}',
        "POST /sandbox/reset": "forget everything",
        "GET /sandbox/stats": "what was seen",
        "GET /sandbox/submits": "the submitted requests",
    },
}
CHANGES = TypeAdapter(dict[str, Any])


class _Tasks(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tasks: list[TaskPlan]


class _Advance(BaseModel):
    model_config = ConfigDict(extra="forbid")
    seconds: float = Field(ge=0)


class Control:
    """Carries out control requests on one `SandboxState`."""

    def __init__(self, state: SandboxState, poster: CallbackPoster) -> None:
        self._state = state
        self._poster = poster

    async def answer(self, exchange: Exchange) -> Answer:
        """The answer to one request under `/sandbox`."""
        action = exchange.path.removeprefix("/sandbox").strip("/")
        if action == "":
            return Answer(encode(GUIDE))
        if not exchange.bears(self._state.settings.api_key):
            return _error(401, "The control interface wants the sandbox's key.")
        actions: dict[tuple[str, str], Callable[[bytes], Answer]] = {
            ("POST", "tasks"): self._add_tasks,
            ("POST", "faults"): self._add_fault,
            ("DELETE", "faults"): self._clear_faults,
            ("PATCH", "settings"): self._configure,
            ("POST", "advance"): self._advance,
            ("POST", "reset"): self._reset,
            ("GET", "stats"): self._stats,
            ("GET", "submits"): self._submits,
        }
        act = actions.get((exchange.method, action))
        if act is None:
            return _error(404, "GET /sandbox lists what there is.")
        try:
            return act(await exchange.read_body(MAX_BODY_BYTES))
        except (ValidationError, UnusableTaskIdError) as error:
            return _error(422, str(error))

    def _add_tasks(self, body: bytes) -> Answer:
        tasks = self._state.register(_Tasks.model_validate_json(body).tasks)
        for task in tasks:
            self._poster.expect(task)
        return Answer(encode({"task_ids": [task.task_id for task in tasks]}))

    def _add_fault(self, body: bytes) -> Answer:
        self._state.add_fault(Fault.model_validate_json(body))
        return Answer(b"{}")

    def _clear_faults(self, _body: bytes) -> Answer:
        self._state.clear_faults()
        return Answer(b"{}")

    def _configure(self, body: bytes) -> Answer:
        current = self._state.settings.model_dump(mode="json", exclude_unset=True)
        changes = CHANGES.validate_json(body)
        if fixed := changes.keys() & {"api_key", "public_url"}:
            return _error(422, f"{sorted(fixed)} cannot change while the sandbox runs")
        self._state.configure(SandboxSettings.model_validate_json(encode(current | changes)))
        return Answer(b"{}")

    def _advance(self, body: bytes) -> Answer:
        self._state.clock.advance(_Advance.model_validate_json(body).seconds)
        self._poster.hurry()
        return Answer(encode({"now": self._state.clock.now()}))

    def _reset(self, _body: bytes) -> Answer:
        self._state.reset()
        self._poster.forget()
        return Answer(b"{}")

    def _stats(self, _body: bytes) -> Answer:
        return Answer(self._state.stats(self._poster.pending).model_dump_json().encode())

    def _submits(self, _body: bytes) -> Answer:
        return Answer(SUBMITS.dump_json(self._state.submits))


def _error(status: int, message: str) -> Answer:
    return Answer(encode({"error": message}), status)
