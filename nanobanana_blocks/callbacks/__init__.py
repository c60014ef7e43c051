"""Receives the service's callbacks and turns each into one Prefect event; it lands nothing.

A callback is a hint: it is authenticated by an unguessable token in its path, committed to a spool
on disk, acknowledged, and then forwarded. Whoever acts on the event asks record-info first.

Example:
    Give the service an address when submitting, and receive in a service of your own:
    ```python
    from contextlib import asynccontextmanager

    from fastapi import FastAPI
    from nanobanana_blocks.callbacks import callback_url, make_app

    receiver = make_app(secret)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        async with receiver.running():  # mounted applications are not started by themselves
            yield

    service = FastAPI(lifespan=lifespan)
    service.mount("/nanobanana", receiver)

    url = callback_url("https://images.example.com/nanobanana", secret, job_key="row-17")
    ```
"""

from nanobanana_blocks.callbacks.receiver import CallbackReceiver, make_app
from nanobanana_blocks.callbacks.server import (
    SECRET_VARIABLE,
    ReceiverStartError,
    callback_secret,
    serve_callbacks,
)
from nanobanana_blocks.callbacks.sinks import Consumer, Delivery, Sink, SinkDown
from nanobanana_blocks.callbacks.spool import (
    ReceivedCallback,
    Spooled,
    SpoolError,
    default_spool_path,
)
from nanobanana_blocks.callbacks.tokens import (
    VerifiedToken,
    callback_token,
    callback_url,
    check_job_key,
    check_secret,
    verify_callback_token,
)

__all__ = [
    "SECRET_VARIABLE",
    "CallbackReceiver",
    "Consumer",
    "Delivery",
    "ReceivedCallback",
    "ReceiverStartError",
    "Sink",
    "SinkDown",
    "SpoolError",
    "Spooled",
    "VerifiedToken",
    "callback_secret",
    "callback_token",
    "callback_url",
    "check_job_key",
    "check_secret",
    "default_spool_path",
    "make_app",
    "serve_callbacks",
    "verify_callback_token",
]
