"""How many requests an endpoint gets at once: found out, not configured. Every endpoint has one of these.

It starts low and doubles with every round of answers until the endpoint refuses (HTTP 429); refusals show what it
takes, and there the limit holds, asking for one more now and then. Nothing but a refusal makes it smaller: an error or
a slow answer says nothing about how many the endpoint takes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

START, MOST = 8, 256
FIRST_HOLD, LONGEST_HOLD = 1.0, 30.0
"""Seconds without a refusal before one more is tried; doubled each time that the try is refused."""


class AdaptiveConcurrency:
    """A limit on requests under way that only refusals shrink. For one event loop; `clock` gives seconds."""

    def __init__(self, start: int = START, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        if not 1 <= start <= most:
            raise ValueError("start lies between 1 and most")
        self.limit = float(start)
        self.in_flight = 0
        self.refusals = 0
        self._most, self._clock = most, clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._tickets = 0
        self._worked = math.inf
        """What was under way when the last refusals came: below half of it the limit doubles again."""
        # A burst: the refusals of requests that were sent before the first of them was known.
        self._burst_end, self._burst_size, self._burst_refusals = 0, 0, 0
        self._quiet_until, self._hold, self._probing_from = 0.0, FIRST_HOLD, 0.0

    @property
    def load(self) -> float:
        """Requests under way and waiting, as a share of the limit."""
        return (self.in_flight + len(self._waiting)) / self.limit

    async def acquire(self) -> int:
        """Waits for a place; the ticket goes back with `succeeded`, `refused` or `broken`."""
        if self.in_flight >= int(self.limit) or self._waiting:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():  # the place had just been given
                    self.in_flight -= 1
                    self._wake()
                raise
        else:
            self.in_flight += 1
        self._tickets += 1
        return self._tickets

    def succeeded(self) -> None:
        """An answer came back: room for more, one for one at first, later one a round and only now and then."""
        full = self.in_flight >= int(self.limit)
        self.in_flight -= 1
        if full and self.limit < self._worked / 2:
            self.limit = min(self._most, self.limit + 1)
        elif full and self._clock() >= self._quiet_until:
            self.limit = min(self._most, self.limit + 1 / self.limit)
        self._wake()

    def broken(self) -> None:
        """The request came to nothing for a reason that has nothing to do with how many there are."""
        self.in_flight -= 1
        self._wake()

    def refused(self, ticket: int) -> bool:
        """The endpoint had too many (429): as many as it refused of those under way are too many.

        Gives whether it has refused most of them.
        """
        self.refusals += 1
        now = self._clock()
        if ticket > self._burst_end:
            probed = self.in_flight > 1 and self.limit <= self._probing_from + 2
            self._hold = min(LONGEST_HOLD, self._hold * 2) if probed else FIRST_HOLD
            self._burst_end, self._burst_size, self._burst_refusals = self._tickets, self.in_flight, 0
        self._burst_refusals += 1
        # A few refused of many may be chance. Most refused is a capacity that is gone: what worked before says little.
        # One request alone tells neither.
        mostly = self._burst_refusals > self._burst_size / 2
        if mostly:
            self._worked = self._burst_size / 2 if self._burst_size > 1 else self._worked
        else:
            self._worked = max(self._worked if self._worked < math.inf else 0, self._burst_size)
        self.limit = float(max(1, self._burst_size - self._burst_refusals))
        self._probing_from, self._quiet_until = self.limit, now + self._hold
        self.in_flight -= 1
        self._wake()
        return mostly

    def _wake(self) -> None:
        while self._waiting and self.in_flight < int(self.limit):
            waiter = self._waiting.popleft()
            if not waiter.done():
                self.in_flight += 1
                waiter.set_result(None)
