"""Rows that build on other rows: which, whether the whole graph is sound, and in which order.

An image given as ``row:plate`` is the landed image of the row of that name, or key; of several
images, ``row:plate#2`` is the second. Nothing is known here of what became of a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from nanobanana_blocks.batches.manifest.problems import Problem, shown
from nanobanana_blocks.references import ROW

if TYPE_CHECKING:
    from nanobanana_blocks.batches.manifest.row import Row

MAX_SHOWN_CYCLE = 8
"""Rows of a cycle that a message shows."""

_NUMBERED = re.compile(r"(?P<name>.+)#(?P<image>[1-9][0-9]?)")


@dataclass(frozen=True, slots=True)
class Link:
    """An image that another row makes: the row's name or key, and which of its images, from 1."""

    name: str
    image: int = 1

    @classmethod
    def parse(cls, text: str) -> Link | None:
        """The link that an image's text is; None where it is none."""
        if not text.startswith(ROW):
            return None
        name = text.removeprefix(ROW).strip()
        numbered = _NUMBERED.fullmatch(name)
        return cls(numbered["name"], int(numbered["image"])) if numbered else cls(name)


def linked(rows: Sequence[Row], known: Iterable[str] = ()) -> tuple[Sequence[Row], list[Problem]]:
    """The rows with the numbers of those that they build on, and all that is wrong with the graph.

    Args:
        rows: Those that are sound by themselves.
        known: Names and keys of rows that are not, so that they are not told to be missing.
    """
    if not any(image.startswith(ROW) for row in rows for image in row.images):
        return rows, []
    by_name = {row.key: row for row in rows}
    by_name |= {row.name: row for row in rows if row.name}
    others = set(known)
    found, problems = [], []
    for row in rows:
        parents = []
        for place, image in enumerate(row.images, start=1):
            link = Link.parse(image)
            if link is None:
                continue
            parent = by_name.get(link.name)
            if parent is not None and (wrong := _wrong_image(link, parent)):
                problems.append(Problem(row.number, "imageUrls", f"item {place} {wrong}"))
            elif parent is not None:
                parents.append(parent.number)
            elif link.name not in others:
                wrong = _unknown(link, by_name)
                problems.append(Problem(row.number, "imageUrls", f"item {place} {wrong}"))
        found.append(replace(row, builds_on=tuple(dict.fromkeys(parents))) if parents else row)
    return found, problems + _cycles(found)


def _wrong_image(link: Link, parent: Row) -> str | None:
    if parent.request is None or link.image <= parent.request.images_asked_for:
        return None
    many = parent.request.images_asked_for
    return f"is image {link.image} of row {parent.number}, which asks for {many} only"


def _unknown(link: Link, names: Mapping[str, Row]) -> str:
    close = get_close_matches(link.name, names, n=1)
    meant = f"; did you mean {ROW}{shown(close[0])}?" if close else ""
    return f"builds on {ROW}{shown(link.name)}, and no row has that name or key{meant}"


def _cycles(rows: Sequence[Row]) -> list[Problem]:
    """A problem for each circle of rows that build on each other.

    What hangs on a circle without being in it is no problem of its own.
    """
    stuck = {row.number: row for row in parents_first(rows)[1]}
    walked: set[int] = set()
    problems = []
    for start in stuck:
        path: dict[int, None] = {}
        at = start
        while at not in walked:
            walked.add(at)
            path[at] = None
            at = next(parent for parent in stuck[at].builds_on if parent in stuck)
        if at not in path:
            continue  # it leads to what was walked before
        steps = list(path)
        circle = steps[steps.index(at) :]
        told = [*circle[:MAX_SHOWN_CYCLE], *(["…"] if len(circle) > MAX_SHOWN_CYCLE else [])]
        arrows = " → ".join(map(str, [*told, at]))
        problems.append(Problem(at, "imageUrls", f"builds on itself: rows {arrows}"))
    return problems


def parents_first(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows in an order in which each follows those that it builds on, and those without one.

    Rows that wait for none keep their order.
    """
    waits_for = {row.number: set(row.builds_on) for row in rows}
    by_number = {row.number: row for row in rows}
    children: dict[int, list[int]] = {}
    for row in rows:
        for parent in row.builds_on:
            children.setdefault(parent, []).append(row.number)
    ordered: list[Row] = []
    ready = [row for row in rows if not waits_for[row.number]]
    while ready:
        ordered += ready
        following = []
        for row in ready:
            for child in children.get(row.number, ()):
                waits_for[child].discard(row.number)
                if not waits_for[child]:
                    following.append(by_number[child])
        ready = following
    done = {row.number for row in ordered}
    return ordered, [row for row in rows if row.number not in done]


def chains(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in the smallest parts that can be done apart, in the order of their first rows."""
    leader: dict[int, int] = {row.number: row.number for row in rows}

    def first_of(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for row in rows:
        for parent in row.builds_on:
            one, other = sorted((first_of(row.number), first_of(parent)))
            leader[other] = one
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(first_of(row.number), []).append(row)
    return list(parts.values())
