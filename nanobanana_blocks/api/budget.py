"""One account's request budget, which every request of a client takes from; it sends nothing.

The limit on queries is not documented; sister products of the service allow 20 new requests per
10 s (documented there only).
"""

from __future__ import annotations

import asyncio
import math

FIRST_PAUSE_SECONDS = 2.0
MAX_PAUSE_SECONDS = 120.0
MIN_RATE_SHARE = 1 / 64


class RequestBudget:
    """Spaces requests evenly, `requests_per_second` at most, and slows down when refused.

    A refusal (429) pauses everybody for the time the service asked for, or else for one of our own
    choice that doubles each time, and halves the rate; every answered request then gives a little
    of the rate back. Requests that were under way together are refused together: such a burst
    halves the rate once.

    Args:
        requests_per_second: The most that is ever allowed.
        first_pause_seconds: The first pause of our own choice.

    Attributes:
        first_pause_seconds: As given.
    """

    def __init__(
        self,
        requests_per_second: float = 20.0,
        *,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self.first_pause_seconds = first_pause_seconds
        self._ceiling = requests_per_second
        self._allowed = requests_per_second
        self._rate = requests_per_second
        self._next_slot = 0.0
        self._paused_until = 0.0
        self._pause = self.first_pause_seconds
        self._refused_at = -math.inf

    @property
    def ceiling(self) -> float:
        """The requests per second that it was made for."""
        return self._ceiling

    @property
    def allowed(self) -> float:
        """The requests per second that were allowed last."""
        return self._allowed

    @property
    def requests_per_second(self) -> float:
        """The rate in force, lower than the one allowed after a refusal."""
        return self._rate

    @property
    def pause_left(self) -> float:
        """Seconds for which nobody may ask, after a refusal; otherwise 0."""
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())

    def allow(self, requests_per_second: float) -> None:
        """Set the rate allowed from now on."""
        if requests_per_second != self._allowed:
            self._rate *= requests_per_second / self._allowed
            self._allowed = requests_per_second

    async def acquire(self) -> None:
        """Wait for this request's turn."""
        clock = asyncio.get_running_loop().time
        slot = max(self._next_slot, clock())
        self._next_slot = slot + 1 / self._rate
        while True:
            delay = max(slot, self._paused_until) - clock()
            if delay <= 0:
                return
            await asyncio.sleep(delay)

    def refused(self, retry_after: float | None = None, *, sent_at: float | None = None) -> None:
        """Take note that the service asked for fewer requests.

        Args:
            retry_after: Seconds that it asked to wait; 0 is "now". None where it named no time.
            sent_at: When the refused request was sent, on the event loop's clock; where that is
                not known, all refusals during a pause are one burst.
        """
        now = asyncio.get_running_loop().time()
        same_burst = now < self._paused_until if sent_at is None else sent_at < self._refused_at
        if same_burst and retry_after is None:
            return
        pause = self._pause if retry_after is None else retry_after
        self._paused_until = max(self._paused_until, now + min(max(pause, 0.0), MAX_PAUSE_SECONDS))
        self._next_slot = max(self._next_slot, self._paused_until)
        if same_burst:
            return
        self._refused_at = now
        self._rate = max(self._rate / 2, self._allowed * MIN_RATE_SHARE)
        if retry_after is None:
            self._pause = min(self._pause * 2, MAX_PAUSE_SECONDS)

    def answered(self) -> None:
        """Take note that a request was answered."""
        self._pause = self.first_pause_seconds
        self._rate = min(self._rate + self._allowed / 100, self._allowed)
