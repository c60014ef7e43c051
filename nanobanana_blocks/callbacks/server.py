"""Serves a callback receiver on a socket of its own; what the receiver does is not decided here."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import typer
import uvicorn
from pydantic import SecretStr

from nanobanana_blocks.addresses import is_private_host
from nanobanana_blocks.callbacks.receiver import ANSWER_SECONDS, CallbackReceiver, make_app
from nanobanana_blocks.callbacks.sinks import Consumer
from nanobanana_blocks.callbacks.tokens import callback_url
from nanobanana_blocks.errors import MissingCredentials, NanoBananaError
from nanobanana_blocks.signals import handling_stop_signals
from nanobanana_blocks.sockets import address_of, listen

DEFAULT_PORT = 8379
SECRET_VARIABLE = "NANOBANANA_CALLBACK_SECRET"  # noqa: S105  # a name, not a secret


class ReceiverStartError(NanoBananaError):
    """Raised when the receiver cannot listen where it was told to; the message says why."""


class HoldsCallbackSecret(Protocol):
    """Such as a `NanoBananaCredentials` block."""

    @property
    def callback_secret(self) -> SecretStr:
        """The secret; blank where there is none."""


def serve_callbacks(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    public_url: str | None = None,
    secret: SecretStr | None = None,
    job_key: str | None = None,
    spool: Path | None = None,
    webhook_key: SecretStr | None = None,
    consumer: Consumer | None = None,
    announce: Callable[[str], object] = typer.echo,
) -> None:
    """Receive callbacks until SIGINT or SIGTERM; call it from the main thread.

    At the end, requests in flight are answered and a last attempt to forward is made.

    Args:
        host: The address to listen on; a reverse proxy with HTTPS belongs in front.
        port: The port to listen on; 0 takes a free one.
        public_url: How the service reaches this receiver; without it, the address printed is only
            good on this machine.
        secret: The callback secret; absent, `NANOBANANA_CALLBACK_SECRET` is taken.
        job_key: Print the address bound to this job key.
        spool: See `make_app`, as for `webhook_key` and `consumer`.
        announce: Gets, a line at a time, the address for `callBackUrl`, where the spool is and
            where events go.

    Raises:
        InvalidInput: The secret, the public URL or another parameter cannot be used.
        MissingCredentials: There is no secret.
        ReceiverStartError: The address is taken or is not this machine's.
        SpoolError: The spool cannot be opened, or another receiver has it.
    """
    secret = secret or callback_secret()
    receiver = make_app(secret, spool=spool, webhook_key=webhook_key, consumer=consumer)
    with listen(host, port, ReceiverStartError) as listener:
        url = callback_url(public_url or address_of(listener), secret, job_key)
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("nanobanana_blocks").setLevel(logging.INFO)
        server = uvicorn.Server(_configuration(receiver))
        # uvicorn listens to signals only while it serves, and raises them once more when it has
        # stopped, although there is still something to forward.
        with handling_stop_signals(lambda: setattr(server, "should_exit", True)):
            asyncio.run(
                _serve(
                    receiver, server, listener, lambda: _greet(url, receiver, public_url, announce)
                )
            )
    announce("The callback receiver has stopped.")


def callback_secret(credentials: HoldsCallbackSecret | None = None) -> SecretStr:
    """The callback secret of a credentials block, or else of `NANOBANANA_CALLBACK_SECRET`.

    Raises:
        MissingCredentials: There is neither; the message says how to make one.
    """
    if credentials is not None and credentials.callback_secret.get_secret_value().strip():
        return credentials.callback_secret
    if secret := os.environ.get(SECRET_VARIABLE, "").strip():
        return SecretStr(secret)
    raise MissingCredentials(
        f"there is no callback secret: set {SECRET_VARIABLE} to the output of "
        "`openssl rand -hex 32`, or keep it in a NanoBananaCredentials block."
    )


def _configuration(receiver: CallbackReceiver) -> uvicorn.Config:
    return uvicorn.Config(
        receiver,
        lifespan="off",
        ws="none",
        log_config=None,
        # An access log would hold the address, which is the secret.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(ANSWER_SECONDS),
    )


async def _serve(
    receiver: CallbackReceiver,
    server: uvicorn.Server,
    listener: socket.socket,
    greet: Callable[[], None],
) -> None:
    async with receiver.running():
        greet()
        await server.serve(sockets=[listener])


def _greet(
    url: str,
    receiver: CallbackReceiver,
    public_url: str | None,
    announce: Callable[[str], object],
) -> None:
    announce("Receiving callbacks. Give this address as callBackUrl, and keep it private:")
    announce(f"  {url}")
    if public_url is None:
        announce("  (only from this machine; --public-url tells how the service reaches it)")
    elif urlsplit(url).scheme == "http" and not is_private_host(urlsplit(url).hostname or ""):
        announce("  (without https, anybody on the way can read it and forge callbacks)")
    announce(f"  spool: {receiver.spool_path}")
    for sink in receiver.sinks:
        announce(f"  {sink.name}: {sink.description}")
    announce("Press Ctrl-C to stop.")
