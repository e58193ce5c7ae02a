"""Thresholds: the least cost within the allowed loss."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.thresholds import fit_thresholds, measure

Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def problem(seed: int, exits: int = 3, samples: int = 200, *, levels: int | None = None) -> Problem:
    """Scores that tell something about correctness, later exits being better."""
    rng = np.random.default_rng(seed)
    skill = np.linspace(0.6, 0.9, exits)[:, None]
    correct = rng.random((exits, samples)) < skill
    score = np.clip(rng.beta(4, 2, (exits, samples)) + 0.3 * correct - 0.2, 0, 1)
    if levels:
        score = np.round(score * levels) / levels
    return score.astype(np.float32), correct, correct[-1], np.linspace(0.2, 1.0, exits)


PROBLEMS = st.builds(
    problem,
    st.integers(0, 10_000),
    st.integers(2, 5),
    st.integers(1, 300),
    levels=st.one_of(st.none(), st.integers(2, 6)),
)


@settings(deadline=None)
@given(found=PROBLEMS, limit=st.floats(0, 0.3), reserve=st.sampled_from([0.0, 1.0, 2.0]))
def test_the_loss_with_its_reserve_keeps_the_limit(found: Problem, limit: float, reserve: float) -> None:
    thresholds = fit_thresholds(*found, max_drop=limit, reserve=reserve)
    outcome = measure(*found, thresholds)
    assert outcome.loss + reserve * outcome.standard_error <= limit + 1e-9


@settings(deadline=None)
@given(found=PROBLEMS, limit=st.floats(0, 0.3))
def test_the_cost_never_exceeds_that_of_the_whole_model(found: Problem, limit: float) -> None:
    outcome = measure(*found, fit_thresholds(*found, max_drop=limit))
    assert outcome.mean_cost <= found[3][-1] + 1e-9


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), limit=st.sampled_from([0.0, 0.02, 0.05, 0.1]))
def test_the_cost_is_close_to_the_best_of_all_thresholds(seed: int, limit: float) -> None:
    found = problem(seed, exits=3, samples=60, levels=8)
    outcome = measure(*found, fit_thresholds(*found, max_drop=limit, reserve=0.0))
    values = [[*np.unique(found[0][k]), np.inf] for k in range(2)]
    every = [measure(*found, np.asarray(pair)) for pair in product(*values)]
    best = min(each.mean_cost for each in every if each.loss <= limit + 1e-12)
    assert outcome.mean_cost <= best + 0.04


def test_a_larger_allowance_never_costs_more_by_much() -> None:
    found = problem(0, exits=6, samples=2000)
    costs = [measure(*found, fit_thresholds(*found, max_drop=limit)).mean_cost for limit in (0.0, 0.01, 0.03, 0.1)]
    assert all(later <= earlier + 0.005 for earlier, later in pairwise(costs))


def test_nobody_leaves_at_an_exit_that_is_always_wrong() -> None:
    score, correct, _, costs = problem(1)
    correct = correct.copy()
    correct[0] = False
    correct[-1] = True
    thresholds = fit_thresholds(score, correct, correct[-1], costs, max_drop=0.0, reserve=0.0)
    assert thresholds[0] == np.inf


def test_everybody_leaves_at_a_first_exit_that_is_always_right() -> None:
    score, correct, reference, costs = problem(1)
    correct = correct.copy()
    correct[0] = True
    outcome = measure(score, correct, reference, costs, fit_thresholds(score, correct, reference, costs, max_drop=0.0))
    assert outcome.mean_cost == pytest.approx(costs[0])


@settings(deadline=None)
@given(found=PROBLEMS)
def test_a_threshold_lies_between_scores_so_that_rounding_changes_no_exit(found: Problem) -> None:
    thresholds = fit_thresholds(*found, max_drop=0.1)
    plain = measure(*found, thresholds)
    as_float32 = measure(*found, thresholds.astype(np.float32).astype(np.float64))
    assert plain == as_float32


def times_kept_on_new_samples(reserve: float, draws: int = 40, limit: float = 0.02) -> int:
    kept = 0
    for seed in range(draws):
        score, correct, reference, costs = problem(seed, exits=4, samples=4000)
        half = np.arange(4000) < 2000
        seen = score[:, half], correct[:, half], reference[half], costs
        thresholds = fit_thresholds(*seen, max_drop=limit, reserve=reserve)
        kept += measure(score[:, ~half], correct[:, ~half], reference[~half], costs, thresholds).loss <= limit
    return kept


def test_a_reserve_makes_the_limit_hold_more_often_on_new_samples() -> None:
    without, one, two = (times_kept_on_new_samples(reserve) for reserve in (0.0, 1.0, 2.0))
    assert without < one < two
    assert one > 20
    assert two >= 32
