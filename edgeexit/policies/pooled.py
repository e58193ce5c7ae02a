"""Leave when the exits passed so far, taken together, are sure enough.

The evidence of an exit adds to that of the exits before it:

    a_0 = u_0 z_0,   a_k = u_k z_k + v_k a_{k−1},   score = max softmax(a_k)

where z_k are exit k's logits. The weights u_k, v_k ≥ 0 of each exit maximise the likelihood of the
calibration labels (two-parameter logistic regression, fitted exit after exit). With v = 0 this is
maximum probability with a temperature of 1 / u. The answer pools the exits too, at the last exit as
well, so it may be better than the whole model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import fit_temperature, softmax
from edgeexit.manifest import PolicyEntry
from edgeexit.policies.base import PLAIN, Decision, Setting, State, Verdict
from edgeexit.policies.single import FEW_CLASSES, first_row, largest_probability, rounded_thresholds
from edgeexit.policies.stored import positive_tensor

__all__ = ["PooledProbability"]

WEIGHTS = "policy.weights"

_STEPS = 50
_HALVINGS = 30
_RIDGE = 1e-6
_DONE = 1e-9
_MAX_ROWS = 20_000


@dataclass(frozen=True)
class PooledProbability:
    """See the module.

    Args:
        weights: (u, v) of each exit; v of the first is 0.
        thresholds: One value per exit, in probability; infinity where nobody leaves.
    """

    weights: tuple[tuple[float, float], ...]
    thresholds: tuple[float, ...]
    name: str = "pooled-probability"
    criterion: str = "pooled-probability"
    few_rows: int = 8

    def start(self, samples: int, classes: int) -> State:
        """The evidence so far: none."""
        return (np.zeros((samples, classes), dtype=np.float32),)

    def decide(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Decision, State]:
        """See `Policy.decide`."""
        own, earlier = self.weights[exit_index]
        # Only differences between classes count; about the largest they are small numbers.
        evidence = (logits - logits.max(axis=1, keepdims=True)) * np.float32(own) + state[0] * np.float32(earlier)
        evidence -= evidence.max(axis=1, keepdims=True)
        probability = 1.0 / np.exp(evidence).sum(axis=1)
        leave = probability >= np.float32(self.thresholds[exit_index])
        if exit_index == len(self.thresholds) - 1:
            leave = np.ones(len(logits), dtype=bool)
        return Decision(probability, probability, evidence.argmax(axis=1), leave), (evidence,)

    def decide_one(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Verdict, State]:
        """See `Policy.decide_one`."""
        if logits.shape[1] > FEW_CLASSES:
            decision, state = self.decide(exit_index, logits, state)
            return first_row(decision), state
        own, earlier = self.weights[exit_index]
        row = logits[0].tolist()
        top = max(row)
        evidence = [
            (value - top) * own + before * earlier for value, before in zip(row, state[0][0].tolist(), strict=True)
        ]
        probability, label = largest_probability(evidence, 1.0)
        leave = probability >= self._rounded[exit_index] or exit_index == len(self.thresholds) - 1  # NaN too
        return Verdict(probability, probability, label, leave), (np.asarray([evidence], dtype=np.float32),)

    @cached_property
    def _rounded(self) -> tuple[float, ...]:
        return rounded_thresholds(self.thresholds)

    def with_thresholds(self, thresholds: tuple[float, ...]) -> PooledProbability:
        """See `Policy.with_thresholds`."""
        return replace(self, thresholds=thresholds)

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """The weights, shape (exits, 2)."""
        return {WEIGHTS: np.asarray(self.weights, dtype=np.float32)}

    def entry(self) -> PolicyEntry:
        """See `Policy.entry`."""
        return PolicyEntry(name=self.name, tensors=(WEIGHTS,))

    @classmethod
    def fit(
        cls, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting = PLAIN
    ) -> PooledProbability:
        """Fit the weights on cached logits, E arrays of shape (n, C), with labels (n,); nobody leaves yet."""
        step = max(1, len(labels) // _MAX_ROWS)
        labels = labels[::step]
        weights: list[tuple[float, float]] = []
        evidence = np.zeros_like(logits[0][::step])
        for values in logits:
            own = values[::step] - values[::step].max(axis=1, keepdims=True)
            pair = _fit_pair(own, evidence, labels)
            weights.append(pair)
            evidence = pair[0] * own + pair[1] * evidence
            evidence = (evidence - evidence.max(axis=1, keepdims=True)).astype(np.float32)
        return cls(tuple(weights), (float("inf"),) * len(logits))

    @classmethod
    def load(cls, thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> PooledProbability:
        """Rebuild the policy from a bundle's tensors.

        Raises:
            BundleError: The weights are missing, not finite or negative.
        """
        weights = positive_tensor(tensors, WEIGHTS, (len(thresholds), 2), allow_zero=True)
        return cls(tuple((float(own), float(earlier)) for own, earlier in weights), tuple(thresholds))


def _fit_pair(own: NDArray[np.float32], earlier: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """u, v ≥ 0 with the least negative log likelihood of softmax(u own + v earlier), by damped Newton steps."""
    alone = 1.0 / fit_temperature(own, labels)
    if not earlier.any():
        return alone, 0.0
    rows = np.arange(len(labels))
    pair = np.stack([own, earlier], axis=2).astype(np.float64)  # (n, C, 2)
    scale = pair.std(axis=(0, 1))
    scale[scale == 0] = 1.0
    inputs = pair / scale
    true = inputs[rows, labels]

    def loss(weights: NDArray[np.float64]) -> float:
        probabilities = softmax(inputs @ weights)
        return float(-np.log(np.maximum(probabilities[rows, labels], 1e-12)).mean() + _RIDGE * weights @ weights)

    best = np.asarray([alone * scale[0], 0.0])
    now = loss(best)
    for _ in range(_STEPS):
        probabilities = softmax(inputs @ best)
        mean = np.einsum("nc,nci->ni", probabilities, inputs)
        slope = (mean - true).mean(axis=0) + 2 * _RIDGE * best
        second = np.einsum("nc,nci,ncj->ij", probabilities, inputs, inputs) / len(labels) - mean.T @ mean / len(labels)
        step = np.linalg.solve(second + (2 * _RIDGE + 1e-9) * np.eye(2), slope)
        better = _shorten(loss, best, step, now)
        if better is None:
            break
        best, gained = better[0], now - better[1]
        now = better[1]
        if gained < _DONE:
            break
    if best[0] <= 0:
        return alone, 0.0
    return float(best[0] / scale[0]), float(best[1] / scale[1])


def _shorten(
    loss: Callable[[NDArray[np.float64]], float], weights: NDArray[np.float64], step: NDArray[np.float64], now: float
) -> tuple[NDArray[np.float64], float] | None:
    """The longest halving of a step, kept at or above zero, that lowers the loss."""
    for halving in range(_HALVINGS):
        trial = np.maximum(weights - step * 0.5**halving, 0.0)
        value = loss(trial)
        if value < now:
            return trial, value
    return None
