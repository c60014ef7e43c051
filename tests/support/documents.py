"""Runs what README and docs show, a page at a time, as a reader would who follows it word for word.

Commands run in one shell session per page, programs in the same folder with the same environment.
A comment before a block says what a reader knows without being told:

* ``<!-- runs: background -->``: the last command goes on until the end of the page;
* ``<!-- runs: fails -->``: the block shows an error;
* ``<!-- runs: not here, REASON -->``: it needs what a test has not, such as a cloud account;
* ``<!-- runs: file NAME -->``: the block is what the reader saves under that name;
* ``<!-- runs: hidden``, commands, ``-->``: what is prepared unseen, such as a file of the reader's;
  with ``hidden background`` the last of them goes on until the end of the page.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.until import block_until

COMMAND_SECONDS = 300

_BLOCK = re.compile(
    r"<!-- runs: hidden(?P<unseen> background)?\n(?P<hidden>.*?)-->"
    r"|(?:<!-- runs: (?P<how>[^\n]*?) -->\s*\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^[ ]*```",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    how: str = ""

    @property
    def commands(self) -> list[str]:
        """The commands of a console block, without what they print."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]

    @property
    def is_left_out(self) -> bool:
        """Whether it is not run, for a reason that the page states."""
        return self.how.startswith("not here")

    @property
    def file_name(self) -> str | None:
        """The name under which the reader saves it, if that is what the page asks for."""
        return self.how.removeprefix("file ") if self.how.startswith("file ") else None


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in its order."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["hidden"] is not None:
            shown = "".join(f"$ {command}\n" for command in match["hidden"].strip().splitlines())
            found.append(Block(line, "console", shown, (match["unseen"] or "").strip()))
        else:
            inside = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
            found.append(Block(line, match["language"], inside, match["how"] or ""))
    return found


@dataclass
class Reader:
    """Somebody who follows a page in a folder of their own."""

    folder: Path
    environment: dict[str, str]
    _background: list[subprocess.Popen[str]] = field(default_factory=list)

    def follow(self, page: Path) -> list[str]:
        """Do what every block says; return what went otherwise than the page has it."""
        problems = []
        for block in blocks_of(page):
            if block.is_left_out:
                continue
            if problem := self._do(block):
                problems.append(f"{page.name}:{block.line}: {problem}")
        return problems

    def stop(self) -> None:
        """End what goes on in the background."""
        for process in self._background:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._background:
            process.wait(timeout=60)

    def _do(self, block: Block) -> str | None:
        if block.file_name:
            self._save(block, block.file_name)
            return None
        if block.language == "console":
            return self._run_commands(block)
        if block.language == "python":
            return self._run([sys.executable, "-c", block.text], block)
        if block.language in ("json", "jsonl"):
            return _unreadable(json.loads, block, lines=True)
        if block.language in ("yaml", "yml"):
            return _unreadable(yaml.safe_load, block)
        return None

    def _save(self, block: Block, name: str) -> None:
        """Save a block as a file of the reader's; commands that follow show whether it is sound."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)

    def _run_commands(self, block: Block) -> str | None:
        commands = block.commands
        for number, command in enumerate(commands, start=1):
            is_last = number == len(commands)
            if command.startswith(("export ", "cd ")):
                self._take_over(command)
                problem = None
            elif is_last and block.how == "background":
                problem = self._start(command)
            else:
                problem = self._run(["bash", "-c", command], block)
            if problem:
                return problem
        return None

    def _take_over(self, command: str) -> None:
        """Have what a command changes of the shell hold for all that follows."""
        done = subprocess.run(
            ["bash", "-c", f"{command} && pwd && env -0"],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        folder, _, variables = done.stdout.partition("\n")
        self.folder = Path(folder)
        pairs = (pair.partition("=") for pair in variables.split("\0") if pair)
        self.environment = {name: value for name, _, value in pairs}

    def _run(self, command: list[str], block: Block) -> str | None:
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"did not end: {command[-1]}"
        if (done.returncode != 0) is (block.how == "fails"):
            return None
        return f"{command[-1]}\nexit status {done.returncode}\n{done.stdout}{done.stderr}"

    def _start(self, command: str) -> str | None:
        log = self.folder / f".background-{len(self._background)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip
        self._background.append(process)
        block_until(lambda: log.read_text().strip() or process.poll() is not None)
        if process.poll() is None:
            return None
        return f"{command}\nended with {process.returncode}\n{log.read_text()}"


@contextmanager
def reading(folder: Path, environment: dict[str, str]) -> Iterator[Reader]:
    """A reader in an empty folder, all of whose processes end with the block."""
    reader = Reader(folder, environment)
    try:
        yield reader
    finally:
        reader.stop()


def _unreadable(read: Any, block: Block, *, lines: bool = False) -> str | None:
    texts = [block.text]
    if lines:
        whole = _fails(read, block.text)
        texts = block.text.strip().splitlines() if whole else []
    failures = [failure for text in texts if (failure := _fails(read, text))]
    return f"cannot be read: {failures[0]}" if failures else None


def _fails(read: Any, text: str) -> str | None:
    try:
        read(text)
    except (ValueError, yaml.YAMLError) as error:
        return str(error)
    return None
