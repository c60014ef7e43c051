"""The callback receiver as an ASGI application; what comes of a callback is decided elsewhere.

A callback is acknowledged once it is committed to the spool, which takes milliseconds and asks
nobody else. Where it cannot be committed the answer is 503, and the service tries again. Killing
the process at any moment therefore loses nothing that was acknowledged.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import anyio
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nanobanana_blocks.api.callback_bodies import read_callback
from nanobanana_blocks.api.details import check_task_id
from nanobanana_blocks.callbacks.sinks import Consumer, ConsumerCalls, Forwarder, Sink
from nanobanana_blocks.callbacks.spool import (
    KEPT_DAYS,
    ReceivedCallback,
    Spool,
    SpoolError,
    Verdict,
    default_spool_path,
)
from nanobanana_blocks.callbacks.tokens import check_secret, is_signed, verify_callback_token
from nanobanana_blocks.errors import InvalidInput, ProtocolError

MAX_BODY_BYTES = 64 * 1024
ANSWER_SECONDS = 10.0
"""The service gives up after 15 s (documented)."""
DRAIN_SECONDS = 3.0
PRUNE_EVERY_SECONDS = 3600.0

_JSON_TYPE = re.compile(r"application/json\s*(;.*)?", re.IGNORECASE)

logger = logging.getLogger(__name__)


class Refusal(Exception):
    """Raised, within this module only, when a request is not acknowledged; its text says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class CallbackReceiver:
    """An ASGI application that takes callbacks; `make_app` makes one.

    It serves `POST /callbacks/{token}` and `GET /health` between the start and the end of its
    lifespan. Frameworks do not start applications that are mounted in others: enter `running()` in
    the lifespan of the outer one. Outside of it every callback is answered with 503.
    """

    def __init__(
        self,
        secret: str | SecretStr,
        spool: Spool,
        sinks: list[Sink],
        webhook_key: SecretStr | None,
    ) -> None:
        self._secret = secret
        self._spool = spool
        self._webhook_key = webhook_key
        self._sinks = sinks
        self._forwarders: list[Forwarder] = []
        self._received = 0
        self._duplicates = 0
        self._routes = Starlette(
            routes=[
                Route("/callbacks/{token}", self._take, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
            ],
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._routes(scope, receive, send)

    @property
    def sinks(self) -> Sequence[Sink]:
        """Where accepted callbacks are forwarded to."""
        return self._sinks

    @property
    def spool_path(self) -> Path:
        """Where accepted callbacks are kept."""
        return self._spool.path

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the spool open and forward from it; at the end, try a last time for 3 s.

        Raises:
            SpoolError: The spool cannot be opened, or another receiver has it.
        """
        await self._spool.open()
        self._forwarders = [Forwarder(self._spool, sink) for sink in self._sinks]
        forwarding = [asyncio.create_task(forwarder.run()) for forwarder in self._forwarders]
        pruning = asyncio.create_task(self._prune_now_and_then())
        try:
            yield
        finally:
            for forwarder in self._forwarders:
                forwarder.stop()
            if forwarding:
                await asyncio.wait(forwarding, timeout=DRAIN_SECONDS)
            for task in (*forwarding, pruning):
                task.cancel()
            await asyncio.gather(*forwarding, pruning, return_exceptions=True)
            await self._spool.close()

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with self.running():
            yield

    async def _prune_now_and_then(self) -> None:
        while True:
            with suppress(SpoolError):
                await self._spool.prune(_now())
            await asyncio.sleep(PRUNE_EVERY_SECONDS)

    async def _take(self, request: Request) -> Response:
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                await self._accept(request)
        except Refusal as refusal:
            return _refused(refusal.status, str(refusal))
        except ClientDisconnect:
            return _refused(400, "the connection ended early")
        except SpoolError as error:
            # What it says names a path of this machine, which is nobody else's business.
            return _refused(503, "it cannot be kept at the moment", detail=error.message)
        except TimeoutError:
            return _refused(503, f"it was not here and committed within {ANSWER_SECONDS:g} s")
        return JSONResponse({"status": "received"})

    async def _accept(self, request: Request) -> None:
        token = verify_callback_token(self._secret, request.path_params["token"])
        if token is None:
            raise Refusal(404, "its token is not one of this receiver's")
        callback = _read(await _body(request), token.job_key)
        signed_at = self._signature_time(request, callback.task_id)
        verdict = await self._spool.add(callback, signed_at=signed_at)
        if verdict is Verdict.REPLAYED:
            raise Refusal(401, "its signature has vouched for another outcome before")
        self._received += 1
        if verdict is not Verdict.NEW:
            self._duplicates += 1
        if verdict is Verdict.REPEATED:
            return
        for forwarder in self._forwarders:
            forwarder.wake()

    def _signature_time(self, request: Request, task_id: str) -> int | None:
        if self._webhook_key is None:
            return None
        key = self._webhook_key.get_secret_value().encode()
        timestamp = request.headers.get("x-webhook-timestamp")
        signature = request.headers.get("x-webhook-signature")
        if timestamp and is_signed(key, task_id, timestamp, signature, now=time.time()):
            return int(timestamp)
        raise Refusal(401, "its signature is missing, wrong or older than 5 minutes")

    async def _health(self, _request: Request) -> Response:
        counts = {"received": self._received, "duplicates": self._duplicates}
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                backlog = await self._spool.backlog(_now())
        except (SpoolError, TimeoutError):
            return JSONResponse({"status": "spool not writable", **counts}, 503)
        return JSONResponse(
            {
                "status": "ok",
                **counts,
                "waiting": backlog.waiting,
                "oldest_waiting_seconds": round(backlog.oldest_seconds, 3),
            }
        )


def make_app(
    secret: str | SecretStr,
    *,
    spool: str | Path | None = None,
    webhook_key: str | SecretStr | None = None,
    consumer: Consumer | None = None,
    kept_days: float = KEPT_DAYS,
    sinks: Sequence[Sink] | None = None,
) -> CallbackReceiver:
    """Make the receiver, to be served by any ASGI server or mounted in another application.

    Args:
        secret: What its addresses are derived from; see `callback_url`.
        spool: The SQLite file for accepted callbacks, by default in the user's state folder. One
            receiver at a time may have it.
        webhook_key: Where given, callbacks must be signed with it as the provider documents for
            its sister products; for this API signatures are not documented. A signature that is
            repeated with the same outcome is acknowledged as a repeat, with another it is refused.
        consumer: Called with each distinct callback at least once, besides the Prefect event; also,
            at growing intervals, with what is repeated later than 10 s.
        kept_days: How many days repeats are recognised for after a callback was forwarded.
        sinks: Where callbacks go, instead of to Prefect's events; with sinks of one's own, no
            Prefect need be installed.

    Raises:
        InvalidInput: The secret or the webhook key is too short.
    """
    check_secret(secret)
    sinks = [_prefect_events()] if sinks is None else list(sinks)
    if consumer is not None:
        sinks.append(ConsumerCalls(consumer))
    path = Path(spool).expanduser() if spool is not None else default_spool_path()
    return CallbackReceiver(
        secret,
        Spool(path, [sink.name for sink in sinks], kept_days=kept_days),
        sinks,
        _check_webhook_key(webhook_key),
    )


def _prefect_events() -> Sink:
    """The default sink, found by name: what needs Prefect is not imported by this package."""
    module = importlib.import_module("nanobanana_blocks.orchestration.callback_events")
    sink: Sink = module.PrefectEvents()
    return sink


def _check_webhook_key(key: str | SecretStr | None) -> SecretStr | None:
    if key is None:
        return None
    text = (key.get_secret_value() if isinstance(key, SecretStr) else key).strip()
    if not text:
        raise InvalidInput("the webhook key is blank: leave it out where callbacks are not signed")
    return SecretStr(text)


async def _body(request: Request) -> bytes:
    if not _JSON_TYPE.fullmatch(request.headers.get("content-type", "").strip()):
        raise Refusal(415, "it is not application/json")
    body = bytearray()
    if _declared_length(request) <= MAX_BODY_BYTES:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                break
        else:
            return bytes(body)
    raise Refusal(413, f"it is larger than {MAX_BODY_BYTES} bytes")


def _declared_length(request: Request) -> int:
    length = request.headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 0


def _read(body: bytes, job_key: str | None) -> ReceivedCallback:
    try:
        details = read_callback(body)
        task_id = check_task_id(details.task_id)
    except (ProtocolError, InvalidInput, RecursionError):
        # What the error says may quote the body, which is not to be logged.
        raise Refusal(400, "it is not a callback in a documented shape") from None
    return ReceivedCallback(
        task_id=task_id,
        status=details.status,
        received_at=_now(),
        error_code=details.error_code,
        error_message=details.error_message,
        job_key=job_key,
    )


def _refused(status: int, reason: str, *, detail: str = "") -> Response:
    """Refuse a callback with a `reason` for its sender; `detail` is for this machine's log."""
    logger.warning("A callback was refused (%d): %s.", status, detail or reason)
    if status == 404:
        # Word for word what Starlette answers for any unknown path.
        return PlainTextResponse("Not Found", 404)
    headers = {"Retry-After": "10"} if status == 503 else None
    return JSONResponse({"status": "refused", "reason": reason}, status, headers=headers)


def _now() -> datetime:
    return datetime.now(UTC)
