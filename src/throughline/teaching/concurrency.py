"""How many requests an endpoint gets at once: found out, not configured. Every endpoint has one of these.

It starts low and doubles with every round of answers until the endpoint refuses (HTTP 429); refusals show what it
takes, and there the limit holds, asking for one more now and then. Nothing but a refusal makes it smaller: an error or
a slow answer says nothing about how many the endpoint takes.
"""

import math
import time
from collections.abc import Callable

import anyio

START, MOST = 8, 256
FIRST_HOLD, LONGEST_HOLD = 1.0, 30.0
"""Seconds without a refusal before one more is tried; doubled each time that the try is refused."""


class AdaptiveConcurrency:
    """A limit on requests under way that only refusals shrink. For one event loop; `clock` gives seconds."""

    def __init__(self, start: int = START, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        if not 1 <= start <= most:
            raise ValueError("start lies between 1 and most")
        self.limit = float(start)
        self._most, self._clock = most, clock
        self._places = anyio.CapacityLimiter(start)
        self._borrowers: list[object] = []
        self._tickets = 0
        self._worked = math.inf
        """What was under way when the last refusals came: below half of it the limit doubles again."""
        # A burst: the refusals of requests that were sent before the first of them was known.
        self._burst_end, self._burst_size, self._burst_refusals = 0, 0, 0
        self._quiet_until, self._hold, self._probing_from = 0.0, FIRST_HOLD, 0.0

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._places.borrowed_tokens

    @property
    def load(self) -> float:
        """Requests under way and waiting, as a share of the limit."""
        return (self.in_flight + self._places.statistics().tasks_waiting) / self.limit

    async def acquire(self) -> int:
        """Waits for a place; the ticket goes back with `succeeded`, `refused` or `broken`."""
        borrower = object()
        await self._places.acquire_on_behalf_of(borrower)
        self._borrowers.append(borrower)
        self._tickets += 1
        return self._tickets

    def succeeded(self) -> None:
        """An answer came back: room for more, one for one at first, later one a round and only now and then."""
        full = self.in_flight >= int(self.limit)
        if full and self.limit < self._worked / 2:
            self.limit = min(self._most, self.limit + 1)
        elif full and self._clock() >= self._quiet_until:
            self.limit = min(self._most, self.limit + 1 / self.limit)
        self._release()

    def broken(self) -> None:
        """The request came to nothing for a reason that has nothing to do with how many there are."""
        self._release()

    def refused(self, ticket: int) -> bool:
        """The endpoint had too many (429): as many as it refused of those under way are too many.

        Gives whether it has refused most of them.
        """
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
        self._release()
        return mostly

    def _release(self) -> None:
        """Gives one place back, whosever it was, and lets in as many as the limit now allows."""
        self._places.total_tokens = int(self.limit)
        self._places.release_on_behalf_of(self._borrowers.pop())
