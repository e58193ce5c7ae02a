"""Stacked margin: the exits passed so far, corrected class by class."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.calibration import softmax
from edgeexit.errors import BundleError
from edgeexit.policies import PooledProbability, StackedMargin
from edgeexit.policies.minimiser import minimise
from edgeexit.replay import judge

CLASSES = 4


def confused(samples: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Exit 0 cannot tell classes 0 and 1 apart, exit 1 not 2 and 3; both always know the other pair."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, samples)
    logits = []
    for blind in ((0, 1), (2, 3)):
        values = rng.normal(0, 1, (samples, CLASSES))
        values[np.arange(samples), labels] += 4.0
        rows = np.isin(labels, blind)
        values[np.ix_(rows, blind)] = values[np.ix_(rows, blind)].max(axis=1, keepdims=True)
        values[np.ix_(rows, blind)] += rng.normal(0, 1, (rows.sum(), 2))
        logits.append(values.astype(np.float32))
    return logits, labels


def answers(policy: PooledProbability | StackedMargin, logits: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
    return (judge(policy, logits).label == labels).mean(axis=1)


def test_it_learns_which_exit_knows_which_class() -> None:
    seen, unseen = confused(2000, 0), confused(2000, 1)
    stacked, pooled = StackedMargin.fit(*seen), PooledProbability.fit(*seen)
    assert answers(stacked, *unseen)[-1] > answers(pooled, *unseen)[-1] + 0.02


def test_a_constant_confusion_is_undone_at_the_first_exit() -> None:
    logits, labels = confused(3000, 0)
    swapped = [np.ascontiguousarray(values[:, [0, 1, 3, 2]]) for values in logits]
    fitted = StackedMargin.fit(swapped, labels)
    assert answers(fitted, swapped, labels)[0] > (swapped[0].argmax(axis=1) == labels).mean() + 0.2


def test_probabilities_are_honest_on_new_samples() -> None:
    logits, labels = confused(4000, 0)
    unseen, truth = confused(4000, 1)
    judgement = judge(StackedMargin.fit(logits, labels), unseen)
    for k in range(2):
        assert judgement.probability[k].mean() == pytest.approx((judgement.label[k] == truth).mean(), abs=0.02)


def test_few_samples_a_class_fit_no_matrices() -> None:
    rng = np.random.default_rng(0)
    logits = [rng.normal(0, 1, (60, 10)).astype(np.float32) for _ in range(2)]
    fitted = StackedMargin.fit(logits, rng.integers(0, 10, 60))
    off_diagonal = fitted.weights[:, :10] * (1 - np.eye(10, dtype=np.float32))
    assert not off_diagonal.any()


def test_an_absent_class_does_not_upset_the_fit() -> None:
    logits, labels = confused(500, 0)
    for values in logits:
        values[:, 2] = -1e6
    fitted = StackedMargin.fit(logits, np.where(labels == 2, 3, labels))
    judgement = judge(fitted, logits)
    assert np.isfinite(judgement.score).all()
    assert (judgement.label != 2).all()


def test_weights_of_other_shape_are_refused() -> None:
    fitted = StackedMargin.fit(*confused(200, 0))
    tensors = {**fitted.tensors(), "policy.weights": fitted.weights[:, 1:]}
    with pytest.raises(BundleError, match=r"policy\.weights"):
        StackedMargin.load(fitted.thresholds, tensors)


def test_the_minimiser_finds_the_minimum_of_a_badly_scaled_quadratic() -> None:
    scale = np.logspace(0, 2, 20)
    target = np.linspace(-2, 2, 20)

    def value_and_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        return float(0.5 * (scale * (x - target) ** 2).sum()), scale * (x - target)

    np.testing.assert_allclose(minimise(value_and_slope, np.zeros(20)), target, atol=0.02)


def test_the_minimiser_agrees_with_newtons_method_on_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (500, 3))
    labels = (inputs @ [1.0, -2.0, 0.5] + rng.logistic(0, 1, 500) > 0).astype(float)

    def value_and_slope(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = inputs @ w
        loss = float((np.logaddexp(0, z) - labels * z).mean() + 0.01 * w @ w)
        return loss, inputs.T @ (1 / (1 + np.exp(-z)) - labels) / 500 + 0.02 * w

    newton = np.zeros(3)
    for _ in range(20):
        p = 1 / (1 + np.exp(-inputs @ newton))
        hessian = inputs.T @ (inputs * (p * (1 - p))[:, None]) / 500 + 0.02 * np.eye(3)
        newton -= np.linalg.solve(hessian, value_and_slope(newton)[1])
    np.testing.assert_allclose(minimise(value_and_slope, np.zeros(3)), newton, atol=2e-3)


def test_with_no_matrices_it_is_pooled_probability() -> None:
    logits, _ = confused(300, 0)
    eye = np.eye(CLASSES, dtype=np.float32)
    zero = np.zeros_like(eye)
    weights = np.stack([np.concatenate([eye, zero]), np.concatenate([0.7 * eye, 0.4 * eye])]).astype(np.float32)
    stacked = StackedMargin((1.0, 1.0), weights, np.zeros((2, CLASSES), np.float32), (1.0, 1.0))
    pooled = PooledProbability(((1.0, 0.0), (0.7, 0.4)), (1.0, 1.0))
    np.testing.assert_allclose(judge(stacked, logits).probability, judge(pooled, logits).probability, rtol=2e-3)
    probabilities = np.sort(softmax(logits[0]), axis=1)
    np.testing.assert_allclose(judge(stacked, logits).score[0], probabilities[:, -1] - probabilities[:, -2], atol=1e-4)
