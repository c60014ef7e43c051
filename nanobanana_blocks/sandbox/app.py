"""The sandbox as an ASGI application: which path belongs to which part of it.

Serving it on a socket is another module's work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanobanana_blocks.sandbox import uploads
from nanobanana_blocks.sandbox.api import Api
from nanobanana_blocks.sandbox.callbacks import CallbackPoster
from nanobanana_blocks.sandbox.control import Control
from nanobanana_blocks.sandbox.envelopes import spring_error
from nanobanana_blocks.sandbox.exchange import Answer, Exchange
from nanobanana_blocks.sandbox.faults import Closing, ServerClosingError
from nanobanana_blocks.sandbox.image_host import ImageHost
from nanobanana_blocks.sandbox.state import SandboxState

if TYPE_CHECKING:
    from nanobanana_blocks.sandbox.exchange import Receive, Scope, Send
    from nanobanana_blocks.sandbox.settings import SandboxSettings


class SandboxApp:
    """API, image host and control together, over one memory.

    `base_url` is how clients reach this server; image URLs begin with it.
    """

    def __init__(self, settings: SandboxSettings, base_url: str) -> None:
        self._state = SandboxState(settings, base_url)
        self._closing = Closing()
        self._poster = CallbackPoster(self._state)
        self._api = Api(self._state, self._poster, self._closing)
        self._image_host = ImageHost(self._state, self._closing)
        self._control = Control(self._state, self._poster)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(Exchange(scope, receive, send))

    def begin_closing(self) -> None:
        """End delayed answers early; called in the event loop when the server is to stop."""
        self._closing.begin()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._poster.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._poster.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, exchange: Exchange) -> None:
        path = exchange.path
        if path == "/sandbox" or path.startswith("/sandbox/"):
            await exchange.answer(await self._control.answer(exchange))
            return
        exchange.opens_to_browsers = bool(exchange.header(b"origin"))
        if exchange.method == "OPTIONS" and exchange.header(b"access-control-request-method"):
            await exchange.answer_preflight()
            return
        counts = self._state.counts
        counts.in_flight += 1
        counts.peak_in_flight = max(counts.peak_in_flight, counts.in_flight)
        try:
            if self._api.has(path):
                await self._api.serve(exchange)
            elif path.startswith(uploads.FILES):
                await uploads.serve(self._state, exchange)
            elif path.startswith("/files/"):
                await self._image_host.serve(exchange)
            else:
                counts.requests["unknown"] += 1
                await exchange.answer(Answer(spring_error(404, path), 404))
        except ServerClosingError:
            await exchange.drop()
        finally:
            counts.in_flight -= 1
