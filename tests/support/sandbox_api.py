"""What tests of the sandbox ask of its API and its image host, and an address for its callbacks."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from nanobanana_blocks.sandbox import TaskPlan
from tests.support.until import block_until

API = "/api/v1/nanobanana"
DONE = TaskPlan(seconds=0)
KEYLESS = httpx.Client(headers={"user-agent": "nanobanana-blocks-tests"}, trust_env=False)
PROMPT = {"prompt": "a banana", "type": "TEXTTOIAMGE", "callBackUrl": ""}


def envelope(api: httpx.Client, task_id: str) -> dict[str, Any]:
    """The record-info envelope of a task."""
    return dict(api.get(f"{API}/record-info", params={"taskId": task_id}).json())


def record(api: httpx.Client, task_id: str) -> dict[str, Any]:
    return dict(envelope(api, task_id)["data"])


def result_url(api: httpx.Client, task_id: str) -> str:
    return str(record(api, task_id)["response"]["resultImageUrl"])


def fetch(url: str, **options: Any) -> httpx.Response:
    """Get an image as a keyless client with a name."""
    return KEYLESS.get(url, **options)


def submit(api: httpx.Client, endpoint: str = "generate", **changes: Any) -> dict[str, Any]:
    body = (PROMPT if endpoint == "generate" else {"prompt": "a banana"}) | changes
    return dict(api.post(f"{API}/{endpoint}", json=body).json())


class Receiver(ThreadingHTTPServer):
    """A callback address on loopback that keeps what it gets and answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def ids(self) -> list[str]:
        return [body["data"]["taskId"] for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.server.bodies.append(json.loads(self.rfile.read(length)))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def wait_for_bodies(receiver: Receiver, number: int) -> None:
    block_until(lambda: len(receiver.bodies) == number)
