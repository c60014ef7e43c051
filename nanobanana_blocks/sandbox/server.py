"""Runs a sandbox on a socket, and controls one that runs anywhere.

`SandboxControl` speaks to the control interface over HTTP; `Sandbox` is the same with a server
of its own in a background thread; `serve` is the command line's way to run one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from typing import TYPE_CHECKING, Any, Literal

import httpx
import typer
import uvicorn

from nanobanana_blocks.errors import NanoBananaError
from nanobanana_blocks.sandbox.app import SandboxApp
from nanobanana_blocks.sandbox.exchange import BreakableProtocol
from nanobanana_blocks.sandbox.settings import (
    DEFAULT_API_KEY,
    SUBMITS,
    Fault,
    SandboxSettings,
    SandboxStats,
    Submit,
    TaskPlan,
)
from nanobanana_blocks.signals import wait_for_stop_signal
from nanobanana_blocks.sockets import address_of, listen
from nanobanana_blocks.tls import trusted_authorities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

DEFAULT_PORT = 8378
START_SECONDS = 30.0
CONTROL_TIMEOUT_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 75

Method = Literal["GET", "POST", "PATCH", "DELETE"]


class SandboxStartError(NanoBananaError):
    """The sandbox cannot listen where it was told to; the message says why."""


class SandboxControlError(NanoBananaError):
    """The sandbox did not do what its control interface was asked; the message says why."""


class SandboxControl:
    """Tells a running sandbox what to do. Every call is one small, blocking HTTP request.

    `base_url` is the sandbox's address without a path; `api_key` is its key.
    Every method raises `SandboxControlError` when the sandbox refuses, and an
    `httpx.TransportError` when it cannot be reached.
    """

    def __init__(self, base_url: str, api_key: str = DEFAULT_API_KEY) -> None:
        self.base_url = base_url.rstrip("/")
        self.api_key = api_key
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=CONTROL_TIMEOUT_SECONDS,
            trust_env=False,
            verify=trusted_authorities(),
        )

    @property
    def control_url(self) -> str:
        """Where the control interface is, for people with curl."""
        return f"{self.base_url}/sandbox"

    def add_task(self, plan: TaskPlan | None = None) -> str:
        """Begin a generation task at no cost and return its id."""
        return self.add_tasks([plan or TaskPlan()])[0]

    def add_tasks(self, plans: Sequence[TaskPlan]) -> list[str]:
        """Begin many generation tasks in one request and return their ids in order."""
        tasks = [plan.model_dump(mode="json", exclude_unset=True) for plan in plans]
        answer = self._ask("POST", "tasks", {"tasks": tasks})
        return list(answer.json()["task_ids"])

    def add_fault(self, fault: Fault) -> None:
        """Arm a fault behind those that are armed already."""
        self._ask("POST", "faults", fault.model_dump(mode="json", exclude_unset=True))

    def clear_faults(self) -> None:
        """Disarm every fault."""
        self._ask("DELETE", "faults")

    def configure(self, **changes: Any) -> None:
        """Change some of the `SandboxSettings` from now on."""
        checked = SandboxSettings(**changes)
        self._ask("PATCH", "settings", checked.model_dump(mode="json", exclude_unset=True))

    def advance(self, seconds: float) -> None:
        """Move the sandbox's clock forward, so that nobody has to wait."""
        self._ask("POST", "advance", {"seconds": seconds})

    def reset(self) -> None:
        """Forget all tasks, faults, counts and changed settings."""
        self._ask("POST", "reset")

    def stats(self) -> SandboxStats:
        """What the sandbox has seen since it started or was reset."""
        return SandboxStats.model_validate_json(self._ask("GET", "stats").content)

    def submits(self) -> list[Submit]:
        """The requests that came to the submit endpoints, in order."""
        return SUBMITS.validate_json(self._ask("GET", "submits").content)

    def close(self) -> None:
        """Close the connection to the sandbox."""
        self._http.close()

    def _ask(self, method: Method, action: str, body: object = None) -> httpx.Response:
        response = self._http.request(method, f"/sandbox/{action}", json=body)
        if response.status_code != 200:
            raise SandboxControlError(
                f"the sandbox refused {method} /sandbox/{action}: {response.text[:2000]}"
            )
        return response


class Sandbox(SandboxControl):
    """A sandbox that serves from a background thread for as long as the `with` block lasts.

    ```python
    with Sandbox() as sandbox:
        task_id = sandbox.add_task(TaskPlan(seconds=0.1))
        # point a client at sandbox.base_url with sandbox.api_key
    ```

    Port 0 takes any free port. Raises `SandboxStartError` when the port is taken, or when
    `host` is not a loopback address and `allow_remote` is false.
    """

    def __init__(
        self,
        settings: SandboxSettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
    ) -> None:
        settings = settings or SandboxSettings()
        self._socket = _listen(host, port, allow_remote=allow_remote)
        super().__init__(address_of(self._socket), settings.api_key)
        self._app = SandboxApp(settings, settings.public_url or self.base_url)
        config = uvicorn.Config(
            self._app,
            http=BreakableProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nanobanana-sandbox", daemon=True)

    def __enter__(self) -> Sandbox:
        self._thread.start()
        if not self._serving.wait(START_SECONDS):
            raise SandboxStartError(f"the sandbox did not start within {START_SECONDS:g} s")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._server.should_exit = True
        if self._loop is not None:
            # The loop may have ended by itself a moment ago.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._app.begin_closing)
        self._thread.join(START_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._serving.set)
        await self._server.serve(sockets=[self._socket])


def serve(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    settings: SandboxSettings | None = None,
    allow_remote: bool = False,
    announce: Callable[[str], object] = typer.echo,
) -> None:
    """Serve a sandbox until SIGINT or SIGTERM; call it from the main thread.

    What it is and how to reach it goes to `announce`, a line at a time.
    Raises `SandboxStartError` as `Sandbox` does.
    """
    with Sandbox(settings, host=host, port=port, allow_remote=allow_remote) as sandbox:
        public_url = settings.public_url if settings else None
        for line in _greeting(sandbox, public_url or sandbox.base_url):
            announce(line)
        wait_for_stop_signal()
    announce("The sandbox has stopped.")


def _greeting(sandbox: Sandbox, base_url: str) -> list[str]:
    return [
        "NanoBanana sandbox: a local stand-in for the API and its image host.",
        "No credits are spent here, and nothing is stored.",
        f"  export NANOBANANA_BASE_URL={base_url}",
        f"  export NANOBANANA_API_KEY={sandbox.api_key}",
        "Try it:",
        f'  curl -H "Authorization: Bearer {sandbox.api_key}" {base_url}/api/v1/common/credit',
        f"What it can be told to do: curl {sandbox.control_url}",
        "Press Ctrl-C to stop.",
    ]


def _listen(host: str, port: int, *, allow_remote: bool) -> socket.socket:
    if not allow_remote and not _is_loopback(host):
        raise SandboxStartError(
            f"the sandbox does not listen on {host!r}, which other machines can reach; "
            "use 127.0.0.1, or allow remote access explicitly"
        )
    return listen(host, port, SandboxStartError)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
