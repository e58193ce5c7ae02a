"""Thresholds: goals, what is measured, and the joint search."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.materials import MATERIALS, drawn_material
from edgeexit.errors import UnreachableError, UsageError
from edgeexit.thresholds import Budget, Goal, Material, MaxDrop, exits_taken, fit_thresholds, measure


def joint(material: Material, goal: Goal) -> np.ndarray:
    return fit_thresholds("joint", material, goal)


def test_a_sample_leaves_at_the_first_exit_whose_score_reaches_its_threshold_else_at_the_last() -> None:
    score = np.asarray([[0.9, 0.5, 0.1], [0.9, 0.7, 0.1], [0.0, 0.0, 0.0]], dtype=np.float32)
    assert exits_taken(score, np.asarray([0.6, 0.7])).tolist() == [0, 1, 2]
    assert exits_taken(score, np.asarray([np.inf, np.inf])).tolist() == [2, 2, 2]


def test_what_thresholds_give_is_counted_along_the_cascade() -> None:
    score = np.asarray([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=np.float32)
    correct = np.asarray([[True, False, True, True], [True, True, False, True]])
    outcome = measure(Material(score, correct, correct[-1], np.asarray([0.25, 1.0])), np.asarray([0.5]))
    assert outcome.accuracy == 0.5
    assert outcome.loss == 0.25
    assert outcome.mean_cost == 0.625


@settings(deadline=None)
@given(found=MATERIALS, limit=st.floats(0, 0.3), reserve=st.sampled_from([0.0, 1.0, 2.0]))
def test_the_loss_with_its_reserve_keeps_the_limit(found: Material, limit: float, reserve: float) -> None:
    outcome = measure(found, joint(found, MaxDrop(limit, reserve)))
    assert outcome.loss + reserve * outcome.standard_error <= limit + 1e-9


@settings(deadline=None)
@given(found=MATERIALS, limit=st.floats(0.2, 1.5))
def test_the_mean_cost_with_its_reserve_keeps_the_budget(found: Material, limit: float) -> None:
    outcome = measure(found, joint(found, Budget(limit, 2.0)))
    assert outcome.mean_cost + 2.0 * outcome.cost_error <= limit + 1e-9


@settings(deadline=None)
@given(found=MATERIALS, limit=st.floats(0, 0.3))
def test_the_cost_never_exceeds_that_of_the_whole_model(found: Material, limit: float) -> None:
    assert measure(found, joint(found, MaxDrop(limit))).mean_cost <= found.costs[-1] + 1e-9


def every_outcome(found: Material) -> list[tuple[float, float, float]]:
    """Mean cost, loss and accuracy of all threshold vectors that differ."""
    values = [[*np.unique(scores), np.inf] for scores in found.score[:-1]]
    outcomes = [measure(found, np.asarray(each)) for each in product(*values)]
    return [(outcome.mean_cost, outcome.loss, outcome.accuracy) for outcome in outcomes]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), limit=st.sampled_from([0.0, 0.02, 0.05, 0.1]))
def test_the_cost_is_close_to_the_best_of_all_thresholds(seed: int, limit: float) -> None:
    found = drawn_material(seed, exits=3, samples=60, levels=8)
    outcome = measure(found, joint(found, MaxDrop(limit, reserve=0.0)))
    best = min(cost for cost, loss, _ in every_outcome(found) if loss <= limit + 1e-12)
    assert outcome.mean_cost <= best + 0.04 + 1e-12


def test_the_accuracy_is_mostly_the_best_of_all_thresholds_and_never_far_from_it() -> None:
    short = []
    for seed in range(30):
        found = drawn_material(seed, exits=3, samples=60, levels=8)
        for budget in (0.3, 0.5, 0.7):
            outcome = measure(found, joint(found, Budget(budget, reserve=0.0)))
            best = max(accuracy for cost, _, accuracy in every_outcome(found) if cost <= budget + 1e-12)
            short.append(best - outcome.accuracy)
    assert np.mean(np.asarray(short) < 1e-12) > 0.8
    assert max(short) < 0.12


def test_a_larger_allowance_never_costs_more_by_much() -> None:
    found = drawn_material(0, exits=6, samples=2000)
    costs = [measure(found, joint(found, MaxDrop(limit))).mean_cost for limit in (0.0, 0.01, 0.03, 0.1)]
    assert all(later <= earlier + 0.005 for earlier, later in pairwise(costs))


def test_nobody_leaves_at_an_exit_that_is_always_wrong() -> None:
    found = drawn_material(1)
    correct = found.correct.copy()
    correct[0], correct[-1] = False, True
    thresholds = joint(Material(found.score, correct, correct[-1], found.costs), MaxDrop(0.0, reserve=0.0))
    assert thresholds[0] == np.inf


def test_everybody_leaves_at_a_first_exit_that_is_always_right() -> None:
    found = drawn_material(1)
    correct = found.correct.copy()
    correct[0] = True
    found = Material(found.score, correct, found.reference, found.costs)
    assert measure(found, joint(found, MaxDrop(0.0))).mean_cost == pytest.approx(found.costs[0])


@settings(deadline=None)
@given(found=MATERIALS)
def test_a_threshold_lies_between_scores_so_that_rounding_changes_no_exit(found: Material) -> None:
    thresholds = joint(found, MaxDrop(0.1))
    assert measure(found, thresholds) == measure(found, thresholds.astype(np.float32).astype(np.float64))


def times_kept_on_new_samples(reserve: float, draws: int = 30, limit: float = 0.02) -> int:
    kept = 0
    for seed in range(draws):
        found = drawn_material(seed, exits=4, samples=2000)
        thresholds = joint(found.rows(np.arange(1000)), MaxDrop(limit, reserve))
        kept += measure(found.rows(np.arange(1000, 2000)), thresholds).loss <= limit
    return kept


def test_a_reserve_makes_the_limit_hold_more_often_on_new_samples() -> None:
    without, one, two = (times_kept_on_new_samples(reserve) for reserve in (0.0, 1.0, 2.0))
    assert without < one < two
    assert one > 15
    assert two >= 24


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -2.0])
def test_a_goal_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(UsageError):
        Budget(bad)
    with pytest.raises(UsageError):
        MaxDrop(bad)
    with pytest.raises(UsageError):
        Budget(0.5, reserve=bad)


def test_a_loss_that_not_even_the_last_exit_keeps_is_refused_with_what_is_reachable() -> None:
    found = drawn_material(0, samples=1000)
    correct = found.correct.copy()
    correct[-1, :100] = False
    changed = Material(found.score, correct, np.ones(1000, dtype=bool), found.costs)
    lost = 1 - correct[-1].mean()
    with pytest.raises(UnreachableError, match=f"at least {lost:.4f}"):
        joint(changed, MaxDrop(0.01))


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="astrology"):
        fit_thresholds("astrology", drawn_material(0), MaxDrop(0.1))
