"""What was learned about generation times, as a small JSON text that can be kept and merged.

It holds no task, no prompt and no URL: only names of kinds and numbers. This module does no I/O.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field, replace
from typing import Any

from nanobanana_blocks.api.hazard import BINS, CANDIDATES, Evidence
from nanobanana_blocks.api.kinds import MAX_KIND_LENGTH

FORMAT = "nanobanana-generation-times"
VERSION = 1
MAX_KINDS = 24
MAX_BYTES = 256_000

HALF_LIFE_SECONDS = 7 * 86_400.0
"""After so long, what was learned weighs half: the service changes (assumed)."""

MAX_REMEMBERED_POLLS = 200.0
"""What is remembered weighs no more than so many polls, so that a change shows soon."""

LEAST_POLLS = 1.0

MAX_LOG_ODDS = 3.0
"""What is remembered of how likely the service works on one task after the other; no more."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LearnedSummary:
    """What was learned of each kind of work, and of all together.

    `turn` is what was learned of the tasks whose turn it was, where the service works on one after
    the other; `serial` is how likely it does, as log odds.
    """

    pool: Evidence = field(default_factory=Evidence)
    kinds: dict[str, Evidence] = field(default_factory=dict)
    turn: Evidence = field(default_factory=Evidence)
    serial: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was learned."""
        return self.pool.polls <= 0

    def merged(self, later: LearnedSummary) -> LearnedSummary:
        """Both together; `later` was learned after this, or at the same time elsewhere."""
        kinds = dict(self.kinds)
        for kind, evidence in later.kinds.items():
            kinds[kind] = kinds[kind].plus(evidence) if kind in kinds else evidence.copy()
        together = LearnedSummary(
            self.pool.plus(later.pool),
            kinds,
            self.turn.plus(later.turn),
            self.serial + later.serial,
        )
        return together.of_best_known(MAX_KINDS)

    def of_best_known(self, count: int) -> LearnedSummary:
        """The same with `count` kinds at most, those of which most was learned."""
        best_known = sorted(self.kinds, key=lambda kind: -self.kinds[kind].polls)[:count]
        return replace(self, kinds={kind: self.kinds[kind] for kind in sorted(best_known)})

    def faded(self, seconds: float) -> LearnedSummary:
        """As it weighs `seconds` after it was written; what hardly weighs anything is left out."""
        share = 0.5 ** (max(0.0, seconds) / HALF_LIFE_SECONDS)
        faded = {kind: _bounded(known.scaled(share)) for kind, known in self.kinds.items()}
        return LearnedSummary(
            _bounded(self.pool.scaled(share)),
            {kind: known for kind, known in faded.items() if known.polls >= LEAST_POLLS},
            _bounded(self.turn.scaled(share)),
            max(-MAX_LOG_ODDS, min(self.serial * share, MAX_LOG_ODDS)),
        )

    def to_json(self, now: float) -> bytes:
        """As JSON; `now` is in epoch seconds."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "written_at": round(now),
            "all": _numbers(self.pool),
            "kinds": {kind: _numbers(evidence) for kind, evidence in self.kinds.items()},
            "turn": _numbers(self.turn),
            "serial": round(self.serial, 2),
        }
        return json.dumps(content, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes, now: float, *, where: str = "") -> LearnedSummary:
        """Read what `to_json` has written, faded by its age.

        What is damaged, foreign or of a later version is an empty summary, and a line in the log
        that names `where` it was found: it costs a little learning, and nothing else.
        """
        try:
            content = json.loads(data) if len(data) <= MAX_BYTES else None
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError("it is something else")
            if content.get("version") != VERSION:
                raise ValueError(f"its version is not {VERSION}")
            kinds = content["kinds"]
            if not isinstance(kinds, dict) or len(kinds) > MAX_KINDS:
                raise ValueError("its kinds are not as expected")
            age = now - _number(content["written_at"])
            read = {str(kind)[:MAX_KIND_LENGTH]: _evidence(known) for kind, known in kinds.items()}
            turn, serial = _evidence(content["turn"]), _number(content["serial"])
            return cls(_evidence(content["all"]), read, turn, serial).faded(age)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            logger.info(
                "Ignoring what %s says of generation times (%s); learning anew",
                where or "a summary",
                type(error).__name__ if isinstance(error, KeyError) else error,
            )
            return cls()


def _bounded(evidence: Evidence) -> Evidence:
    if evidence.polls <= MAX_REMEMBERED_POLLS:
        return evidence
    return evidence.scaled(MAX_REMEMBERED_POLLS / evidence.polls)


def _numbers(evidence: Evidence) -> dict[str, Any]:
    # Only differences between candidates matter, and those far from the best do not.
    largest = max(evidence.pool, *evidence.candidates)
    return {
        "polls": round(evidence.polls, 2),
        "candidates": [round(max(weight - largest, -99.0), 2) for weight in evidence.candidates],
        "pool": round(max(evidence.pool - largest, -99.0), 2),
        "completions": [round(count, 2) for count in evidence.completions],
        "passages": [round(count, 2) for count in evidence.passages],
    }


def _evidence(content: Any) -> Evidence:
    found = Evidence(
        polls=_number(content["polls"]),
        candidates=_list(content["candidates"], CANDIDATES),
        pool=_number(content["pool"]),
        completions=_list(content["completions"], BINS),
        passages=_list(content["passages"], BINS),
    )
    if min(found.polls, *found.completions, *found.passages) < 0:
        raise ValueError("a count is below zero")
    if max(found.pool, *found.candidates) > 0:
        raise ValueError("a likelihood is above one")
    return found


def _list(content: Any, length: int) -> list[float]:
    if not isinstance(content, list) or len(content) != length:
        raise ValueError("a list is not as long as expected")
    return [_number(number) for number in content]


def _number(content: Any) -> float:
    if isinstance(content, bool) or not isinstance(content, (int, float)):
        raise TypeError("a number is missing")
    if not math.isfinite(content) or abs(content) > 1e12:
        raise ValueError("a number is out of bounds")
    return float(content)
