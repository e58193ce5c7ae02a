"""Are an exit's probabilities honest: temperatures that make them so, and the curve that shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

Floating = TypeVar("Floating", np.float32, np.float64)

__all__ = ["Reliability", "fit_temperature", "negative_log_likelihood", "reliability", "softmax"]

_MAX_ROWS = 20_000
_STEPS = 60
_ROUNDING = 1e-6


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


@dataclass(frozen=True)
class Reliability:
    """How often an exit is right, for each level of the probability that it states.

    Attributes:
        confidence: (B,) mean stated probability of each bin; its middle where the bin is empty.
        accuracy: (B,) share of right answers in each bin; NaN where it is empty.
        count: (B,) samples in each bin.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean over the samples of |accuracy − confidence| of their bin, in [0, 1]."""
        used = self.count > 0
        gaps = np.abs(self.accuracy[used] - self.confidence[used])
        return float((self.count[used] * gaps).sum() / self.count.sum())


def reliability(probability: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15) -> Reliability:
    """The reliability curve in bins of equal width, and with it the calibration error (Guo et al. 2017, eq. 2 and 3).

    Bin b holds probabilities in (b/B, (b + 1)/B], as in the paper; 0 belongs to the first.

    Args:
        probability: (N,) stated for the answer, in [0, 1].
        correct: (N,) whether the answer is right.
        bins: B, at least 1.

    Raises:
        DataError: No samples, unequal lengths, or something that is no probability.
    """
    stated = np.asarray(probability, dtype=np.float64)
    right = np.asarray(correct, dtype=bool)
    if stated.ndim != 1 or stated.shape != right.shape or not len(stated) or bins < 1:
        raise DataError(
            "no reliability curve can be drawn of this",
            got=f"probabilities of shape {stated.shape}, answers of shape {right.shape}, {bins} bins",
            expected="one probability and one answer for each of 1 or more samples, and 1 or more bins",
        )
    wrong = ~((stated >= -_ROUNDING) & (stated <= 1 + _ROUNDING))  # NaN too
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError("that is not a probability", got=f"{stated[row]} in row {row}", expected="a number in [0, 1]")
    stated = np.clip(stated, 0.0, 1.0)
    bin_of = np.clip(np.ceil(stated * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    empty = count == 0
    divisor = np.where(empty, 1, count)
    confidence = np.bincount(bin_of, stated, minlength=bins) / divisor
    accuracy = np.bincount(bin_of, right, minlength=bins) / divisor
    return Reliability(
        confidence=np.where(empty, (np.arange(bins) + 0.5) / bins, confidence),
        accuracy=np.where(empty, np.nan, accuracy),
        count=count,
    )
