"""BWDS: gates trained from the last exit to the first by weighted binary classification."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from core.logits import drawn, rising
from edgeexit.policies import LearnedGate, MaxProbability, Setting
from edgeexit.policies.gate import FEATURES, features
from edgeexit.policies.gate_fitting import RIDGE, weighted_logistic
from edgeexit.replay import judge, replay
from edgeexit.thresholds import Budget, measure
from edgeexit.tuning import material, tune


@cache
def fitted(budget: float | None = 0.6) -> LearnedGate:
    data = drawn(3000, seed=3)
    return LearnedGate.fit(data.logits, data.labels, Setting(rising(3), budget))


def cost_at_half(policy: LearnedGate, seed: int = 3) -> float:
    answers = replay(policy.with_thresholds((0.5, 0.5, np.inf)), drawn(3000, seed=seed).logits)
    return float(rising(3)[answers.exit].mean())


# Logistic regression


def classified(samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, their classes, and the coefficients that the classes were drawn by."""
    random = np.random.default_rng(0)
    inputs = np.concatenate([random.normal(size=(samples, 2)), np.ones((samples, 1))], axis=1)
    true = np.array([1.5, -0.5, 0.3])
    return inputs, random.random(samples) < 1 / (1 + np.exp(-inputs @ true)), true


def test_coefficients_are_found_again() -> None:
    inputs, wanted, true = classified(20_000)
    np.testing.assert_allclose(weighted_logistic(inputs, wanted, np.ones(20_000), np.zeros(3)), true, atol=0.06)


def test_the_slope_of_the_loss_is_zero_at_the_coefficients_found() -> None:
    inputs, wanted, _ = classified(500)
    weights = np.random.default_rng(1).random(500)
    found = weighted_logistic(inputs, wanted, weights, np.full(3, 5.0))
    leave = 1 / (1 + np.exp(-inputs @ found))
    slope = inputs.T @ (weights / weights.mean() * (leave - wanted)) / 500 + [*(RIDGE * found[:2]), 1e-6 * found[2]]
    np.testing.assert_allclose(slope, 0, atol=1e-4)


def test_a_weight_of_two_is_a_sample_twice() -> None:
    inputs, wanted, _ = classified(300)
    twice = np.arange(300) % 3 == 0
    rows = np.concatenate([np.arange(300), np.flatnonzero(twice)])
    repeated = weighted_logistic(inputs[rows], wanted[rows], np.ones(len(rows)), np.zeros(3))
    weighted = weighted_logistic(inputs, wanted, 1.0 + twice, np.zeros(3))
    np.testing.assert_allclose(weighted, repeated, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_classes_that_a_line_parts_get_finite_coefficients(weight: float) -> None:
    inputs = np.stack([np.linspace(-2, 2, 100), np.ones(100)], axis=1)
    found = weighted_logistic(inputs, inputs[:, 0] > 0, np.full(100, weight), np.zeros(2))
    assert np.isfinite(found).all()
    assert found[0] >= 0


# What a gate sees


def test_the_features_are_three_probabilities_the_entropy_and_two_log_ratios() -> None:
    probabilities = np.array([[0.5, 0.0625, 0.25, 0.125, 0.0625]])
    found = features((np.log(probabilities) - np.log(0.5)).astype(np.float32))
    entropy = -(probabilities * np.log(probabilities)).sum() / np.log(5)
    np.testing.assert_allclose(found, [[0.5, 0.25, 0.125, entropy, 0.0, np.log(2)]], atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 3, 1000])
def test_any_number_of_classes_gives_as_many_features(classes: int) -> None:
    logits = np.random.default_rng(0).normal(0, 8, (30, classes)).astype(np.float32)
    found = features(logits - logits.max(axis=1, keepdims=True))
    assert found.shape == (30, FEATURES)
    assert np.isfinite(found).all()


# What it learns


def test_what_no_exit_has_right_is_let_go_though_nobody_is_sure_of_it() -> None:
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(4000) % 4)
    kind = random.integers(0, 3, 4000)  # easy: right at once; late: right at the last exit; hopeless: never
    first = np.array([4.0, 1.0, 0.2])[kind][:, None] * np.eye(4)[np.where(kind == 0, labels, (labels + 1) % 4)]
    last = 4.0 * np.eye(4)[np.where(kind == 2, (labels + 1) % 4, labels)]
    logits = [(at + 0.05 * random.normal(size=at.shape)).astype(np.float32) for at in (first, last)]
    costs = np.array([0.2, 1.0])
    budget = 0.2 + 0.8 * 0.4  # two thirds of the samples should leave at the first exit
    gate, rival = (
        tune(name, logits, labels, costs, Budget(budget), method="joint") for name in ("gate", "max-probability")
    )
    assert gate.outcome.accuracy == pytest.approx(2 / 3, abs=0.02)
    assert rival.outcome.accuracy < 0.6
    score = judge(gate.policy, logits).score[0]
    assert np.median(score[kind == 2]) > np.median(score[kind == 1])


def test_an_exit_that_is_as_often_right_as_all_later_ones_lets_everybody_go() -> None:
    data = drawn(500)
    policy = LearnedGate.fit([data.logits[-1]] * 3, data.labels, Setting(rising(3)))
    assert (judge(policy, [data.logits[-1]] * 3).score[:2] > 0.5).all()


def test_an_exit_that_is_never_right_keeps_everybody() -> None:
    data = drawn(500, classes=2)
    sure = (20 * np.eye(2, dtype=np.float32))[data.labels]
    policy = LearnedGate.fit([-data.logits[0], -sure, sure], data.labels, Setting(rising(3)))
    assert (judge(policy, [-data.logits[0], -sure, sure]).score[1] < 0.5).all()


@pytest.mark.parametrize("budget", [0.45, 0.6, 0.8])
def test_the_gates_meet_the_budget_at_one_half(budget: float) -> None:
    assert cost_at_half(fitted(budget)) <= budget + 1e-3
    assert cost_at_half(fitted(budget)) >= budget - 0.02
    assert cost_at_half(fitted(budget), seed=4) == pytest.approx(budget, abs=0.03)


def test_a_budget_in_other_units_gives_the_same_gates() -> None:
    data = drawn(3000, seed=3)
    other = LearnedGate.fit(data.logits, data.labels, Setting(20 * rising(3), 12.0))
    np.testing.assert_allclose(other.weights, fitted(0.6).weights, rtol=1e-4)


def test_it_is_at_least_as_accurate_as_the_largest_probability_at_the_same_cost() -> None:
    new = drawn(20_000, seed=4)
    seen = drawn(3000, seed=3)
    accuracy = {}
    for name in ("gate", "max-probability"):
        tuned = tune(name, seen.logits, seen.labels, rising(3), Budget(0.6), method="joint")
        thresholds = np.asarray(tuned.policy.thresholds[:-1])
        accuracy[name] = measure(material(tuned.policy, new.logits, new.labels, rising(3)), thresholds).accuracy
    assert accuracy["gate"] > accuracy["max-probability"] - 0.003


def test_equal_fits_give_equal_gates_and_the_last_exit_has_none() -> None:
    again = fitted.__wrapped__()
    np.testing.assert_array_equal(fitted().weights, again.weights)
    assert not fitted().weights[-1].any()
    assert (judge(fitted(), drawn(50).logits).score[-1] == 0.5).all()


def test_the_answer_is_the_exits_own_with_its_calibrated_probability() -> None:
    data = drawn(200, seed=6)
    found = judge(fitted(), data.logits)
    expected = judge(MaxProbability(fitted().temperatures, (np.inf,) * 3), data.logits)
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-5)


def test_a_sample_has_the_very_same_score_alone_as_in_a_batch() -> None:
    data = drawn(300, seed=5)
    together = judge(fitted(), data.logits).score
    alone = [judge(fitted(), data.rows(np.array([i])).logits).score[:, 0] for i in range(300)]
    np.testing.assert_array_equal(together, np.stack(alone, axis=1))


@pytest.mark.parametrize("budget", [0.45, 0.6, 0.8])
def test_a_budget_holds_on_new_samples(budget: float) -> None:
    seen, new = drawn(2000, seed=1), drawn(4000, seed=2)
    tuned = tune("gate", seen.logits, seen.labels, rising(3), Budget(budget))
    assert rising(3)[replay(tuned.policy, new.logits).exit].mean() <= 1.01 * budget
    assert tuned.method == "common"
