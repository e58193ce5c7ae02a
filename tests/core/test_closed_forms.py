"""Closed forms of heads: statistics continue and merge, and give the heads of all samples together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.heads import ClassMeansLearner, ClassMeansStatistics, GaussianLearner, GaussianStatistics
from edgeexit.heads.class_means import distances
from edgeexit.heads.gaussian import ABSENT_LOGIT

K, D = 4, 12

Samples = tuple[NDArray[np.float32], NDArray[np.int64]]


def samples(seed: int, n: int, *, offset: float = 0.0, classes: int = K) -> Samples:
    """Correlated features about class means, and labels."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(D, D))
    centres = np.random.default_rng(8).normal(size=(K, D)) * 2
    labels = random.integers(0, classes, n)
    return (random.normal(size=(n, D)) @ mixing + centres[labels] + offset).astype(np.float32), labels


def gaussian(*parts: Samples, start: GaussianStatistics | None = None) -> GaussianStatistics:
    learner = GaussianLearner(K, D, start)
    for features, labels in parts:
        learner.add(features, labels)
    return replace(learner.statistics(), shrinkage=0.03)


def class_means(*parts: Samples, start: ClassMeansStatistics | None = None) -> ClassMeansStatistics:
    learner = ClassMeansLearner(K, D, start)
    for features, labels in parts:
        learner.add(features, labels)
    return learner.statistics()


def stored_gaussian(found: GaussianStatistics) -> GaussianStatistics:
    return GaussianStatistics.load(found.stored(), found.head())


def stored_class_means(found: ClassMeansStatistics) -> ClassMeansStatistics:
    return ClassMeansStatistics.load(found.stored(), found.head())


def gaussian_logits(found: GaussianStatistics, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """About their mean: a constant added to all logits of a sample means nothing."""
    head = found.head()
    logits = features @ head["weight"].T.astype(np.float64) + head["bias"]
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 400),
    m=st.integers(1, 400),
    offset=st.sampled_from([0.0, 30.0]),
    classes=st.integers(1, K),
)
def test_gaussian_statistics_continued_with_new_samples_are_those_of_all_samples(
    seed: int, n: int, m: int, offset: float, classes: int
) -> None:
    old, new = samples(seed, n, offset=offset, classes=classes), samples(seed + 1, m, offset=offset)
    continued, together = gaussian(new, start=gaussian(old)), gaussian(old, new)
    np.testing.assert_array_equal(continued.counts, together.counts)
    np.testing.assert_allclose(continued.means, together.means, atol=1e-4)
    scale = 1.0 + float(np.abs(together.covariance).max())
    np.testing.assert_allclose(continued.covariance, together.covariance, atol=1e-4 * scale)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), rounds=st.integers(1, 5))
def test_a_gaussian_head_stored_and_updated_again_and_again_is_that_of_all_samples(seed: int, rounds: int) -> None:
    parts = [samples(seed + i, 150) for i in range(rounds + 1)]
    found = gaussian(parts[0])
    for part in parts[1:]:
        found = gaussian(part, start=stored_gaussian(found))
    features, _ = samples(seed + 100, 50)
    expected = gaussian_logits(gaussian(*parts), features)
    np.testing.assert_allclose(gaussian_logits(found, features), expected, atol=1e-3 * np.abs(expected).max())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(50, 900), m=st.integers(1, 900), offset=st.sampled_from([0.0, 30.0]))
def test_class_means_updated_are_those_of_all_samples_and_their_norms_within_two_percent(
    seed: int, n: int, m: int, offset: float
) -> None:
    old, new = samples(seed, n, offset=offset), samples(seed + 1, m, offset=offset)
    found = class_means(new, start=stored_class_means(class_means(old))).head()
    expected = class_means(old, new).head()
    np.testing.assert_allclose(found["means"], expected["means"], atol=1e-4)
    np.testing.assert_allclose(found["norms"], expected["norms"], rtol=0.02)


def test_norms_of_moved_samples_are_their_mean_distances() -> None:
    old, new = samples(0, 600), samples(1, 500)
    moved = (new[0] * np.float32(0.5) + np.float32(2.0), new[1])
    head = class_means(moved, start=class_means(old)).head()
    everything = np.concatenate([old[0], moved[0]])
    np.testing.assert_allclose(head["norms"], distances(everything, head["means"]).mean(axis=0), rtol=0.02)


def test_the_order_in_which_classes_come_does_not_change_an_update() -> None:
    old, (features, labels) = samples(0, 300), samples(1, 3000)
    order = np.argsort(labels, kind="stable")
    mixed = class_means((features, labels), start=class_means(old)).head()
    sorted_ = class_means((features[order], labels[order]), start=class_means(old)).head()
    np.testing.assert_allclose(mixed["norms"], sorted_["norms"], rtol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 1000, 5000])
def test_the_way_new_samples_are_cut_into_batches_does_not_matter(n: int) -> None:
    old, (features, labels) = gaussian(samples(0, 300)), samples(1, 5000)
    pieces = [(features[i : i + n], labels[i : i + n]) for i in range(0, 5000 if n > 3 else 700, n)]
    whole = (np.concatenate([f for f, _ in pieces]), np.concatenate([y for _, y in pieces]))
    found, expected = gaussian(*pieces, start=old), gaussian(whole, start=old)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fit", [gaussian, class_means])
def test_statistics_without_new_samples_stay_as_they_are(fit) -> None:  # type: ignore[no-untyped-def]
    found = fit(samples(0, 100))
    for one, other in zip(fit(start=found).head().values(), found.head().values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_forgotten_samples_weigh_as_much_less_as_was_said() -> None:
    old, new = samples(0, 400), samples(1, 200)
    quarter = (old[0][:100], old[1][:100])
    forgetful = gaussian(new, start=gaussian(old).scaled(0.25))
    assert forgetful.counts.sum() == pytest.approx(300)
    small = gaussian(new, start=gaussian(quarter))
    weights = [s.counts[0] / s.counts.sum() for s in (forgetful, small)]
    assert weights[0] == pytest.approx(weights[1], abs=0.05)
    n, m = 0.25 * np.bincount(old[1], minlength=K), np.bincount(new[1], minlength=K)
    means = [np.stack([x[y == k].mean(axis=0, dtype=np.float64) for k in range(K)]) for x, y in (old, new)]
    expected = (n[:, None] * means[0] + m[:, None] * means[1]) / (n + m)[:, None]
    np.testing.assert_allclose(forgetful.means, expected, atol=1e-4)


def test_a_class_that_was_never_seen_is_learned_from_new_samples() -> None:
    old, new = samples(0, 600, classes=K - 1), samples(1, 600)
    before, after = gaussian(old), gaussian(new, start=gaussian(old))
    features, labels = samples(2, 500)
    assert before.head()["bias"][-1] == np.float32(ABSENT_LOGIT)
    assert (gaussian_logits(before, features).argmax(axis=1) != K - 1).all()
    right = gaussian_logits(after, features).argmax(axis=1) == labels
    assert right[labels == K - 1].mean() > 0.5
    means = class_means(new, start=stored_class_means(class_means(old)))
    together = class_means(old, new)
    np.testing.assert_allclose(means.head()["norms"], together.head()["norms"], rtol=0.02)


@pytest.mark.parametrize(
    ("word", "value"), [("shrinkage", 0.0), ("shrinkage", 1.5), ("shrinkage", -1.0), ("covariance", -1.0)]
)
def test_gaussian_statistics_that_no_fit_gives_are_refused(word: str, value: float) -> None:
    found = gaussian(samples(0, 100))
    stored = found.stored()
    stored[word] = stored[word].copy()
    stored[word][0] = value
    with pytest.raises(BundleError, match="unusable covariance or shrinkage"):
        GaussianStatistics.load(stored, found.head())


def test_samples_that_are_all_alike_can_be_stored_and_continued() -> None:
    alike = (np.full((50, D), np.float32(0.1)), np.arange(50) % K)
    for fit, reload in ((gaussian, stored_gaussian), (class_means, stored_class_means)):
        again = fit(samples(0, 200), start=reload(fit(alike)))  # type: ignore[operator]
        assert all(np.isfinite(array).all() for array in again.head().values())


def test_what_is_stored_has_the_shapes_that_were_promised() -> None:
    for found in (gaussian(samples(0, 100)), class_means(samples(0, 100))):
        stored = found.stored()
        assert {w: (a.dtype.name, a.shape) for w, a in stored.items()} == type(found).shapes(K, D)
        assert {w: a.shape for w, a in found.head().items()} == type(found).head_shapes(K, D)
