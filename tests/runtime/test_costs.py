"""What exits cost in milliseconds, measured in turn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeexit_runtime import Cascade
from edgeexit_runtime.costs import exit_times_ms
from runtime.cascades import CLASSES, F32, batch_of, fake_cascade, rows_run

SAMPLES = [{"x": batch_of(9)} for _ in range(3)]


def slow_cascade(ticks: list[float], costs: tuple[float, ...], cold_runs: int = 0) -> Cascade:
    """A fake cascade whose segments move a clock on by so many seconds; the first runs of segment 0 by 5 more."""
    runs = [0]

    def segment(k: int) -> object:
        def run(x: np.ndarray) -> tuple[tuple[np.ndarray], np.ndarray]:
            runs[0] += k == 0
            ticks[0] += costs[k] + (5.0 if k == 0 and runs[0] <= cold_runs else 0.0)
            return (x,), np.zeros((len(x), CLASSES), F32)

        return run

    return fake_cascade(len(costs), [segment(k) for k in range(len(costs))])  # type: ignore[misc]


def test_the_time_of_an_exit_is_that_of_all_segments_up_to_it() -> None:
    ticks = [0.0]
    cascade = slow_cascade(ticks, (0.001, 0.004, 0.002))
    times = exit_times_ms(cascade, SAMPLES, rounds=2, clock=lambda: ticks[0])
    np.testing.assert_allclose(times, [1.0, 5.0, 7.0])


def test_segments_behind_an_exit_are_not_run_for_it() -> None:
    cascade = fake_cascade(3)
    exit_times_ms(cascade, SAMPLES, rounds=1)
    assert [len(rows) for rows in rows_run(cascade)] == [18, 12, 6]


def test_a_single_slow_run_does_not_count() -> None:
    ticks, late = [0.0], iter([0.0] * 10 + [100.0] + [0.0] * 100)
    cascade = slow_cascade(ticks, (0.001, 0.001))
    times = exit_times_ms(cascade, SAMPLES, rounds=3, clock=lambda: ticks[0] + next(late))
    np.testing.assert_allclose(times, [1.0, 2.0])


def test_the_first_round_is_not_counted() -> None:
    ticks = [0.0]
    cascade = slow_cascade(ticks, (0.001, 0.001), cold_runs=2 * len(SAMPLES))
    np.testing.assert_allclose(exit_times_ms(cascade, SAMPLES, rounds=1, clock=lambda: ticks[0]), [1.0, 2.0])


def test_times_rise_even_where_noise_makes_them_fall() -> None:
    def drifting() -> Iterator[float]:
        now, step = 0.0, 1.0
        while True:
            yield now
            now += step
            step *= 0.9  # every call is quicker than the one before

    clock = drifting()
    times = exit_times_ms(fake_cascade(4), SAMPLES[:1], rounds=1, clock=lambda: next(clock))
    assert (np.diff(times) > 0).all()


def test_the_cascades_own_policy_stays_as_it_is() -> None:
    cascade = fake_cascade(2)
    before = cascade.policy
    exit_times_ms(cascade, SAMPLES, rounds=1)
    assert cascade.policy == before
