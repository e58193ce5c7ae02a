"""Tests on counts: their p-values are those of the textbook, and uniform where nothing has changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeexit.significance import chi_square_tail, fisher_more, homogeneity, wilson_interval


@pytest.mark.parametrize(
    ("value", "freedom", "tail"),
    [(3.841459, 1, 0.05), (5.991465, 2, 0.05), (9.487729, 4, 0.05), (16.811894, 6, 0.01), (30.577914, 15, 0.01)],
)
def test_the_chi_square_tail_is_that_of_the_tables(value: float, freedom: int, tail: float) -> None:
    assert chi_square_tail(value, freedom) == pytest.approx(tail, rel=1e-5)


def test_far_out_the_tail_is_tiny_and_not_negative() -> None:
    assert 0 <= chi_square_tail(5000.0, 3) < 1e-300
    assert chi_square_tail(0.0, 3) == 1.0


def test_homogeneity_is_pearsons_test() -> None:
    found = homogeneity([30, 50, 20], [60, 60, 80])
    expected = [[30.0, 110 / 3, 100 / 3], [60.0, 220 / 3, 200 / 3]]
    rows = [[30, 50, 20], [60, 60, 80]]
    statistic = sum((n - e) ** 2 / e for r, s in zip(rows, expected, strict=True) for n, e in zip(r, s, strict=True))
    assert found.cells == 3
    assert found.p_value == pytest.approx(math.exp(-statistic / 2))


def test_columns_with_few_samples_are_joined() -> None:
    assert homogeneity([2, 2, 2, 2, 40, 2], [200, 200, 200, 200, 4000, 200]).cells == 2
    assert homogeneity([1, 0], [5, 3]) == (1.0, 0)
    assert homogeneity([0, 0], [50, 50]).cells < 2


def test_where_nothing_has_changed_p_values_are_uniform() -> None:
    random = np.random.default_rng(0)
    shares = [0.5, 0.2, 0.2, 0.1]
    found = [homogeneity(random.multinomial(300, shares), random.multinomial(700, shares)).p_value for _ in range(800)]
    for level in (0.01, 0.1, 0.5):
        assert np.mean(np.array(found) < level) == pytest.approx(level, abs=3.5 * math.sqrt(level / 800))


def test_fishers_test_is_exact() -> None:
    ways = math.comb(4, 3) * math.comb(26, 7) + math.comb(4, 4) * math.comb(26, 6)
    assert fisher_more(3, 10, 1, 20) == pytest.approx(ways / math.comb(30, 10))
    assert fisher_more(0, 10, 1, 20) == pytest.approx(1.0)
    assert fisher_more(10, 10, 0, 20) == pytest.approx(1 / math.comb(30, 10))


def test_wilsons_interval_holds_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(1)
    hits = random.binomial(80, 0.95, 2000)
    held = [low <= 0.95 <= high for low, high in (wilson_interval(int(h), 80) for h in hits)]
    assert 0.92 < np.mean(held) < 0.98
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(5, 5)[1] == 1.0
