"""A process that was stopped for longer than its limits still reads the answers it was given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from nanobanana_blocks.sandbox import Fault, Sandbox
from tests.support.until import block_until

SUBMITS = """
import asyncio
import sys

from nanobanana_blocks.api.client import NanoBananaClient
from nanobanana_blocks.api.requests import GenerateRequest


async def main() -> None:
    base_url, key, seconds = sys.argv[1:]
    async with NanoBananaClient(key, base_url, submit_timeout=float(seconds)) as client:
        print(await client.submit(GenerateRequest(prompt="a fox")))


asyncio.run(main())
"""
LIMIT_SECONDS = 3.0


def test_the_answer_to_a_submit_is_read_after_a_stop(sandbox: Sandbox) -> None:
    """Rule: what lies in the socket is read before a deadline is believed, so no row is in doubt.

    The stop is longer than the submit's limit, and the answer comes in the midst of it.
    """
    sandbox.add_fault(Fault(kind="latency", on="submit", seconds=1, takes_effect=True))
    command = [sys.executable, "-c", SUBMITS, sandbox.base_url, sandbox.api_key, str(LIMIT_SECONDS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        submit = block_until(sandbox.submits)[0]
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(LIMIT_SECONDS + 2)  # what is tested: the limit passes while the process stands
        os.kill(process.pid, signal.SIGCONT)
        stdout, stderr = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0, stderr.decode()
    assert stdout.decode().strip() == submit.task_id
