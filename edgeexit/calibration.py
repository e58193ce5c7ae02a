"""Temperatures: one positive number per exit that makes its probabilities honest."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floating = TypeVar("Floating", np.float32, np.float64)

__all__ = ["fit_temperature", "negative_log_likelihood", "softmax"]

_MAX_ROWS = 20_000
_STEPS = 60


def softmax(logits: NDArray[Floating]) -> NDArray[Floating]:
    """Class probabilities along the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def negative_log_likelihood(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean of −log p(label), in nats; logits (n, C), labels (n,)."""
    probabilities = softmax(logits.astype(np.float64) / temperature)
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature with the least negative log likelihood (Guo et al. 2017).

    The likelihood is concave in the inverse temperature β, so the root of its slope,
    mean(E_p[z] − z_label), is found by bisection on log β. The range is relative to the logits'
    spread: where every answer is right the best β would be infinite, and the bound is taken.

    Args:
        logits: Shape (n, C), any scale. Above 20,000 rows an even selection is used.
        labels: Shape (n,), in 0…C−1.

    Returns:
        A positive temperature; divide logits by it.
    """
    step = max(1, len(labels) // _MAX_ROWS)
    centred = logits[::step].astype(np.float64) - logits[::step].max(axis=1, keepdims=True)
    labels = labels[::step]
    spread = float(centred.std()) or 1.0
    chosen = centred[np.arange(len(labels)), labels]
    low, high = np.log(1e-3 / spread), np.log(1e3 / spread)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        probabilities = softmax(centred * np.exp(middle))
        slope = float(((probabilities * centred).sum(axis=1) - chosen).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))
