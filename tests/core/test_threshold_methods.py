"""Threshold methods: what each promises, and what all do."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.materials import MATERIALS, drawn_material, label_free
from edgeexit.errors import DataError, UnreachableError
from edgeexit.thresholds import METHODS, Budget, Goal, Material, MaxDrop, exits_taken, fit_thresholds, measure
from edgeexit.thresholds.bisection import bisected_quantiles, search_by_bisection
from edgeexit.thresholds.cuts import allowed_cuts, cut
from edgeexit.thresholds.geometric import geometric_shares, thresholds_for_shares
from edgeexit.thresholds.hull import time_share, upper_hull
from edgeexit.thresholds.risk import LOG_RISKS, RiskLine
from edgeexit.thresholds.tolerance import ToleranceLine

SEARCHED = ("risk", "geometric", "bisection", "tolerance")
METHOD = st.sampled_from(SEARCHED)
GOALS = st.one_of(
    st.builds(Budget, st.floats(0.2, 1.2), st.sampled_from([0.0, 1.0, 3.0])),
    st.builds(MaxDrop, st.floats(0.0, 0.3), st.sampled_from([0.0, 1.0])),
)


@settings(deadline=None, max_examples=80)
@given(method=METHOD, found=MATERIALS, goal=GOALS)
def test_the_goal_is_met_on_the_samples(method: str, found: Material, goal: Goal) -> None:
    thresholds = fit_thresholds(method, found, goal)
    assert thresholds.shape == (found.exits - 1,)
    assert not np.isnan(thresholds).any()
    assert goal.met(measure(found, thresholds))


@settings(deadline=None, max_examples=40)
@given(method=METHOD, found=MATERIALS, goal=GOALS)
def test_a_threshold_lies_between_scores_so_that_rounding_changes_no_exit(
    method: str, found: Material, goal: Goal
) -> None:
    thresholds = fit_thresholds(method, found, goal)
    assert measure(found, thresholds) == measure(found, thresholds.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_below_the_first_exit_is_refused_with_the_reachable_range(method: str) -> None:
    with pytest.raises(UnreachableError, match=r"0\.2 \(everybody leaves .*\) to 1 \(nobody"):
        fit_thresholds(method, drawn_material(0), Budget(0.19))


@pytest.mark.parametrize("method", METHODS)
def test_the_smallest_budget_sends_everybody_out_at_the_first_exit(method: str) -> None:
    found = drawn_material(0)
    outcome = measure(found, fit_thresholds(method, found, Budget(0.2)))
    assert outcome.mean_cost == pytest.approx(0.2)


@pytest.mark.parametrize("method", METHODS)
def test_a_cascade_of_one_exit_has_no_thresholds(method: str) -> None:
    found = drawn_material(0, exits=2).rows(np.arange(50))
    last = Material(found.score[1:], found.correct[1:], found.reference, found.costs[1:])
    assert fit_thresholds(method, last, MaxDrop(0.1)).shape == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_a_larger_budget_is_used(method: str) -> None:
    found = drawn_material(3, exits=5, samples=1500)
    accuracy = [measure(found, fit_thresholds(method, found, Budget(b, 0.0))).accuracy for b in (0.3, 0.5, 0.7)]
    assert accuracy[0] < accuracy[1] <= accuracy[2]


@pytest.mark.parametrize("method", METHODS)
def test_scores_of_two_values_still_meet_a_budget_between_the_extremes(method: str) -> None:
    found = drawn_material(5, samples=500, levels=1)
    assert 1 < len(np.unique(found.score)) <= 2
    outcome = measure(found, fit_thresholds(method, found, Budget(0.7, 0.0)))
    assert 0.2 < outcome.mean_cost <= 0.7


# Where a threshold can lie


def test_a_threshold_falls_halfway_between_different_scores_and_never_between_equal_ones() -> None:
    falling = np.asarray([0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    assert allowed_cuts(falling).tolist() == [True, True, False, True, True]
    assert [cut(falling, k) for k in (0, 1, 3, 4)] == pytest.approx([np.inf, 0.7, 0.3, 0.1])


def test_between_neighbouring_float32_numbers_the_threshold_is_the_higher_one() -> None:
    high = np.float32(0.5)
    falling = np.asarray([high, np.nextafter(high, np.float32(0))], dtype=np.float32)
    assert np.float32(cut(falling, 1)) == high


# MSDNet


@given(log_ratio=st.floats(-40, 40), exits=st.integers(1, 20))
def test_geometric_shares_grow_by_one_ratio_and_add_up_to_one(log_ratio: float, exits: int) -> None:
    shares = geometric_shares(log_ratio, exits)
    assert shares.sum() == pytest.approx(1)
    large = np.flatnonzero(shares > 1e-200)
    for first, second in pairwise(large.tolist()):
        assert np.log(shares[second] / shares[first]) == pytest.approx(log_ratio, abs=1e-6)


@given(seed=st.integers(0, 1000), log_ratio=st.floats(-2, 2))
def test_the_shares_are_met_to_a_sample_where_all_scores_differ(seed: int, log_ratio: float) -> None:
    score = np.random.default_rng(seed).permuted(np.linspace(0, 1, 4 * 200).reshape(4, 200), axis=1).astype(np.float32)
    shares = geometric_shares(log_ratio, 4)
    thresholds = thresholds_for_shares(score, np.argsort(-score[:-1], axis=1), shares)
    counts = np.bincount(exits_taken(score, thresholds), minlength=4)
    assert np.abs(counts - 200 * shares).max() <= 1


def test_what_equal_scores_withhold_from_one_exit_is_made_up_at_the_next() -> None:
    score = np.asarray([[1, 1, 1, 1, 1, 0, 0, 0, 0, 0], np.linspace(0, 1, 10), np.zeros(10)], dtype=np.float32)
    thresholds = thresholds_for_shares(score, np.argsort(-score[:-1], axis=1), np.asarray([0.2, 0.4, 0.4]))
    assert np.bincount(exits_taken(score, thresholds), minlength=3).tolist() == [0, 6, 4]


def test_geometric_thresholds_come_as_near_to_the_budget_as_a_sample_allows() -> None:
    found = drawn_material(0, exits=4, samples=1000)
    for budget in (0.25, 0.4, 0.6, 0.9):
        outcome = measure(found, fit_thresholds("geometric", found, Budget(budget, 0.0)))
        assert budget - 0.004 < outcome.mean_cost <= budget + 1e-12


# E²CM


def test_bisection_brings_the_mean_cost_to_the_targets() -> None:
    found = drawn_material(0, exits=4, samples=1000)
    targets = np.linspace(0.2, 1.0, 41)[1:-1]
    quantiles = bisected_quantiles(found, targets, np.random.default_rng(0))
    ranks = (np.argsort(np.argsort(found.score[:-1], axis=1), axis=1) + 0.5) / found.samples
    costs = [found.costs[exits_taken(np.vstack([ranks, ranks[:1]]), each)].mean() for each in quantiles]
    assert np.median(np.abs(costs - targets)) < 0.01


def test_the_search_starts_at_random_but_always_alike() -> None:
    found = drawn_material(0)
    np.testing.assert_array_equal(search_by_bisection(found).thresholds, search_by_bisection(found).thresholds)
    first, second = (bisected_quantiles(found, np.full(2, 0.6), np.random.default_rng(s)) for s in (0, 1))
    assert not np.allclose(first, second)


def test_the_vertices_of_the_search_are_the_best_of_what_it_found() -> None:
    search = search_by_bisection(drawn_material(0, exits=5, samples=800))
    points = [(o.mean_cost, o.accuracy) for o in search.outcomes]
    vertices = [points[i] for i in search.hull]
    assert len(vertices) > 3
    assert max(accuracy for _, accuracy in points) == vertices[-1][1]
    costs, accuracies = np.asarray(vertices).T
    assert all(accuracy <= np.interp(cost, costs, accuracies) + 1e-12 for cost, accuracy in points)


# The hull, and time sharing

POINTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30)


@given(points=POINTS)
def test_the_hull_rises_is_concave_and_lies_above_every_point(points: list[tuple[int, int]]) -> None:
    cost, accuracy = np.asarray(points, dtype=float).T
    hull = upper_hull(cost, accuracy)
    assert (np.diff(cost[hull]) > 0).all()
    assert (np.diff(accuracy[hull]) > 0).all()
    assert (np.diff(np.diff(accuracy[hull]) / np.diff(cost[hull])) < 1e-9).all()
    assert (accuracy <= np.interp(cost, cost[hull], accuracy[hull]) + 1e-9).all()
    assert cost[hull[0]] == cost.min()
    assert accuracy[hull[-1]] == accuracy.max()


@given(points=POINTS, budget=st.floats(0, 25))
def test_sharing_time_meets_the_budget_and_beats_every_point_within_it(
    points: list[tuple[int, int]], budget: float
) -> None:
    cost, accuracy = np.asarray(points, dtype=float).T
    if budget < cost.min():
        with pytest.raises(UnreachableError, match=f"{cost.min():.4g} to {cost.max():.4g}"):
            time_share(cost, accuracy, budget)
        return
    share = time_share(cost, accuracy, budget)
    assert 0 <= share.fraction <= 1
    mixed = (1 - share.fraction) * cost[share.first] + share.fraction * cost[share.second]
    assert share.cost == pytest.approx(mixed)
    assert share.cost <= budget + 1e-9
    assert share.accuracy == pytest.approx(
        (1 - share.fraction) * accuracy[share.first] + share.fraction * accuracy[share.second]
    )
    assert share.accuracy >= accuracy[cost <= budget].max() - 1e-9


def test_a_budget_between_two_points_is_shared_in_proportion() -> None:
    share = time_share([0.2, 0.6, 1.0], [0.5, 0.9, 0.95], 0.3)
    assert (share.first, share.second) == (0, 1)
    assert (share.fraction, share.accuracy, share.cost) == pytest.approx((0.25, 0.6, 0.3))


@pytest.mark.parametrize(("cost", "accuracy"), [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [np.inf])])
def test_what_are_no_points_is_refused(cost: list[float], accuracy: list[float]) -> None:
    with pytest.raises(DataError):
        upper_hull(cost, accuracy)


# SelfXit


def alone(found: Material, k: int, threshold: float) -> float:
    """The drop of accuracy if exit k were the only one."""
    leaves = found.score[k] >= np.float32(threshold)
    return float((leaves * (found.reference.astype(float) - found.correct[k])).mean())


@settings(deadline=None)
@given(found=MATERIALS, tolerance=st.floats(0, 0.5))
def test_each_exit_gets_the_lowest_threshold_that_keeps_its_part_of_the_tolerance(
    found: Material, tolerance: float
) -> None:
    thresholds = ToleranceLine(found)(tolerance)
    for k, threshold in enumerate(thresholds):
        allowed = tolerance / 2 ** (k + 1) + 1e-9
        assert alone(found, k, threshold) <= allowed
        lower = np.unique(found.score[k][found.score[k] < np.float32(threshold)])
        assert all(alone(found, k, float(each)) > allowed - 2e-9 for each in lower)


@settings(deadline=None)
@given(found=MATERIALS, tolerance=st.floats(0, 0.5))
def test_without_labels_the_cascade_disagrees_on_no_more_than_the_tolerance(found: Material, tolerance: float) -> None:
    free = label_free(found)
    outcome = measure(free, ToleranceLine(free)(tolerance))
    assert outcome.loss <= tolerance * (1 - 0.5 ** (found.exits - 1)) + 1e-9


def test_with_labels_the_tolerance_is_lowered_where_the_cascade_loses_more_than_its_exits() -> None:
    # Exit 0 takes the sample on which exit 1 gains, so that only exit 1's loss is left.
    score = np.asarray([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=np.float32)
    correct = np.asarray([[False, False, False, True], [True, False, True, True], [False, True, True, True]])
    found = Material(score, correct, correct[-1], np.asarray([0.2, 0.6, 1.0]))
    goal = MaxDrop(0.0, 0.0)
    assert not goal.met(measure(found, ToleranceLine(found)(0.0)))
    assert goal.met(measure(found, fit_thresholds("tolerance", found, goal)))


# Even risk


@settings(deadline=None)
@given(found=MATERIALS)
def test_a_larger_risk_equal_at_all_exits_never_raises_a_threshold_and_ends_with_everybody(found: Material) -> None:
    line = RiskLine(found)
    path = np.stack([line(log_risk) for log_risk in LOG_RISKS])
    assert (path[1:] <= path[:-1]).all()
    assert (path[-1] <= found.score[:-1].min(axis=1)).all()


def test_samples_leave_where_few_answers_are_lost() -> None:
    found = drawn_material(0, exits=2, samples=20_000)
    lost = found.reference & ~found.correct[0]
    for risk in (0.1, 0.2):
        leaves = found.score[0] >= np.float32(RiskLine(found)(np.log(risk))[0])
        edge = np.argsort(-found.score[0])[leaves.sum() - 1000 : leaves.sum()]
        assert lost[edge].mean() == pytest.approx(risk, abs=0.05)


def test_risk_weighed_against_cost_spares_an_exit_that_saves_next_to_nothing() -> None:
    found = drawn_material(0, exits=3, samples=4000)
    found = Material(found.score, found.correct, found.reference, np.asarray([0.29, 0.3, 1.0]))
    equal, weighed = (RiskLine(found, power)(np.log(0.2)) for power in (0.0, 1.0))
    shares = [np.bincount(exits_taken(found.score, each), minlength=3)[0] / found.samples for each in (equal, weighed)]
    assert shares[1] < shares[0] - 0.05


def test_the_order_of_the_scores_is_all_that_counts_for_even_risk() -> None:
    found = drawn_material(2, exits=4, samples=500)
    other = Material(np.exp(5 * found.score), found.correct, found.reference, found.costs)
    first, second = (fit_thresholds("risk", each, MaxDrop(0.03)) for each in (found, other))
    np.testing.assert_array_equal(exits_taken(found.score, first), exits_taken(other.score, second))


def test_from_few_samples_even_risk_keeps_a_loss_on_new_ones_more_often_than_the_joint_search() -> None:
    kept = SimpleNamespace(risk=0, joint=0)
    for seed in range(20):
        found = drawn_material(seed, exits=6, samples=2300)
        for method in ("risk", "joint"):
            thresholds = fit_thresholds(method, found.rows(np.arange(300)), MaxDrop(0.02))
            loss = measure(found.rows(np.arange(300, 2300)), thresholds).loss
            setattr(kept, method, getattr(kept, method) + (loss <= 0.02))
    assert kept.risk > kept.joint


def test_a_score_that_says_nothing_does_not_break_the_fit() -> None:
    found = drawn_material(0, samples=300)
    flat = Material(np.zeros_like(found.score), found.correct, found.reference, found.costs)
    assert measure(flat, fit_thresholds("risk", flat, Budget(0.5))).mean_cost <= 0.5


def test_of_a_score_that_says_nothing_as_many_leave_as_the_budget_asks_for() -> None:
    found = drawn_material(0, exits=2, samples=1000)
    noise = np.random.default_rng(1).random(found.score.shape, dtype=np.float32)
    blind = Material(noise, found.correct, found.reference, np.asarray([0.2, 1.0]))
    spent = measure(blind, fit_thresholds("risk", blind, Budget(0.6, reserve=0.0))).mean_cost
    assert spent == pytest.approx(0.6, abs=0.001)


@pytest.mark.parametrize("budget", [0.6, 1.0, 3.0])
def test_where_nothing_is_lost_no_budget_is_spent(budget: float) -> None:
    found = drawn_material(0, exits=3, samples=1000)
    agreeing = Material(found.score, np.ones_like(found.correct), np.ones(1000, dtype=bool), found.costs)
    assert measure(agreeing, fit_thresholds("risk", agreeing, Budget(budget))).mean_cost == pytest.approx(0.2)


def test_from_a_thousand_samples_even_risk_answers_new_ones_better_within_a_budget_than_the_joint_search() -> None:
    found = {"risk": 0.0, "joint": 0.0}
    for seed in range(10):
        drawn = drawn_material(seed, exits=6, samples=5000)
        for method in found:
            thresholds = fit_thresholds(method, drawn.rows(np.arange(1000)), Budget(0.8))
            outcome = measure(drawn.rows(np.arange(1000, 5000)), thresholds)
            assert outcome.mean_cost <= 0.8
            found[method] += outcome.accuracy / 10
    assert found["risk"] > found["joint"]


def test_a_budget_is_spent_where_thresholds_look_alike_and_not_where_later_exits_are_worse() -> None:
    rng = np.random.default_rng(3)
    score = rng.random((2, 2000), dtype=np.float32)
    early = score[0] > 0.5 * rng.random(2000)
    for last, wanted in ((True, 0.5), (False, 0.1)):  # the last exit is right always, or never
        correct = np.stack([early, np.full(2000, last)])
        found = Material(score, correct, np.ones(2000, dtype=bool), np.asarray([0.1, 1.0]))
        spent = measure(found, fit_thresholds("risk", found, Budget(0.5, reserve=0.0))).mean_cost
        assert spent == pytest.approx(wanted, abs=0.01)
