"""An S3 service on this machine that answers each request so much later, filled from a folder.

It is moto, behind a proxy that holds back what clients send. Its process prints its address.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import ending, start
from benchmarks.slow_proxy import listen

BUCKET = "bucket"


@contextmanager
def slow_s3(folder: Path, latency: float) -> Iterator[dict[str, Any]]:
    """Serve a copy of a folder's files for as long as the block lasts; give the storage options."""
    process = start(__name__, [str(folder), latency])
    with ending(process):
        assert process.stdout
        line = next((line for line in process.stdout if line.startswith("http://")), None)
        if line is None:
            raise RuntimeError("the S3 service did not start")
        yield {
            "key": "AKIAEXAMPLE",
            "secret": "s3cr3t-access-key",
            "client_kwargs": {"endpoint_url": line.strip()},
        }


def fill(folder: Path) -> None:
    """Put every file of a folder into the bucket, without a request for each."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    storage = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    storage.create_bucket(BUCKET, "us-east-1")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.put_object(BUCKET, str(path.relative_to(folder)), path.read_bytes())


async def serve(port: int, latency: float) -> None:
    """Stand before the service, and tell where."""
    server, own_port = await listen(port, latency)
    print(f"http://127.0.0.1:{own_port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    source, seconds = json.loads(sys.argv[1])
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    fill(Path(source))
    asyncio.run(serve(moto.get_host_and_port()[1], seconds))
