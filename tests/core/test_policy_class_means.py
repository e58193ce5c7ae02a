"""Class means of logits, alone and beside the exit's own probability: E2CM's equations, by hand."""

from __future__ import annotations

from math import exp, inf

import numpy as np
import pytest

from edgeexit.calibration import softmax
from edgeexit.errors import BundleError
from edgeexit.policies import policy_kind
from edgeexit.policies.class_means import ClassMeans, NearestMeans, normalised_distances
from edgeexit.policies.combined import Either, Veto
from edgeexit.replay import judge, replay

# Two classes on a line: logits (a, −a). The normalised distances are |a − 2| and |a + 1| / 2, level at a = 1.
ROOT = 2**0.5
MEANS = np.asarray([[[2.0, -2.0], [-1.0, 1.0]]], np.float32)
DISTANCES = np.asarray([[ROOT, 2 * ROOT]], np.float32)


def on_the_line(*values: float) -> np.ndarray:
    return np.asarray([[value, -value] for value in values], np.float32)


def two_exits(kind: type, temperature: float = 1.0, own: float = 1.0) -> ClassMeans | Either | Veto:
    return kind((own, 1.0), (0.5, inf), NearestMeans(MEANS, DISTANCES, (temperature,)))


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def random_exits(samples: int = 400, classes: int = 5, exits: int = 3) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    truth = np.eye(classes)[labels]
    return [((k + 1) * truth + rng.normal(0, 1, truth.shape)).astype(np.float32) for k in range(exits)], labels


def test_distances_are_euclidean_and_over_the_stored_mean_distance_of_their_class() -> None:
    found = normalised_distances(on_the_line(1.0, -1.0), MEANS[0], DISTANCES[0])
    np.testing.assert_allclose(found, [[1, 1], [3, 0]], atol=1e-7)


def test_the_score_is_the_softmax_of_minus_the_normalised_distances_over_the_temperature() -> None:
    judgement = judge(two_exits(ClassMeans, temperature=0.5), [on_the_line(3.0, -1.0)] * 2)
    np.testing.assert_allclose(judgement.score[0], [sigmoid((2 - 1) / 0.5), sigmoid((3 - 0) / 0.5)], rtol=1e-6)
    np.testing.assert_array_equal(judgement.label[0], [0, 1])


def test_one_sample_is_not_normalised_by_itself() -> None:
    policy = two_exits(ClassMeans)
    alone, _ = policy.decide_one(0, on_the_line(3.0), policy.start(1, 2))
    assert alone.score == pytest.approx(sigmoid(1), rel=1e-6)


def test_the_last_exit_answers_with_its_own_logits() -> None:
    judgement = judge(two_exits(ClassMeans), [on_the_line(0.2, -0.2)] * 2)
    np.testing.assert_array_equal(judgement.label[0], [1, 1])
    np.testing.assert_array_equal(judgement.label[1], [0, 1])
    np.testing.assert_allclose(judgement.probability[1], sigmoid(0.4), rtol=1e-6)


def test_fitted_means_and_mean_distances_are_those_of_centred_logits() -> None:
    logits, labels = random_exits()
    nearest = ClassMeans.fit(logits, labels).nearest
    for k in range(2):
        centred = logits[k].astype(np.float64)
        centred -= centred.mean(axis=1, keepdims=True)
        means = np.stack([centred[labels == c].mean(axis=0) for c in range(5)])
        np.testing.assert_allclose(nearest.means[k], means, atol=1e-5)
        distances = np.linalg.norm(centred[:, None] - means, axis=2)
        np.testing.assert_allclose(nearest.distances[k], distances.mean(axis=0), rtol=1e-5)
        found = normalised_distances(logits[k], nearest.means[k], nearest.distances[k])
        np.testing.assert_allclose(found, distances / distances.mean(axis=0), atol=1e-5)


def test_the_means_of_many_samples_are_fitted_in_blocks_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = random_exits()
    whole = NearestMeans.fit(logits, labels)
    monkeypatch.setattr("edgeexit.policies.class_means._BLOCK_VALUES", 35)
    in_blocks = NearestMeans.fit(logits, labels)
    np.testing.assert_allclose(in_blocks.means, whole.means, atol=1e-5)
    np.testing.assert_allclose(in_blocks.distances, whole.distances, rtol=1e-5)


def test_the_fitted_temperature_makes_the_probability_honest() -> None:
    logits, labels = random_exits(4000)
    judgement = judge(ClassMeans.fit(logits, labels), logits)
    for k in range(2):
        right = (judgement.label[k] == labels).mean()
        assert judgement.probability[k].mean() == pytest.approx(right, abs=0.03)


@pytest.mark.parametrize("name", ["class-means", "either", "veto"])
def test_a_class_with_no_sample_has_probability_zero(name: str) -> None:
    logits, labels = random_exits()
    labels = np.where(labels == 3, 2, labels)
    nearest = policy_kind(name).fit(logits, labels).nearest
    np.testing.assert_array_equal(nearest.distances[:, 3], 0)
    found = nearest.opinion(0, 100 * np.eye(5, dtype=np.float32))
    assert 3 not in found.label
    assert np.isfinite(found.probability).all()


def test_either_leaves_when_one_of_the_two_is_sure_and_answers_as_the_classifier() -> None:
    judgement = judge(two_exits(Either, temperature=0.1), [on_the_line(0.2, 3.0)] * 2)
    np.testing.assert_allclose(judgement.score[0, 0], sigmoid((1.8 - 0.6) / 0.1), rtol=1e-5)  # for label 1
    np.testing.assert_allclose(judgement.score[0, 1], max(sigmoid(6), sigmoid((2 - 1) / 0.1)), rtol=1e-5)
    np.testing.assert_allclose(judgement.probability[0], [sigmoid(0.4), sigmoid(6)], rtol=1e-5)
    np.testing.assert_array_equal(judgement.label[0], [0, 0])


def test_veto_needs_both_to_be_sure() -> None:
    judgement = judge(two_exits(Veto, temperature=2.0), [on_the_line(3.0, -3.0)] * 2)
    assert judgement.score[0, 0] == pytest.approx(min(sigmoid(6), sigmoid((2 - 1) / 2)), rel=1e-5)
    assert judgement.score[0, 1] == pytest.approx(min(sigmoid(6), sigmoid((5 - 1) / 2)), rel=1e-5)
    unsure = judge(two_exits(Veto, temperature=0.1, own=20.0), [on_the_line(3.0)] * 2)
    assert unsure.score[0, 0] == pytest.approx(sigmoid(6 / 20), rel=1e-5)


def test_veto_keeps_a_sample_whose_two_labels_differ_however_sure_they_are() -> None:
    policy = two_exits(Veto, temperature=0.01, own=0.01).with_thresholds((1e-6, inf))
    judgement = judge(policy, [on_the_line(3.0, 0.2)] * 2)
    assert judgement.score[0, 0] > 0.9
    assert judgement.score[0, 1] == 0
    assert judgement.probability[0, 1] > 0.9
    np.testing.assert_array_equal(replay(policy, [on_the_line(3.0, 0.2)] * 2).exit, [0, 1])


def test_all_leave_at_a_veto_whose_threshold_is_zero() -> None:
    policy = two_exits(Veto).with_thresholds((0.0, inf))
    assert (replay(policy, [on_the_line(0.2, 3.0)] * 2).exit == 0).all()


@pytest.mark.parametrize("kind", [ClassMeans, Either, Veto])
def test_at_the_last_exit_the_score_is_the_logits_own_probability(kind: type) -> None:
    logits, labels = random_exits()
    policy = kind.fit(logits, labels)
    judgement = judge(policy, logits)
    own = softmax(logits[-1].astype(np.float64) / policy.temperatures[-1])
    np.testing.assert_allclose(judgement.score[-1], own.max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(judgement.label[-1], own.argmax(axis=1))


@pytest.mark.parametrize("kind", [ClassMeans, Either, Veto])
def test_means_of_another_number_of_classes_are_refused(kind: type) -> None:
    with pytest.raises(BundleError, match="another number of classes"):
        two_exits(kind).start(1, 3)


def test_an_exit_where_no_class_has_a_mean_is_refused() -> None:
    tensors = dict(two_exits(ClassMeans).tensors())
    with pytest.raises(BundleError, match="unusable"):
        ClassMeans.load((0.5, inf), {**tensors, "policy.mean_distances": np.zeros((1, 2), np.float32)})
