"""The limit on requests under way: it finds an endpoint's capacity, holds there, and only refusals make it smaller."""

import asyncio
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from throughline.teaching.concurrency import AdaptiveConcurrency


class World:
    """Simulated time and an endpoint that takes `capacity` requests at once and answers after one second."""

    def __init__(self, capacity: Callable[[float], int], most: int = 256) -> None:
        self.time, self.capacity = 0.0, capacity
        self.limiter = AdaptiveConcurrency(most=most, clock=lambda: self.time)
        self.at_work = 0
        self.by_chance, self.chance = 0.0, random.Random(0)
        self.answered: list[float] = []
        self.refused: list[float] = []
        self.limits: list[float] = []
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def run(self, seconds: float, wanted: int = 400) -> None:
        clients = [asyncio.create_task(self.client(number)) for number in range(wanted)]
        while self.time < seconds:
            for _ in range(12):  # let everybody do what they can do now
                await asyncio.sleep(0)
            self.limits.append(self.limiter.limit)
            self.time += 0.05
            self.due()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def client(self, number: int) -> None:
        while True:
            ticket = await self.limiter.acquire()
            if self.at_work >= self.capacity(self.time) or self.chance.random() < self.by_chance:
                self.refused.append(self.time)
                self.limiter.refused(ticket)
                await self.until(self.time + 0.5)
                continue
            self.at_work += 1
            await self.until(self.time + 0.95 + 0.001 * (number % 90))
            self.at_work -= 1
            self.answered.append(self.time)
            self.limiter.succeeded()

    async def until(self, when: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self.sleepers.append((when, future))
        await future

    def due(self) -> None:
        due = [future for when, future in self.sleepers if when <= self.time]
        self.sleepers = [one for one in self.sleepers if one[0] > self.time]
        for future in due:
            if not future.done():
                future.set_result(None)


def test_the_capacity_is_found_and_kept_busy() -> None:
    world = World(lambda _: 64)
    asyncio.run(world.run(60))
    steady = [when for when in world.answered if when >= 10]
    assert len(steady) >= 0.9 * 64 * 50
    assert len([when for when in world.refused if when >= 10]) <= 0.02 * len(steady)


def test_refusals_by_chance_do_not_stifle_the_work() -> None:
    """One request in ten is refused however few there are: shrinking does not help, so it must not go on for ever."""
    world = World(lambda _: 10_000, most=64)
    world.by_chance = 0.1
    asyncio.run(world.run(60))
    assert min(world.limits[200:]) >= 8
    assert len([when for when in world.answered if when >= 10]) >= 50 * 12


def test_after_a_budget_was_used_up_the_work_is_soon_as_wide_as_before() -> None:
    """An account's requests a minute: for ten seconds everything is refused, then all is well again."""
    world = World(lambda time: 0 if 20 <= time < 30 else 10_000, most=64)
    asyncio.run(world.run(60))
    assert len([when for when in world.answered if 40 <= when < 60]) >= 20 * 16


def test_no_more_than_the_most_is_ever_tried() -> None:
    world = World(lambda _: 10_000, most=40)
    asyncio.run(world.run(20))
    assert max(world.limits) == 40 and not world.refused


def test_the_limit_starts_low_and_doubles_with_every_round_of_answers() -> None:
    world = World(lambda _: 10_000)
    asyncio.run(world.run(4.5))
    by_second = [world.limits[int(second / 0.05)] for second in (0.5, 1.5, 2.5, 3.5)]
    assert by_second[0] <= 10
    assert all(1.5 <= later / earlier <= 2.5 for earlier, later in pairwise(by_second))


def test_a_capacity_that_shrinks_and_grows_is_followed() -> None:
    world = World(lambda time: 16 if 30 <= time < 60 else 48)
    asyncio.run(world.run(150))

    def answers(start: float, end: float) -> float:
        return len([when for when in world.answered if start <= when < end]) / (end - start)

    assert answers(15, 30) >= 0.85 * 48
    assert answers(40, 60) >= 0.85 * 16
    assert answers(130, 150) >= 0.7 * 48, "more is tried now and then"


def test_errors_and_slow_answers_do_not_shrink_the_limit() -> None:
    async def play() -> tuple[float, float]:
        limiter = AdaptiveConcurrency(start=8)
        for _ in range(50):
            await limiter.acquire()
            limiter.broken()
        before = limiter.limit
        await limiter.acquire()
        limiter.refused(51)
        return before, limiter.limit

    before, after = asyncio.run(play())
    assert before == 8 and after < 8


def test_one_burst_of_refusals_counts_each_refused_request_once() -> None:
    async def play() -> float:
        limiter = AdaptiveConcurrency(start=20)
        tickets = [await limiter.acquire() for _ in range(20)]
        for ticket in tickets[12:]:
            limiter.refused(ticket)
        return limiter.limit

    assert asyncio.run(play()) == 12


def test_a_waiter_that_is_cancelled_gives_its_place_on() -> None:
    async def play() -> list[int]:
        limiter = AdaptiveConcurrency(start=1)
        await limiter.acquire()
        first, second = asyncio.create_task(limiter.acquire()), asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        limiter.succeeded()  # gives the place to the first
        first.cancel()
        await asyncio.wait_for(second, 1)
        return [limiter.in_flight, int(first.cancelled())]

    assert asyncio.run(play()) == [1, 1]


def test_a_start_above_the_most_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and most"):
        AdaptiveConcurrency(start=9, most=8)
