"""Takes the pictures of README and docs: real runs against the sandbox, in a real browser.

Run by `make screenshots`; needs Chromium, as Debian's package `chromium` installs it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from nanobanana_blocks.cli.demo import own_prefect
from nanobanana_blocks.gallery.pages import FIRST_PAGE
from nanobanana_blocks.orchestration.observability.artifacts import CONTACT_SHEET_KEY, OUTCOMES_KEY
from nanobanana_blocks.sandbox import Sandbox, TaskPlan

FOLDER = Path(__file__).parent / "images"
PROMPTS = ("sunrise", "harbour", "orchard", "glacier", "lantern", "meadow", "canyon", "library")

RUN = """
import asyncio, sys
from nanobanana_blocks.flows.run_batch import run_batch
state = asyncio.run(run_batch(sys.argv[1], sys.argv[2], return_state=True))
print(state.state_details.flow_run_id)
"""


def main() -> None:
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, Sandbox() as sandbox:
        home, project = Path(temporary) / "home", Path(temporary) / "project"
        home.mkdir()
        project.mkdir()
        sandbox.configure(submitted_task=TaskPlan(seconds=1), image_edge=512)
        refused = sandbox.add_task(
            TaskPlan(seconds=0, outcome="generate-failed", error_code=400, error_message="flagged")
        )
        rows = [{"prompt": f"Bananas in a {place}", "name": place} for place in PROMPTS]
        lines = [*rows, {"task_id": refused, "name": "refused"}]
        manifest = "".join(f"{json.dumps(row)}\n" for row in lines)
        (project / "prompts.jsonl").write_text(manifest)
        with own_prefect(home) as prefect:
            environment = prefect | {
                "NANOBANANA_API_KEY": sandbox.api_key,
                "NANOBANANA_BASE_URL": sandbox.base_url,
            }
            done = subprocess.run(
                [sys.executable, "-c", RUN, "prompts.jsonl", "images"],
                cwd=project, env=environment, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            run = done.stdout.split()[-1]
            ui = prefect["PREFECT_API_URL"].removesuffix("/api")
            take(browser, f"{ui}/v2/runs/flow-run/{run}", FOLDER / "run.png", home)
            gallery = project / "images" / FIRST_PAGE
            take(browser, gallery.as_uri(), FOLDER / "gallery.png", home)
            for key in (OUTCOMES_KEY, CONTACT_SHEET_KEY):
                picture = FOLDER / f"{key.removeprefix('nanobanana-')}.png"
                take(
                    browser, f"{ui}/v2/artifacts/artifact/{newest(key, environment)}", picture, home
                )


def newest(key: str, prefect: dict[str, str]) -> str:
    """The id of the newest artifact of a key."""
    query = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    found = httpx.post(f"{prefect['PREFECT_API_URL']}/artifacts/filter", json=query)
    return str(found.raise_for_status().json()[0]["id"])


def take(browser: str, url: str, picture: Path, home: Path) -> None:
    """Have the browser show a page, wait for it to settle, and keep a picture of it."""
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-background-networking", "--window-size=1400,1000",
            "--virtual-time-budget=20000", f"--user-data-dir={home / 'browser'}",
            f"--screenshot={picture}", url,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    print(picture)


if __name__ == "__main__":
    main()
