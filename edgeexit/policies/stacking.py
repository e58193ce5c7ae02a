"""Fitting `StackedMargin`: one ridge logistic regression an exit, in the order of the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import fit_temperature
from edgeexit.policies.minimiser import minimise
from edgeexit.policies.stacked import log_softmax

__all__ = ["Stack", "fit_stack"]

_RIDGES = (0.3, 0.1, 0.03, 0.01, 0.003)
_MAX_ROWS = 20_000
_MAX_WORK = 4e7
"""Rows times squared classes: above this fewer rows are used."""
_ROWS_PER_CLASS = 20
"""With fewer rows than this a class, only the two scalars and the offsets are fitted."""


class Stack(NamedTuple):
    """What `StackedMargin` is made of: temperatures, weights (E, 2C, C) and offsets (E, C); and the ridge."""

    temperatures: tuple[float, ...]
    weights: NDArray[np.float32]
    offsets: NDArray[np.float32]
    ridge: float


def fit_stack(logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], *, ridge: float | None = None) -> Stack:
    """Fit all exits on cached logits, E arrays of shape (n, C), with labels (n,).

    Where it is not given, the ridge, one for all exits, is made smaller as long as the negative log
    likelihood, summed over the exits, falls when fitted on each half of the samples and measured on the
    other.
    """
    temperatures = tuple(fit_temperature(values, labels) for values in logits)
    classes = logits[0].shape[1]
    rows = int(min(_MAX_ROWS, max(1000, _MAX_WORK / classes**2)))
    step = -(-len(labels) // rows)
    labels = labels[::step]
    own = [
        log_softmax(values[::step].astype(np.float64) / temperature)
        for values, temperature in zip(logits, temperatures, strict=True)
    ]
    full = len(labels) >= _ROWS_PER_CLASS * classes
    if ridge is None:
        ridge = _choose_ridge(own, labels, full=full)
    weights, offsets = _fit_chain(own, labels, ridge, full=full)
    return Stack(temperatures, weights.astype(np.float32), offsets.astype(np.float32), ridge)


def _choose_ridge(own: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], *, full: bool) -> float:
    if not full:
        return _RIDGES[0]
    halves = np.arange(len(labels)) % 2 == 0
    best = np.inf
    chosen = _RIDGES[0]
    for ridge in _RIDGES:
        loss = 0.0
        for half in (halves, ~halves):
            chain = _fit_chain([values[half] for values in own], labels[half], ridge, full=full)
            loss += _loss_of_chain(*chain, [values[~half] for values in own], labels[~half])
        if loss >= best:
            break
        best, chosen = loss, ridge
    return chosen


def _fit_chain(
    own: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], ridge: float, *, full: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (E, 2C, C) and offsets (E, C)."""
    classes = own[0].shape[1]
    weights = np.zeros((len(own), 2 * classes, classes))
    offsets = np.zeros((len(own), classes))
    earlier = np.zeros_like(own[0])
    for k, values in enumerate(own):
        weights[k], offsets[k] = _fit_exit(values, earlier, labels, ridge, full=full)
        earlier = _forward(values, earlier, weights[k], offsets[k])
    return weights, offsets


def _fit_exit(
    own: NDArray[np.float64], earlier: NDArray[np.float64], labels: NDArray[np.int64], ridge: float, *, full: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least mean negative log likelihood + ridge · (‖W‖² + ‖V‖² + ‖b‖²)."""
    samples, classes = own.shape
    first = not earlier.any()
    inputs = own if first else np.concatenate([own, earlier], axis=1)
    width = inputs.shape[1] if full else 0
    rows = np.arange(samples)
    scalars = 1 if first else 2

    def unpack(point: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        rest = point[2:].reshape(width + 1, classes)
        return point[:2], rest[:width], rest[width]

    def value_and_slope(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale, matrix, offset = unpack(point)
        evidence = scale[0] * own + scale[1] * earlier + offset
        if full:
            evidence += inputs @ matrix
        evidence -= evidence.max(axis=1, keepdims=True)
        chosen = evidence[rows, labels]
        np.exp(evidence, out=evidence)
        total = evidence.sum(axis=1)
        loss = float((np.log(total) - chosen).mean()) + ridge * float(point[2:] @ point[2:])
        evidence /= total[:, None]
        evidence[rows, labels] -= 1.0
        evidence /= samples
        slope = np.concatenate(
            [
                [float((evidence * own).sum()), float((evidence * earlier).sum()) if scalars == 2 else 0.0],
                (inputs.T @ evidence).ravel() if full else [],
                evidence.sum(axis=0),
            ]
        )
        slope[2:] += 2 * ridge * point[2:]
        return loss, slope

    start = np.zeros(2 + (width + 1) * classes)
    start[0] = 1.0
    scale, matrix, offset = unpack(minimise(value_and_slope, start))
    weights = np.zeros((2 * classes, classes))
    weights[: len(matrix)] = matrix
    diagonal = np.arange(classes)
    weights[diagonal, diagonal] += scale[0]
    weights[classes + diagonal, diagonal] += scale[1]
    return weights, offset


def _forward(
    own: NDArray[np.float64], earlier: NDArray[np.float64], weights: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    return log_softmax(np.concatenate([own, earlier], axis=1) @ weights + offset)


def _loss_of_chain(
    weights: NDArray[np.float64],
    offsets: NDArray[np.float64],
    own: Sequence[NDArray[np.float64]],
    labels: NDArray[np.int64],
) -> float:
    """Negative log likelihood, summed over the exits."""
    earlier, loss = np.zeros_like(own[0]), 0.0
    for k, values in enumerate(own):
        earlier = _forward(values, earlier, weights[k], offsets[k])
        loss -= float(earlier[np.arange(len(labels)), labels].mean())
    return loss
