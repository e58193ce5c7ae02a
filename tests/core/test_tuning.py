"""Tuning: a policy with thresholds that meet a goal, as a bundle will hold it."""

from __future__ import annotations

import numpy as np
import pytest

from core.logits import drawn, rising
from core.materials import drawn_material
from edgeexit.errors import UnreachableError, UsageError
from edgeexit.policies import POLICIES, PooledProbability, Setting
from edgeexit.replay import judge, replay
from edgeexit.thresholds import Budget, Goal, MaxDrop, fit_thresholds, measure
from edgeexit.tuning import (
    as_stored,
    fit_as_stored,
    fit_held_out,
    fit_on,
    material,
    summarise,
    tune,
    tune_all,
    with_early,
)

DATA, COSTS = drawn(500, seed=3), rising(3)
CACHED = (DATA.logits, DATA.labels, COSTS)
GOALS = pytest.mark.parametrize("goal", [Budget(0.6), MaxDrop(0.02)], ids=["budget", "loss"])


@GOALS
def test_the_outcome_meets_the_goal_and_is_what_a_replay_gives(goal: Goal) -> None:
    tuned = tune("pooled-probability", *CACHED, goal)
    answers = replay(tuned.policy, DATA.logits)
    assert goal.met(tuned.outcome)
    assert tuned.outcome.accuracy == pytest.approx((answers.label == DATA.labels).mean())
    assert tuned.outcome.mean_cost == pytest.approx(COSTS[answers.exit].mean())


def test_the_method_is_that_of_the_policys_own_text_unless_another_is_asked_for() -> None:
    assert tune("pooled-probability", *CACHED, Budget(0.6)).method == POLICIES["pooled-probability"].thresholds
    assert tune("max-probability", *CACHED, Budget(0.6), method="joint").method == "joint"


def test_thresholds_are_fitted_on_the_scores_of_the_rounded_policy() -> None:
    sharp = PooledProbability(((1 / 3, 0.0), (0.1, 0.7), (0.3, 0.6)), (0.5, 0.5, np.inf))
    rounded = as_stored(sharp)
    np.testing.assert_array_equal(rounded.tensors()["policy.weights"], sharp.tensors()["policy.weights"])
    assert as_stored(rounded) == rounded
    tuned = tune("pooled-probability", *CACHED, Budget(0.6)).policy
    np.testing.assert_array_equal(judge(as_stored(tuned), DATA.logits).score, judge(tuned, DATA.logits).score)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_fitted_stored_and_given_thresholds(name: str) -> None:
    small = drawn(80, seed=4)
    policy = fit_as_stored(name, small.logits, small.labels, Setting(COSTS, 0.7, 0))
    assert with_early(policy, np.array([0.5, np.inf])).thresholds == (0.5, np.inf, np.inf)


@pytest.mark.parametrize("name", POLICIES)
def test_a_class_that_the_model_never_names_stops_no_fit(name: str) -> None:
    few = drawn(120, seed=4)
    few = few.rows(few.labels != 2)
    policy = fit_as_stored(name, few.logits, few.labels, Setting(COSTS, 0.7, 0))
    assert np.isfinite(judge(policy, few.logits).score).all()


def test_thresholds_that_let_everybody_leave_can_be_stored() -> None:
    policy = fit_as_stored("max-probability", DATA.logits, DATA.labels, Setting())
    everybody = with_early(policy, np.array([-np.inf, 0.5]))
    assert np.isfinite(everybody.thresholds[0])
    assert (replay(everybody, DATA.logits).exit == 0).all()


@GOALS
def test_the_policy_that_serves_the_goal_best_comes_first(goal: Goal) -> None:
    names = ("max-probability", "pooled-probability")
    outcomes = [tune(name, *CACHED, goal, method="joint").outcome for name in names]
    best, second = (tuned.outcome for tuned in tune_all(names, *CACHED, goal, method="joint"))
    assert sorted([best, second], key=str) == sorted(outcomes, key=str)
    assert not goal.better(second, best)


def test_what_a_policy_costs_may_depend_on_the_policy() -> None:
    tuned = tune("max-probability", *CACHED, Budget(1.2), method="joint", price=lambda policy: 2 * COSTS)
    np.testing.assert_array_equal(tuned.costs, 2 * COSTS)
    assert tuned.outcome.mean_cost <= 1.2
    assert tuned.outcome.mean_cost > 2 * COSTS[0]


def test_a_budget_below_the_first_exit_is_refused_before_anything_is_fitted() -> None:
    unusable = tuple(np.zeros((3, 4), np.float32) for _ in range(3))
    with pytest.raises(UnreachableError, match=r"0\.1(.|\n)*0\.3333 (.|\n)* to 1 "):
        tune("max-probability", unusable, np.zeros(0, np.int64), COSTS, Budget(0.1))


def test_if_no_policy_can_the_first_says_why() -> None:
    with pytest.raises(UnreachableError, match="below the cost"):
        tune_all(("max-probability", "pooled-probability"), *CACHED, Budget(0.2))


@pytest.mark.parametrize("name", ["telepathy", ""])
def test_a_policy_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no such policy"):
        tune(name, *CACHED, Budget(0.5))


def test_a_method_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="no such threshold method"):
        tune("max-probability", *CACHED, Budget(0.5), method="guess")


def test_no_policy_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no policy was named"):
        tune_all((), *CACHED, Budget(0.5))


@pytest.mark.parametrize(("goal", "unit"), [(Budget(0.6), "macs"), (Budget(4.0), "ms"), (MaxDrop(0.02), "macs")])
def test_the_summary_says_what_was_asked_and_what_came_of_it(goal: Goal, unit: str) -> None:
    costs = 7 * COSTS if unit == "ms" else COSTS
    tuned = tune("max-probability", DATA.logits, DATA.labels, costs, goal, method="joint")
    summary = summarise(tuned, DATA, COSTS, goal, labels="model", unit=unit)  # type: ignore[arg-type]
    answers = replay(tuned.policy, DATA.logits)
    asked = (summary.max_drop, summary.delta, summary.budget, summary.unit)
    assert asked == ((None, None, goal.limit, unit) if isinstance(goal, Budget) else (goal.limit, None, None, None))
    assert (summary.samples, summary.labels, summary.held_out, summary.method) == (500, "model", False, "joint")
    assert summary.mean_cost == pytest.approx(COSTS[answers.exit].mean())
    assert summary.accuracy == pytest.approx((answers.label == DATA.labels).mean())
    assert summary.full_accuracy == pytest.approx((DATA.logits[-1].argmax(axis=1) == DATA.labels).mean())
    assert summary.exit_shares == pytest.approx(np.bincount(answers.exit, minlength=3) / 500)
    assert summary.drift is not None
    assert sum(map(sum, summary.drift.counts)) == 500


def test_a_largest_loss_is_not_kept_by_thresholds_that_only_suit_their_samples() -> None:
    beyond, lowered_beyond = [], []
    for seed in range(8):
        found = drawn_material(seed, exits=8, samples=1600)
        half = np.arange(1600) < 800
        goal = MaxDrop(0.02)
        for losses, fit in ((beyond, fit_thresholds), (lowered_beyond, fit_held_out)):
            losses.append(measure(found.rows(~half), fit("joint", found.rows(half), goal)).loss - goal.limit)
    assert np.mean(lowered_beyond) < np.mean(beyond) - 0.003


def test_scores_for_thresholds_come_from_fits_without_the_sample_where_a_fit_flatters() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    logits = [rng.normal(size=(400, 4)).astype(np.float32) for _ in range(3)]
    costs = np.asarray([0.3, 0.6, 1.0])
    policy, trial = fit_on("stacked-margin", logits, labels, costs, Setting())
    flattering = material(policy, logits, labels, costs)
    assert trial.correct.mean() < flattering.correct.mean()
    assert trial.score.shape == flattering.score.shape
