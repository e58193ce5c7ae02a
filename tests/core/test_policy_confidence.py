"""Entropy, log-probability and margin: their formulas, worked out by hand."""

from __future__ import annotations

from math import inf, log

import numpy as np
import pytest

from edgeexit.policies import policy_kind
from edgeexit.policies.confidence import Entropy, LogProbability, Margin
from edgeexit.replay import judge

PROBABILITIES = np.asarray([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [1 / 3, 1 / 3, 1 / 3]])
LOGITS = [np.log(PROBABILITIES).astype(np.float32)]


def of_one_exit(kind: type, temperature: float = 1.0) -> np.ndarray:
    judgement = judge(kind((temperature,), (inf,)), LOGITS)
    expected = PROBABILITIES ** (1 / temperature)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(judgement.probability[0], expected.max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(judgement.label[0], [0, 1, 0])
    return judgement.score[0]


def test_the_entropy_score_is_one_minus_entropy_over_its_largest_value() -> None:
    entropies = [-sum(p * log(p) for p in row) for row in PROBABILITIES]
    expected = [1 - h / log(3) for h in entropies]
    np.testing.assert_allclose(of_one_exit(Entropy), expected, atol=1e-6)
    assert expected[0] == pytest.approx(0.270153, abs=1e-6)
    assert expected[2] == pytest.approx(0, abs=1e-12)


def test_a_certain_answer_has_the_entropy_score_one() -> None:
    judgement = judge(Entropy((1.0,), (inf,)), [np.asarray([[1e4, 0.0, -1e4]], np.float32)])
    assert judgement.score[0, 0] == 1


def test_a_single_class_is_certain_by_every_measure() -> None:
    alone = [np.full((2, 1), 3.0, np.float32)]
    for kind, certain in ((Entropy, 1), (LogProbability, 0), (Margin, 1)):
        np.testing.assert_array_equal(judge(kind((1.0,), (inf,)), alone).score, [[certain, certain]])


def test_branchynets_entropy_threshold_is_a_threshold_of_the_score() -> None:
    in_nats = 0.9
    entropies = -(PROBABILITIES * np.log(PROBABILITIES)).sum(axis=1)
    policy = Entropy((1.0, 1.0), (1 - in_nats / log(3), inf))
    decision, _ = policy.decide(0, LOGITS[0], policy.start(3, 3))
    np.testing.assert_array_equal(decision.leave, entropies < in_nats)


def test_the_log_probability_score_is_the_natural_logarithm_of_the_largest_probability() -> None:
    np.testing.assert_allclose(of_one_exit(LogProbability), [log(0.7), log(0.5), log(1 / 3)], rtol=1e-5)


def test_log_probabilities_tell_samples_apart_whose_probabilities_are_all_one() -> None:
    logits = [np.asarray([[20.0, 0.0], [30.0, 0.0], [40.0, 0.0]], np.float32)]
    judgement = judge(LogProbability((1.0,), (inf,)), logits)
    np.testing.assert_array_equal(judgement.probability[0], 1)
    np.testing.assert_allclose(judgement.score[0], -np.exp([-20.0, -30.0, -40.0]), rtol=1e-5)


def test_the_margin_is_the_largest_probability_less_the_second_largest() -> None:
    np.testing.assert_allclose(of_one_exit(Margin), [0.5, 0.25, 0], atol=1e-6)


@pytest.mark.parametrize("kind", [Entropy, LogProbability, Margin])
def test_the_score_is_of_the_softmax_of_logits_over_temperature(kind: type) -> None:
    warm = judge(kind((2.0,), (inf,)), [2 * LOGITS[0]]).score
    np.testing.assert_allclose(warm, judge(kind((1.0,), (inf,)), LOGITS).score, atol=1e-6)
    of_one_exit(kind, 2.0)


def test_with_two_classes_all_confidences_order_the_samples_alike() -> None:
    rng = np.random.default_rng(0)
    logits = [rng.normal(0, 2, (200, 2)).astype(np.float32)]
    orders = [
        judge(policy_kind(name).load((inf,), {"policy.temperatures": np.ones(1, np.float32)}), logits).score.argsort()
        for name in ("max-probability", "entropy", "log-probability", "margin")
    ]
    assert all((order == orders[0]).all() for order in orders)


@pytest.mark.parametrize("name", ["entropy", "log-probability", "margin", "patience", "vote", "confusion"])
def test_the_fitted_temperature_makes_overconfident_logits_honest(name: str) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (6000, 3))
    chances = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    labels = (rng.random((6000, 1)) > chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
    fitted = policy_kind(name).fit([(4 * honest).astype(np.float32)], labels)
    assert fitted.tensors()["policy.temperatures"][0] == pytest.approx(4, rel=0.1)
