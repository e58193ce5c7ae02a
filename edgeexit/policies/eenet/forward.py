"""What the scheduler sees at an exit (EENet eq. 5–7), and what it says (eq. 8, 9).

Arrays have a row per sample, and row i of a result depends on row i alone. The few numbers that are
multiplied by weights are float64: a sample's float32 score is then the same in any batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST", "SLOPE", "agreement", "input_width", "own_inputs", "sigmoid", "utility"]

SLOPE = 0.01
"""Of the leaky rectifier below zero."""

LARGEST = 10
"""How many probabilities are inputs where they are sorted; the sum of all others is one more."""

_LOWEST = np.float32(-1e4)
"""exp of anything lower is 0 too, and 0 times it is a number."""


def input_width(classes: int, ranked: bool) -> int:
    """How many inputs ŷ gives: one a class, or one a rank."""
    return LARGEST + 1 if ranked and classes > LARGEST else classes


def own_inputs(
    logits: NDArray[np.float32], temperature: float, ranked: bool
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The inputs that depend on this exit's logits alone, and the label's probability.

    Args:
        logits: Shape (n, C).
        temperature: Divides them.
        ranked: Whether ŷ is sorted, the largest first, or in the order of the classes.

    Returns:
        [ŷ, a_max, a_entropy] of shape (n, `input_width` + 2), and (n,).
    """
    scaled = (logits - logits.max(axis=1, keepdims=True)) * np.float32(1.0 / temperature)
    np.maximum(scaled, _LOWEST, out=scaled)
    probabilities = np.exp(scaled)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities /= total
    scaled -= np.log(total)
    scaled *= probabilities
    classes = logits.shape[1]
    width = input_width(classes, ranked)
    inputs = np.empty((len(logits), width + 2))
    if ranked:
        kept = min(classes, LARGEST)
        if kept < classes:
            probabilities.partition(classes - kept, axis=1)
        inputs[:, :kept] = -np.sort(-probabilities[:, classes - kept :], axis=1)
        inputs[:, kept:width] = probabilities[:, : classes - kept].sum(axis=1, keepdims=True)
    else:
        inputs[:, :width] = probabilities
    largest = 1.0 / total[:, 0]
    inputs[:, width] = largest
    inputs[:, width + 1] = 1.0 + scaled.sum(axis=1) / np.log(max(classes, 2))
    return inputs, largest


def agreement(labels: NDArray[np.float32]) -> NDArray[np.float64]:
    """a_vote (eq. 7): the share of the exits passed so far that agree on the most frequent label.

    Args:
        labels: Shape (n, k), of the exits passed so far.

    Returns:
        (n,), from 1/k to 1.
    """
    return np.asarray((labels[:, :, None] == labels[:, None, :]).sum(axis=2).max(axis=1) / labels.shape[1])


def utility(inputs: NDArray[np.float64], shared: NDArray[np.float64], head: NDArray[np.float64]) -> NDArray[np.float64]:
    """q̂ (eq. 8, 9) in [0, 1], shape (n,), from inputs (n, D), W^sh (D_h, D) and W^g (D_h,)."""
    units = inputs @ shared.T
    return sigmoid(np.maximum(units, SLOPE * units) @ head)


def sigmoid(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + e^−value), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * value)))
