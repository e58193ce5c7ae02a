"""More than a server can do: what it accepts is answered in time, nearly all that it could answer is, and the rest is
refused before it waits.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.backends.fake import SegmentFunction
from edgeexit_runtime.server.jobs import Wave
from edgeexit_runtime.server.scheduler import Scheduler
from edgeexit_runtime.wire.messages import WireError
from runtime.cascades import batch_of, told_by_the_sample
from runtime.server.tiers import Clock, fake_tail, settle

CALL_S = 0.0005
DEADLINE_S = 0.3
SHARES = (0.5, 0.3, 0.2)
"""Of the samples that leave at each exit."""


@dataclass
class Story:
    """What became of requests.

    Attributes:
        ends: How many ended in each way.
        took_s: How long each took that was answered.
        longest_queue: The most samples that waited in front of a segment.
    """

    ends: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    longest_queue: int = 0

    @property
    def missed(self) -> float:
        """The share of the requests that were accepted and not answered in time."""
        accepted = sum(self.ends.values()) - self.ends["RESOURCE_EXHAUSTED"]
        return 1 - self.ends["OK"] / accepted

    def quantile_s(self, q: float) -> float:
        """Of the time to an answer."""
        return float(np.quantile(self.took_s, q))


class World(Executor):
    """A scheduler whose engine has a price a call and a sample, and whose requests come when chance says so.

    Args:
        row_s: What a sample costs in a segment.
        hiccup_s: What is added to a run of a segment, by chance.
    """

    def __init__(self, row_s: float, hiccup_s: Callable[[random.Random], float] = lambda rng: 0.0) -> None:
        self.rng = random.Random(7)
        self._row_s = row_s
        self._hiccup_s = hiccup_s
        self._hiccups = [hiccup_s(self.rng)]
        self._clock = Clock()
        self._given: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        tail = fake_tail(3, functions=[self._costly(told_by_the_sample(k)) for k in range(3)])
        self._scheduler = Scheduler(tail, self, clock=self._clock, max_queue_rows=256)

    @property
    def rows_per_s(self) -> float:
        """Samples that the engine could answer in batches without end and without hiccups."""
        return 1 / (self._row_s * (1 + sum(SHARES[1:]) + SHARES[2]))

    def submit(self, function: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        """See `Executor`: it is kept until its time has come."""
        self._given = (function, args)
        return Future()

    async def offer(self, rows_per_s: float, rows: int, seconds: float, deadline_s: float = DEADLINE_S) -> Story:
        """Requests of so many samples at random times, whatever becomes of them."""
        story = Story()
        tasks: list[asyncio.Task[None]] = []
        next_s, over_s = self._clock.now_s, self._clock.now_s + seconds

        async def arrive() -> None:
            nonlocal next_s
            self._clock.now_s = max(self._clock.now_s, next_s)
            tasks.append(asyncio.create_task(self._request(rows, next_s, deadline_s, story)))
            await asyncio.sleep(0)
            story.longest_queue = max(story.longest_queue, *self._scheduler.waiting.values())
            next_s += self.rng.expovariate(rows_per_s / rows)

        while next_s < over_s or self._given is not None:
            if self._given is None:
                await arrive()
                continue
            began_s, (function, args) = self._clock.now_s, self._given
            while next_s < min(began_s + self._time_s(args[2]), over_s):
                await arrive()
            self._clock.now_s, self._given = began_s, None
            function(*args)
            await settle()
        await asyncio.gather(*tasks)
        return story

    def _time_s(self, waves: Sequence[Wave]) -> float:
        """What the first segment of a tour takes."""
        return CALL_S + self._row_s * sum(map(len, waves)) + self._hiccups[-1]

    def _costly(self, function: SegmentFunction) -> SegmentFunction:
        def costly(x: NDArray[np.float32]) -> Any:
            self._clock.now_s += CALL_S + self._row_s * len(x) + self._hiccups[-1]
            self._hiccups[-1] = self._hiccup_s(self.rng)
            return function(x)

        return costly

    async def _request(self, rows: int, start_s: float, deadline_s: float, story: Story) -> None:
        leaves_at = self.rng.choices(range(3), SHARES, k=rows)
        try:
            await self._scheduler.submit(0, {"x": batch_of(*leaves_at)}, start_s + deadline_s)
        except WireError as error:
            story.ends[error.status] += 1
        else:
            took_s = self._clock.now_s - start_s
            story.ends["OK" if took_s <= deadline_s else "DEADLINE_EXCEEDED"] += 1
            story.took_s.append(took_s)


def stalls(rng: random.Random) -> float:
    """Now and then something else has the processor."""
    return rng.expovariate(100) if rng.random() < 0.2 else 0.0


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("row_s", [0.001, 0.005])
def test_five_times_the_load_costs_neither_deadlines_nor_throughput(row_s: float, rows: int) -> None:
    world = World(row_s)
    story = asyncio.run(world.offer(5 * world.rows_per_s, rows, seconds=4))
    assert story.missed <= 0.01
    assert story.quantile_s(0.99) <= DEADLINE_S
    assert story.ends["OK"] * rows / 4 >= 0.8 * world.rows_per_s
    assert story.ends.keys() <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("rows", [1, 8])
def test_an_engine_that_stalls_makes_it_more_careful(rows: int) -> None:
    world = World(0.001, stalls)
    story = asyncio.run(world.offer(5 * world.rows_per_s, rows, seconds=6))
    assert story.missed <= 0.02
    assert story.ends["OK"] * rows / 6 >= 0.6 * world.rows_per_s  # of what it could without stalls


def test_after_an_overload_it_takes_everything_again() -> None:
    async def story() -> Story:
        world = World(0.001, stalls)
        await world.offer(5 * world.rows_per_s, 1, seconds=3)
        return await world.offer(0.4 * world.rows_per_s, 1, seconds=4)

    ends = asyncio.run(story()).ends
    assert ends["OK"] >= 0.98 * sum(ends.values())


def test_a_queue_is_no_longer_than_its_bound_however_much_time_there_is() -> None:
    world = World(0.001)
    story = asyncio.run(world.offer(10 * world.rows_per_s, 4, seconds=2, deadline_s=60.0))
    assert story.longest_queue <= 256
    assert story.ends["RESOURCE_EXHAUSTED"]
    assert story.missed == 0
