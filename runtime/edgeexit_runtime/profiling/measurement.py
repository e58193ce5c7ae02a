"""The measurement: rounds over a course, and the profile that their times make."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeexit.console import Advance
from edgeexit.errors import BackendError
from edgeexit.precision import precision_of
from edgeexit.profiles import Machine, Profile, SegmentProfile, identity
from edgeexit_runtime.energy import Meter
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.profiling.course import Course, Samples
from edgeexit_runtime.profiling.spent import Spent
from edgeexit_runtime.profiling.subject import Subject

__all__ = ["MIN_ROUNDS", "profile"]

MIN_ROUNDS = 5


def profile(
    subject: Subject,
    samples: Samples,
    batches: Sequence[int],
    *,
    seconds: float,
    meter: Meter | None = None,
    energy_note: str = "not measured",
    clock: Callable[[], float] = time.perf_counter,
    advance: Advance,
) -> Profile:
    """Measure.

    Args:
        subject: What to measure.
        samples: At least one sample; they repeat where a batch needs more.
        batches: Batch sizes, rising from 1.
        seconds: How long to go on; at least `MIN_ROUNDS` rounds are counted all the same.
        meter: Tells energy; it is read for as long again, at most, as timing took.
        energy_note: Why there is no meter, or what it reads.
        clock: Seconds.
        advance: Told what part of 100 is done.

    Raises:
        BackendError: The device failed, or has too little memory for the largest batch.
    """
    course = Course(subject, samples, batches, clock)
    try:
        spent = _rounds(course, seconds, clock, advance)
        energy = None if meter is None else course.energy_mj(meter, seconds / 2)
    except MemoryError as error:
        raise BackendError(
            f"there is too little memory for batches of {max(batches)}", remedy="give smaller ones with --batch"
        ) from error
    manifest = subject.bundle.manifest
    return Profile(
        bundle=identity(manifest),
        precision=precision_of(manifest),
        backend=subject.backend.name,
        threads=subject.settings.threads,
        target=subject.target,
        machine=msgspec.convert(describe_machine(), Machine),
        batches=tuple(batches),
        segments=tuple(_segment(course, spent, k, entry.name) for k, entry in enumerate(manifest.exits)),
        exits_ms=_rising([1e3 * float(np.median(times)) for times in spent.exits]),
        energy_mj=None if energy is None else _rounded(energy),
        energy_note=energy_note,
    )


def _rounds(course: Course, seconds: float, clock: Callable[[], float], advance: Advance) -> Spent:
    """Round after round until the time is up."""
    segments = len(course.subject.segments)
    least = max(MIN_ROUNDS, course.turns)
    spent, done, number, start_s = Spent(segments), 0, 0, clock()
    while number <= least or clock() - start_s < seconds:
        course.round(number, spent)
        if number == 0:
            spent = Spent(segments)
        number += 1
        part = min(number / (least + 1), (clock() - start_s) / seconds if seconds > 0 else 1.0, 1.0)
        advance(int(100 * part) - done)
        done = int(100 * part)
    advance(100 - done)
    return spent


def _segment(course: Course, spent: Spent, k: int, name: str) -> SegmentProfile:
    batches, unchecked = course.batches, course.subject.unchecked
    head = course.subject.bundle.manifest.exits[k].head
    check = [0.0] * len(batches) if head == "model" else None  # the model's own logits are no check
    if unchecked is not None and unchecked.leaves_out[k]:
        check = [spent.check_ms(k, n) for n in batches]
    kept = {n: spent.least_ms("compact", k, n) for n in spent.kept(k)}
    return SegmentProfile(
        name=name,
        run_ms=_rounded([spent.ms("run", k, n) for n in batches]),
        check_ms=None if check is None else _rounded(check),
        compact_ms=_rounded(_along(kept, batches)),
        decide_ms=_rounded([spent.ms("decide", k, n) for n in batches]),
    )


def _along(measured: Mapping[int, float], batches: Sequence[int]) -> list[float]:
    """The times for as many samples as each batch size, from those for other numbers of samples.

    Between what was measured lies a straight line. Above it goes on the line from the least number to the
    most, which never falls.
    """
    if not measured:
        return [0.0] * len(batches)
    points = {0: 0.0, **measured}
    numbers = np.array(sorted(points), dtype=np.float64)
    times = np.array([points[number] for number in sorted(points)])
    start = 1 if len(numbers) > 2 else 0
    slope = max(0.0, (times[-1] - times[start]) / (numbers[-1] - numbers[start]))
    return [float(np.interp(n, numbers, times) + slope * max(0.0, n - numbers[-1])) for n in batches]


def _rounded(times: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    """To the nanosecond, or the nanojoule."""
    return tuple(round(float(value), 6) for value in times)


def _rising(times: Sequence[float]) -> tuple[float, ...]:
    """To the nanosecond, each at least one more than the one before: what noise made fall is lifted."""
    last_ns, lifted = 0, []
    for value in times:
        last_ns = max(round(1e6 * value), last_ns + 1)
        lifted.append(last_ns / 1e6)
    return tuple(lifted)
