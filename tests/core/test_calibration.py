"""Temperatures, and what shows that they are right: the reliability curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.calibration import fit_temperature, negative_log_likelihood, reliability, softmax
from edgeexit.errors import DataError


def sampled(temperature: float, seed: int = 0, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose honest temperature is known: labels are drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 5)).astype(np.float32) * 4
    chances = softmax(logits / np.float32(temperature)).cumsum(axis=1)
    return logits, (rng.random((n, 1)) < chances).argmax(axis=1)


@settings(deadline=None, max_examples=25)
@given(temperature=st.floats(0.2, 10), scale=st.floats(1e-3, 1e3))
def test_the_temperature_that_drew_the_labels_is_found_at_any_scale(temperature: float, scale: float) -> None:
    logits, labels = sampled(temperature)
    assert fit_temperature(logits * np.float32(scale), labels) / scale == pytest.approx(temperature, rel=0.1)


def test_no_other_temperature_is_more_likely() -> None:
    logits, labels = sampled(2.0, n=2000)
    best = fit_temperature(logits, labels)
    at_best = negative_log_likelihood(logits, labels, best)
    assert all(at_best <= negative_log_likelihood(logits, labels, best * factor) for factor in (0.5, 0.9, 1.1, 2))


def test_logits_that_are_always_right_get_a_finite_positive_temperature() -> None:
    labels = np.arange(50) % 5
    temperature = fit_temperature(np.eye(5, dtype=np.float32)[labels], labels)
    assert 0 < temperature < 1


def test_logits_that_say_nothing_get_a_finite_temperature() -> None:
    assert np.isfinite(fit_temperature(np.zeros((10, 3), dtype=np.float32), np.zeros(10, dtype=np.int64)))


PROBABILITIES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@settings(deadline=None)
@given(pairs=PROBABILITIES, bins=st.integers(1, 20))
def test_every_sample_is_counted_in_the_bin_that_holds_its_probability(
    pairs: list[tuple[float, bool]], bins: int
) -> None:
    stated, right = np.asarray([p for p, _ in pairs]), np.asarray([r for _, r in pairs])
    found = reliability(stated, right, bins)
    assert found.count.sum() == len(pairs)
    assert len(found.confidence) == len(found.accuracy) == bins
    used = found.count > 0
    edges = np.arange(bins + 1) / bins
    assert (found.confidence[used] >= edges[:-1][used] - 1e-9).all()
    assert (found.confidence <= edges[1:] + 1e-9).all()
    assert np.isnan(found.accuracy[~used]).all()
    assert (found.accuracy[used] * found.count[used]).sum() == pytest.approx(right.sum())


@settings(deadline=None)
@given(pairs=PROBABILITIES)
def test_with_one_bin_the_calibration_error_is_accuracy_against_mean_confidence(
    pairs: list[tuple[float, bool]],
) -> None:
    stated, right = np.asarray([p for p, _ in pairs]), np.asarray([r for _, r in pairs])
    assert reliability(stated, right, 1).error == pytest.approx(abs(right.mean() - stated.mean()))


def test_the_calibration_error_weighs_each_bin_by_its_samples() -> None:
    stated, right = np.asarray([0.9, 0.9, 0.9, 0.3]), np.asarray([True, True, False, True])
    found = reliability(stated, right, 2)
    assert found.count.tolist() == [1, 3]
    assert found.accuracy.tolist() == pytest.approx([1.0, 2 / 3])
    assert found.error == pytest.approx((0.7 + 3 * (0.9 - 2 / 3)) / 4)


def test_a_boundary_belongs_to_the_bin_below_it() -> None:
    assert reliability(np.asarray([0.0, 0.2, 0.4, 1.0]), np.ones(4, dtype=bool), 5).count.tolist() == [2, 1, 0, 0, 1]


def test_the_fitted_temperature_makes_probabilities_honest() -> None:
    logits, labels = sampled(3.0)
    right = logits.argmax(axis=1) == labels
    raw, scaled = (softmax(logits / np.float32(t)).max(axis=1) for t in (1.0, fit_temperature(logits, labels)))
    assert reliability(raw, right).error > 0.1
    assert reliability(scaled, right).error < 0.02


@pytest.mark.parametrize(
    ("stated", "right", "bins"),
    [
        ([], [], 15),
        ([0.5], [True, False], 15),
        ([0.5], [True], 0),
        ([1.5], [True], 15),
        ([-0.1], [True], 15),
        ([float("nan")], [True], 15),
    ],
)
def test_what_is_no_reliability_is_refused(stated: list[float], right: list[bool], bins: int) -> None:
    with pytest.raises(DataError):
        reliability(np.asarray(stated), np.asarray(right, dtype=bool), bins)
