"""Measures how soon callbacks get images landed, and what bad ones can do.

100 generation tasks are waited for by `land_images` under a real Prefect server, with
`PollPolicy.documented()` (a look every 30 s) as the safety net, so that what lands early was woken.
Callbacks go to a real receiver in a process of its own. *Lag* is from the moment that the service
is done until the image is in its folder.

In the second round every callback is delivered four times and shuffled, a fifth of the tasks get
none, and as many forged ones are mixed in: wrong tokens, and true tokens that lie about tasks that
are not done or not known.

Run ``python -m benchmarks.waking``; ``--smoke`` is a quick check that it works.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import httpx

from benchmarks.goals import at_most, begin, counts, holds
from benchmarks.prefect_server import prefect_server
from benchmarks.processes import ROOT, ending, measure
from benchmarks.sandbox_process import sandbox_process
from nanobanana_blocks.api.client import BASE_URL_VARIABLE, KEY_VARIABLE
from nanobanana_blocks.callbacks import SECRET_VARIABLE
from nanobanana_blocks.sandbox import SandboxControl, SandboxSettings, TaskPlan

START_SECONDS = 20.0
"""The first task is done so long after it was begun: the flow waits by then."""


@contextmanager
def receiver(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a callback receiver for as long as the block lasts; give its address."""
    command = [sys.executable, "-m", "nanobanana_blocks", "callbacks", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--spool", str(folder / "spool.db")],
        env={**environment, SECRET_VARIABLE: "a secret for this benchmark only"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    with ending(process):
        assert process.stdout
        address = next((line.strip() for line in process.stdout if "/callbacks/" in line), None)
        if address is None:
            raise RuntimeError("the receiver did not start")
        yield address


def run_flow(task_ids: list[str], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    return measure("benchmarks.woken_run", [task_ids, str(folder)], environment)


def report_on(sandbox: SandboxControl, task_ids: list[str], folder: Path) -> tuple[float, float]:
    """Print lags and looks; give the 95th percentile of the lags and the most looks at a task."""
    stats = sandbox.stats()
    lags = sorted(
        next(folder.glob(f"{task_id}.jpg")).stat().st_mtime - stats.done_at[task_id]
        for task_id in task_ids
    )
    p95 = lags[int(0.95 * (len(lags) - 1))]
    looks = [stats.looks[task_id] for task_id in task_ids]
    print(
        f"  lag p50 {lags[len(lags) // 2]:.2f} s, p95 {p95:.2f} s, most {lags[-1]:.2f} s; "
        f"looks mean {mean(looks):.2f}, most {max(looks)}"
    )
    return p95, max(looks)


def fair_round(
    tasks: int, sandbox: SandboxControl, address: str, folder: Path, environment: Mapping[str, str]
) -> None:
    print(f"\n{tasks} tasks, done 5 a second, each with its callback")
    task_ids = sandbox.add_tasks(
        [
            TaskPlan(task_id=f"fair-task-{n}x", seconds=START_SECONDS + n / 5, callback_url=address)
            for n in range(tasks)
        ]
    )
    landed = run_flow(task_ids, folder, environment)
    p95, looks = report_on(sandbox, task_ids, folder)
    counts("images landed", landed["landed"], tasks)
    at_most("lag p95", p95, 1.0, " s")
    at_most("looks at a task", looks, 2)


def foul_round(
    tasks: int, sandbox: SandboxControl, address: str, folder: Path, environment: Mapping[str, str]
) -> None:
    print(f"\n{tasks} tasks, callbacks four times each, shuffled, a fifth lost, a fifth forged")
    dice = random.Random(7)
    task_ids = sandbox.add_tasks(
        [TaskPlan(task_id=f"foul-task-{n}x", seconds=START_SECONDS) for n in range(tasks)]
    )
    never = sandbox.add_task(TaskPlan(task_id="foul-never", seconds=None))
    heard = dice.sample(task_ids, tasks * 4 // 5)
    true = [(address, task_id) for task_id in heard for _ in range(4)]
    wrong_token = f"{address[:-4]}AAAA"
    forged = [
        (dice.choice([wrong_token, address]), dice.choice([never, "foul-stranger", "../x"]))
        for _ in range(len(true) // 5)
    ]
    posts = true + forged
    dice.shuffle(posts)
    poster = threading.Timer(START_SECONDS + 1, lambda: asyncio.run(_post_all(posts)))
    poster.start()
    landed = run_flow(task_ids, folder, environment)
    poster.join()
    report_on(sandbox, task_ids, folder)
    files = sorted(path.name for path in folder.iterdir())
    wanted = sorted(f"{task_id}.{kind}" for task_id in task_ids for kind in ("jpg", "json"))
    all_served = sandbox.stats().images_served
    served = {task_id: all_served.get(task_id, 0) for task_id in task_ids}
    counts("images landed in spite of forged callbacks", landed["landed"], tasks)
    holds("each fetched once", met=served == dict.fromkeys(task_ids, 1))
    holds("nothing forged had an effect", met=files == wanted)


async def _post_all(posts: list[tuple[str, str]]) -> None:
    places = asyncio.Semaphore(20)
    async with httpx.AsyncClient() as http:

        async def post(address: str, task_id: str) -> None:
            body = {"code": 200, "msg": "", "data": {"taskId": task_id, "info": {}}}
            async with places:
                await http.post(address, json=body)

        await asyncio.gather(*(post(*one) for one in posts))


def main() -> None:
    tasks = 5 if begin(__doc__, "few tasks").smoke else 100
    print("Waking: callbacks and a waiting flow, with a real Prefect server and receiver")
    with (
        tempfile.TemporaryDirectory(prefix="nanobanana-waking-") as temporary,
        prefect_server() as environment,
        sandbox_process(SandboxSettings(image_bytes=60_000)) as sandbox,
        receiver(Path(temporary), environment) as address,
    ):
        environment |= {KEY_VARIABLE: sandbox.api_key, BASE_URL_VARIABLE: sandbox.base_url}
        for name, measured in {"fair": fair_round, "foul": foul_round}.items():
            folder = Path(temporary) / name
            folder.mkdir()
            measured(tasks, sandbox, address, folder, environment)


if __name__ == "__main__":
    main()
