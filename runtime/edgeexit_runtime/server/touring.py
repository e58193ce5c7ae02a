"""What the worker does: a batch through a segment, and what is left of it through the next ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from edgeexit.policies import Decision
from edgeexit_runtime.server.jobs import Wave
from edgeexit_runtime.tail import Tail

__all__ = ["Step", "tour"]


class Step(NamedTuple):
    """A batch that ran through a segment.

    Attributes:
        k: The segment.
        wave: The batch as it went in.
        decision: What the exit says of it.
        staying: The samples that the exit was not sure of, in front of the next segment; None where there are none.
        goes_on: Whether the worker runs those by itself.
        took_s: How long it took.
    """

    k: int
    wave: Wave
    decision: Decision
    staying: Wave | None
    goes_on: bool
    took_s: float

    @property
    def someone_left(self) -> bool:
        """Whether the exit was sure of any sample."""
        return self.staying is None or len(self.staying) < len(self.wave)


def tour(
    tail: Tail,
    k: int,
    waves: Sequence[Wave],
    others_wait: Callable[[], int],
    clock: Callable[[], float],
    *,
    to_host: bool = False,
) -> Iterator[Step]:
    """Run a batch through segment k, and on until nobody is left, somebody else waits, or the tail ends.

    Args:
        tail: The segments.
        k: The first of them.
        waves: What makes up the batch.
        others_wait: How many samples wait elsewhere.
        clock: Seconds.
        to_host: Whether those who are left behind the tail's last segment are wanted, as host arrays.

    Raises:
        BackendError: The device failed.
    """
    before_s = clock()
    wave = Wave.joined(waves, tail, k)
    while True:
        decision, group = tail.step(k, wave.group(tail, k))
        staying = (~decision.leave).nonzero()[0]
        left = None
        if len(staying):
            left = Wave(group, wave.jobs, wave.rows, clock()).keep(staying)
            left = _settled(left, tail, k + 1, to_host)
        now_s = clock()
        goes_on = left is not None and k < tail.last and not others_wait() and _all_wanted(left, now_s)
        yield Step(k, wave, decision, left, goes_on, now_s - before_s)
        if left is None or not goes_on:
            return
        before_s, wave, k = now_s, left, k + 1


def _settled(wave: Wave, tail: Tail, k: int, to_host: bool) -> Wave:
    """The same samples, with nothing kept of those who left."""
    if k <= tail.last:
        return Wave(wave.group(tail, k), wave.jobs, wave.rows, wave.since_s)
    return Wave(tail.arrays(k, wave.group(tail, k)) if to_host else {}, wave.jobs, wave.rows, wave.since_s)


def _all_wanted(wave: Wave, now_s: float) -> bool:
    return all(job.deadline_s > now_s and job.wanted for job in wave.jobs)
