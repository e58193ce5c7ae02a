"""Pooled probability: the weighted evidence of the exits passed so far."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.errors import BundleError
from edgeexit.policies import PooledProbability
from edgeexit.replay import judge

EXITS, CLASSES = 3, 4


def test_pooling_adds_the_weighted_evidence_of_the_exits_passed() -> None:
    logits = [np.asarray([[1.0, 0.0]]), np.asarray([[0.0, 3.0]])]
    policy = PooledProbability(((1.0, 0.0), (0.5, 2.0)), (float("inf"), float("inf")))
    judgement = judge(policy, [values.astype(np.float32) for values in logits])
    evidence = np.asarray([0.5 * 0 + 2 * 1, 0.5 * 3 + 2 * 0])
    assert judgement.label[1, 0] == 0
    assert judgement.score[1, 0] == pytest.approx(np.exp(evidence[0]) / np.exp(evidence).sum(), rel=1e-5)


def test_fitted_pooling_beats_each_exit_alone_where_exits_err_independently() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 4000)
    truth = np.eye(CLASSES, dtype=np.float32)[labels]
    logits = [2 * truth + rng.normal(size=truth.shape).astype(np.float32) * 1.5 for _ in range(EXITS)]
    judgement = judge(PooledProbability.fit(logits, labels), logits)
    accuracy = (judgement.label == labels).mean(axis=1)
    assert accuracy[-1] > max((values.argmax(axis=1) == labels).mean() for values in logits) + 0.05


def test_a_useless_earlier_exit_gets_next_to_no_weight() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 4000)
    noise = rng.normal(size=(4000, CLASSES)).astype(np.float32)
    good = 3 * np.eye(CLASSES, dtype=np.float32)[labels] + rng.normal(size=(4000, CLASSES)).astype(np.float32)
    own, earlier = PooledProbability.fit([noise, good], labels).weights[1]
    assert own > 1
    assert earlier * PooledProbability.fit([noise, good], labels).weights[0][0] < 0.1


def test_perfect_logits_are_fitted_without_running_away() -> None:
    labels = np.arange(100) % CLASSES
    perfect = [50 * np.eye(CLASSES, dtype=np.float32)[labels]] * 2
    policy = PooledProbability.fit(perfect, labels)
    assert np.isfinite(policy.weights).all()
    assert (judge(policy, perfect).label == labels).all()


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(BundleError, match="unusable value"):
        PooledProbability.load((0.5, float("inf")), {"policy.weights": np.asarray([[1, 0], [1, -1]], np.float32)})
