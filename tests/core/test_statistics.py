"""Running sums: the same as if all samples had been there at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.statistics import ClassSums, FeatureSample, Scatter

CLASSES, FEATURES = 4, 6


def samples(seed: int, n: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    return (rng.normal(size=(n, FEATURES)) + labels[:, None] + offset).astype(np.float32), labels


@settings(deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 300), size=st.integers(1, 100))
def test_means_of_batches_are_the_means_of_the_whole(seed: int, n: int, size: int) -> None:
    features, labels = samples(seed, n)
    sums = ClassSums(CLASSES, FEATURES)
    for start in range(0, n, size):
        sums.add(features[start : start + size], labels[start : start + size])
    for k in np.unique(labels):
        np.testing.assert_allclose(sums.means()[k], features[labels == k].mean(axis=0), atol=1e-4)
    assert sums.samples == n


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), n=st.sampled_from([10, 300, 5000]), offset=st.sampled_from([0.0, 1000.0]))
def test_the_scatter_is_that_within_the_classes_even_far_from_zero(seed: int, n: int, offset: float) -> None:
    features, labels = samples(seed, n, offset)
    scatter = Scatter(CLASSES, FEATURES)
    for start in range(0, n, 700):
        scatter.add(features[start : start + 700], labels[start : start + 700])
    means = np.stack(
        [features[labels == k].mean(axis=0) if (labels == k).any() else np.zeros(FEATURES) for k in range(CLASSES)]
    )
    residual = (features - means[labels]).astype(np.float64)
    np.testing.assert_allclose(scatter.scatter() / n, residual.T @ residual / n, atol=2e-3)


def test_the_spread_is_the_mean_squared_distance_to_the_centre() -> None:
    features, labels = samples(0, 500, offset=100.0)
    sums = ClassSums(CLASSES, FEATURES)
    for start in range(0, 500, 60):
        sums.add(features[start : start + 60], labels[start : start + 60])
    np.testing.assert_allclose(sums.centre(), features.mean(axis=0), rtol=1e-6)
    distances = np.linalg.norm(features.astype(np.float64) - features.mean(axis=0, dtype=np.float64), axis=1)
    assert sums.spread() == pytest.approx((distances**2).mean(), rel=1e-4)


def test_a_class_without_samples_has_the_overall_mean() -> None:
    sums = ClassSums(3, FEATURES)
    features, _ = samples(0, 50)
    sums.add(features, np.zeros(50, dtype=np.int64))
    np.testing.assert_allclose(sums.means()[2], features.mean(axis=0), atol=1e-5)


@given(limit=st.integers(1, 50), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_a_feature_sample_keeps_the_first_rows_and_no_more(limit: int, sizes: list[int]) -> None:
    features = np.arange(sum(sizes) * 2, dtype=np.float32).reshape(-1, 2)
    sample = FeatureSample(limit)
    for part in np.split(features, np.cumsum(sizes)[:-1]):
        sample.add(part)
    np.testing.assert_array_equal(sample.rows(), features[:limit])
