"""The scheduler's network and its loss (EENet eq. 8–15), with gradients written by hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.eenet.forward import SLOPE, sigmoid
from edgeexit.policies.eenet.samples import Samples

__all__ = ["Network", "Pass", "survival"]

HIDDEN_SHARE = 0.5
"""D_h / D, as in the paper for pictures."""

_SMALL = 1e-12


class Pass(NamedTuple):
    """What a forward pass over N samples finds, with all that the way back needs."""

    units: NDArray[np.float64]  # (K, N, H), W^sh x, before the rectifier
    utility: NDArray[np.float64]  # (K, N), q̂
    assignment: NDArray[np.float64]  # (K, N), r̂


class Network:
    """The weights of all exits, as views into one flat array that an optimiser can move.

    All exits have as many hidden units and inputs as the last one needs. Weights that an earlier exit
    should not have are 0 and stay 0: their gradient is.

    Args:
        inputs: D_1, how many the first exit has; each later exit has one more, the utility of the exit before.
        exits: K.
    """

    def __init__(self, inputs: int, exits: int) -> None:
        self.exits, self.inputs = exits, inputs
        self.sizes = [(max(1, round(HIDDEN_SHARE * size)), size) for size in range(inputs, inputs + exits)]
        hidden, size = self.sizes[-1]
        self.flat = np.zeros(exits * hidden * (size + 2))
        self.shared, self.heads = self._views(self.flat)  # (K, H, D) and (K, H, 2): W^g, W^h

    def draw(self, rng: np.random.Generator) -> None:
        """Draw every weight evenly from ±1/√n, n being the inputs of its layer."""
        self.flat[:] = 0
        for k, (hidden, size) in enumerate(self.sizes):
            self.shared[k, :hidden, :size] = rng.uniform(-1, 1, (hidden, size)) / np.sqrt(size)
            self.heads[k, :hidden] = rng.uniform(-1, 1, (hidden, 2)) / np.sqrt(hidden)

    def forward(self, samples: Samples) -> Pass:
        """Eq. 8–10."""
        utility, assignment = np.empty(samples.correct.shape), np.empty(samples.correct.shape)
        units = samples.inputs @ self.shared[:, :, : self.inputs].transpose(0, 2, 1)
        for k in range(self.exits):
            if k:
                units[k] += utility[:k].T @ self.shared[k, :, self.inputs : self.inputs + k].T
            utility[k], assignment[k] = self.heads[k].T @ np.maximum(units[k], SLOPE * units[k]).T
            utility[k] = sigmoid(utility[k])
        assignment = np.exp(assignment - assignment.max(axis=0))
        assignment /= assignment.sum(axis=0)
        return Pass(units, utility, assignment)

    def loss(self, samples: Samples, found: Pass, weights: NDArray[np.float64], alpha: float, beta: float) -> float:
        """L_g + α L_budget + β L_CE (eq. 11, 12, 14, 15); `weights` is w of eq. 13, (K, N)."""
        total = float(self.utility_loss(samples, found, weights).sum())
        if samples.costs is not None:
            total += alpha * max(0.0, float((samples.costs @ found.assignment).mean()) - 1.0)
        return total - beta * float((samples.assignment * np.log(np.maximum(found.assignment, _SMALL))).mean())

    def utility_loss(self, samples: Samples, found: Pass, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each sample's part of L_g (eq. 11, 12), (N,)."""
        likely = np.where(samples.correct, found.utility, 1.0 - found.utility)
        return np.asarray(-(weights * np.log(np.maximum(likely, _SMALL))).sum(axis=0) / self.exits)

    def gradient(
        self, samples: Samples, found: Pass, weights: NDArray[np.float64], alpha: float, beta: float
    ) -> NDArray[np.float64]:
        """Of `loss`, shaped like `flat`. The weights of eq. 13 are held, and b_k is not."""
        to_heads = np.empty((self.exits, 2, len(samples)))  # before the sigmoid, before the softmax
        to_heads[:, 0] = weights * (found.utility - samples.correct) / self.exits
        to_heads[:, 1] = (found.assignment - samples.assignment) * (beta / samples.correct.size)
        if samples.costs is not None:
            cost = samples.costs @ found.assignment
            if cost.mean() > 1.0:
                to_heads[:, 1] += found.assignment * (samples.costs[:, None] - cost) * (alpha / len(samples))
        rectifier = np.where(found.units > 0, 1.0, SLOPE)
        to_units = np.empty_like(found.units)
        flat = np.zeros_like(self.flat)
        shared, heads = self._views(flat)
        curve = found.utility * (1.0 - found.utility)
        for k in reversed(range(self.exits)):
            np.multiply(to_heads[k].T @ self.heads[k].T, rectifier[k], out=to_units[k])
            if k:
                earlier = slice(self.inputs, self.inputs + k)
                to_heads[:k, 0] += (self.shared[k, :, earlier].T @ to_units[k].T) * curve[:k]
                shared[k, :, earlier] = to_units[k].T @ found.utility[:k].T
        shared[:, :, : self.inputs] = to_units.transpose(0, 2, 1) @ samples.inputs
        heads[:] = (to_heads @ (found.units * rectifier)).transpose(0, 2, 1)
        return flat

    def _views(self, flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        hidden, size = self.sizes[-1]
        shared, heads = np.split(flat, [self.exits * hidden * size])
        return shared.reshape(self.exits, hidden, size), heads.reshape(self.exits, hidden, 2)


def survival(assignment: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights w of eq. 13 from r̂, (K, N): what earlier exits leave of a sample, summing to 1 over the samples."""
    still = np.maximum(1.0 - np.cumsum(assignment, axis=0) + assignment, _SMALL)
    return np.asarray(still / still.sum(axis=1, keepdims=True))
