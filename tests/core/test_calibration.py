"""Temperatures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.calibration import fit_temperature, negative_log_likelihood, softmax


def sampled(temperature: float, seed: int = 0, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose honest temperature is known: labels are drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 5)).astype(np.float32) * 4
    chances = softmax(logits / np.float32(temperature)).cumsum(axis=1)
    return logits, (rng.random((n, 1)) < chances).argmax(axis=1)


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
