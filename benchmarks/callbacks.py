"""Measures the callback receiver on loopback, next to an application that only says "received".

Each server runs in a process of its own, pinned to one core where the platform can; this process
is the load: 50 connections, one callback in flight on each, over plain asyncio streams, as an HTTP
client would cost more than the servers. The receiver forwards nothing (PREFECT_API_URL is not
set), so that what is measured is acknowledgement and what it costs to keep 100,000 callbacks.

Run ``python -m benchmarks.callbacks``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.goals import at_least, at_most, begin
from benchmarks.processes import ROOT

CONNECTIONS = 50
STEADY_RATE = 300.0
SECRET = "a secret for benchmarks only"


class Load(NamedTuple):
    """What one round of callbacks gave; latencies in milliseconds."""

    callbacks: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        return self.callbacks / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.callbacks:>7,} callbacks  {self.rate:>7,.0f}/s  "
            f"p50 {self.p50:5.1f} ms  p99 {self.p99:5.1f} ms"
        )


class Served(NamedTuple):
    """A server under load."""

    process: psutil.Process
    url: str

    @property
    def megabytes(self) -> float:
        return float(self.process.memory_info().rss) / 1e6

    @property
    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def serve_receiver(folder: str) -> None:
    # Prefect takes seconds to import, and neither the load nor the bare application needs it.
    from pydantic import SecretStr

    from nanobanana_blocks.callbacks import serve_callbacks

    def announce(line: str) -> None:
        print(line, flush=True)

    serve_callbacks(
        port=0, secret=SecretStr(SECRET), spool=Path(folder) / "spool.sqlite", announce=announce
    )


def serve_bare() -> None:
    async def receive(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse({"status": "received"})

    app = Starlette(routes=[Route("/callbacks/{token}", receive, methods=["POST"])])
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(f"  http://127.0.0.1:{listener.getsockname()[1]}/callbacks/token", flush=True)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


@contextmanager
def server(kind: str, folder: Path) -> Iterator[Served]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment["PREFECT_HOME"] = str(folder)
    with (folder / f"{kind}.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.callbacks", "--serve", kind, str(folder)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert child.stdout
            lines = iter(child.stdout.readline, b"")
            url = next(
                found[0]
                for found in (re.search(r"http://127\S+/callbacks/\S+", x.decode()) for x in lines)
                if found
            )
            yield Served(psutil.Process(child.pid), url)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(20)


def callback(number: int) -> bytes:
    task_id = f"{number:032x}"
    url = f"https://tempfile.aiquickdraw.com/r/{task_id}_1756467493.jpg"
    data = {"taskId": task_id, "info": {"resultImageUrl": url}}
    return json.dumps({"msg": "Image generated successfully.", "code": 200, "data": data}).encode()


async def load(
    url: str, numbers: Iterator[int], callbacks: int, *, rate: float | None = None
) -> Load:
    """Send as fast as the answers come or, with a rate, evenly: then latencies count from when a
    callback was due, so that a stall is charged to all that it held up."""
    parts = urlsplit(url)
    latencies: list[float] = []
    left = iter(range(callbacks))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        for index in left:
            body = callback(next(numbers))
            sent = time.perf_counter()
            if rate:
                due = began + index / rate
                await asyncio.sleep(due - sent)
                sent = due
            writer.write(b"%s%d\r\n\r\n%s" % (head, len(body), body))
            answer = await reader.readuntil(b"}")
            latencies.append(time.perf_counter() - sent)
            assert answer.startswith(b"HTTP/1.1 200"), answer
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    seconds = time.perf_counter() - began
    latencies.sort()
    p50, p99 = (1000 * latencies[int(share * len(latencies))] for share in (0.5, 0.99))
    return Load(callbacks, seconds, p50, p99)


def measure(folder: Path, rounds: list[int]) -> None:
    with server("bare", folder) as bare:
        asyncio.run(load(bare.url, count(), rounds[0]))
        reference = asyncio.run(load(bare.url, count(), rounds[0]))
    print(f"bare application   {reference}")
    numbers, total = count(), 0
    with server("receiver", folder) as receiver:
        at_first = receiver.megabytes
        print(f"receiver           memory at start {receiver.megabytes:.1f} MB")
        for size in rounds:
            cpu = receiver.cpu_seconds
            found = asyncio.run(load(receiver.url, numbers, size))
            total += size
            cpu_each = 1e6 * (receiver.cpu_seconds - cpu) / size
            print(
                f"receiver           {found}  {cpu_each:4.0f} µs CPU each  "
                f"memory after {total:,}: {receiver.megabytes:.1f} MB"
            )
            print(
                f"                   {found.rate / reference.rate:.2f} of the bare rate, "
                f"{found.p99 / reference.p99:.1f} × its p99"
            )
        growth = receiver.megabytes - at_first
        steady = asyncio.run(load(receiver.url, numbers, 3 * rounds[0] // 10, rate=STEADY_RATE))
        repeated = asyncio.run(load(receiver.url, count(), rounds[0]))
    print(f"at a steady rate   {steady}")
    print(f"the same repeated  {repeated}")
    bare = f"{reference.rate:,.0f}/s, only answering"
    at_least("callbacks a second / a bare server's", found.rate / reference.rate, 0.4, plain=bare)
    at_most(f"memory that {total:,} callbacks add", growth, 20, " MB")


def pin_to(core: int) -> bool:
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return False
    os.sched_setaffinity(0, {core})
    return True


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        pin_to(1)
        _, _, kind, folder = sys.argv
        serve_bare() if kind == "bare" else serve_receiver(folder)
        return
    smoke = begin(__doc__, "1,000 callbacks").smoke
    cores = "a core each" if pin_to(0) else "cores not pinned"
    print(f"{CONNECTIONS} connections; server and load: {cores}")
    with tempfile.TemporaryDirectory(prefix="nanobanana-callbacks-") as temporary:
        measure(Path(temporary), [1_000] if smoke else [10_000, 90_000])


if __name__ == "__main__":
    main()
