"""Leave when all exits passed so far, stacked by a small linear model, are sure enough (EdgeExit's own).

The evidence of an exit corrects that of the exits before it, class by class:

    l_k = max(log softmax(z_k / T_k), −12)
    a_0 = u_0 l_0 + W_0 l_0 + b_0
    a_k = u_k l_k + v_k ā_{k−1} + W_k l_k + V_k ā_{k−1} + b_k,    ā = max(log softmax(a), −12)
    score = the largest probability of softmax(a_k) minus the second largest

where z_k are exit k's logits. With W = V = b = 0 the evidence is that of `pooled-probability`. The
matrices learn which classes an exit mistakes for each other and which earlier exit knew better; they
are fitted exit after exit by multinomial logistic regression whose ridge pulls them to zero (stacked
generalisation, Wolpert 1992, in the order of the cascade). The answer is the evidence's, at the last
exit as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import Floating
from edgeexit.manifest import PolicyEntry
from edgeexit.policies.base import PLAIN, Decision, Setting, State, Verdict
from edgeexit.policies.single import FEW_CLASSES, first_row, two_largest
from edgeexit.policies.stored import finite_tensor, positive_tensor

__all__ = ["FLOOR", "StackedMargin", "log_softmax"]

FLOOR = -12.0
"""Least log-probability: what is less likely than 6e-6 counts as that."""

TEMPERATURES = "policy.temperatures"
WEIGHTS = "policy.weights"
OFFSETS = "policy.offsets"

_SMALL = 1 << 17  # products that are made at once
_CLOSE = 1e-5


@dataclass(frozen=True, eq=False)
class StackedMargin:
    """See the module.

    Args:
        temperatures: One positive value per exit.
        weights: (E, 2C, C) float32: rows 0…C−1 are u I + W, rows C…2C−1 are v I + V (zero at exit 0).
        offsets: (E, C) float32, b.
        thresholds: One value per exit, a difference of probabilities; infinity where nobody leaves.
        ridge: What the fit chose; not stored.
    """

    temperatures: tuple[float, ...]
    weights: NDArray[np.float32]
    offsets: NDArray[np.float32]
    thresholds: tuple[float, ...]
    ridge: float | None = None
    name: str = "stacked-margin"
    criterion: str = "stacked-margin"
    few_rows: int = 6

    @cached_property
    def _scales(self) -> tuple[np.float32, ...]:
        return tuple(np.float32(1.0 / temperature) for temperature in self.temperatures)

    def start(self, samples: int, classes: int) -> State:
        """The evidence so far: none."""
        return (np.zeros((samples, classes), dtype=np.float32),)

    def decide(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Decision, State]:
        """See `Policy.decide`."""
        own = log_softmax(logits * self._scales[exit_index])
        evidence = self._stack(exit_index, own, state[0])
        return self._judge(exit_index, evidence)

    def decide_one(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Verdict, State]:
        """See `Policy.decide_one`."""
        classes = logits.shape[1]
        if not 1 < classes <= FEW_CLASSES:
            decision, state = self.decide(exit_index, logits, state)
            return first_row(decision), state
        values = [1.0, *log_probabilities(logits[0].tolist(), self._factors[exit_index])]
        if exit_index:
            values += state[0][0].tolist()
        evidence = log_probabilities(np.array(values).dot(self._single_weights[exit_index]).tolist(), 1.0)
        first, second = two_largest(evidence)
        probability = exp(first)
        score = probability - exp(second)
        unsure = first == float("-inf")  # of NaN
        if unsure or abs(score - self.thresholds[exit_index]) < _CLOSE:  # so close that rounding decides: as in a batch
            decision, state = self.decide(exit_index, logits, state)
            return first_row(decision), state
        leave = score > self.thresholds[exit_index] or exit_index == len(self.thresholds) - 1
        return Verdict(score, probability, evidence.index(first), leave), (np.array([evidence], np.float32),)

    @cached_property
    def _factors(self) -> tuple[float, ...]:
        return tuple(map(float, self._scales))

    @cached_property
    def _single_weights(self) -> tuple[NDArray[np.float64], ...]:
        joined = self._joined.astype(np.float64)
        return (joined[0, : 1 + self.offsets.shape[1]], *joined[1:])

    @cached_property
    def _joined(self) -> NDArray[np.float32]:
        """(E, 1 + 2C, C): the offsets, then the weights."""
        return np.ascontiguousarray(np.concatenate([self.offsets[:, None], self.weights], axis=1))

    def with_thresholds(self, thresholds: tuple[float, ...]) -> StackedMargin:
        """See `Policy.with_thresholds`."""
        return replace(self, thresholds=thresholds)

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """Temperatures (E,), weights (E, 2C, C) and offsets (E, C)."""
        return {
            TEMPERATURES: np.asarray(self.temperatures, dtype=np.float32),
            WEIGHTS: self.weights,
            OFFSETS: self.offsets,
        }

    def entry(self) -> PolicyEntry:
        """See `Policy.entry`."""
        return PolicyEntry(name=self.name, tensors=(TEMPERATURES, WEIGHTS, OFFSETS))

    @classmethod
    def fit(
        cls, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting = PLAIN
    ) -> StackedMargin:
        """Fit on cached logits, E arrays of shape (n, C), with labels (n,); nobody leaves yet."""
        return cls._fit(logits, labels, None)

    def refit(self, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> StackedMargin:
        """The same fit, with the same ridge, on other samples."""
        return self._fit(logits, labels, self.ridge)

    @classmethod
    def _fit(
        cls, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], ridge: float | None
    ) -> StackedMargin:
        from edgeexit.policies.stacking import fit_stack

        stack = fit_stack(logits, labels, ridge=ridge)
        return cls(stack.temperatures, stack.weights, stack.offsets, (float("inf"),) * len(logits), stack.ridge)

    @classmethod
    def load(cls, thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> StackedMargin:
        """Rebuild the policy from a bundle's tensors.

        Raises:
            BundleError: A tensor is missing, of another shape, or not finite.
        """
        exits = len(thresholds)
        temperatures = positive_tensor(tensors, TEMPERATURES, (exits,))
        found = tensors.get(OFFSETS)
        classes = found.shape[1] if found is not None and found.ndim == 2 else 1
        offsets = finite_tensor(tensors, OFFSETS, (exits, classes))
        weights = finite_tensor(tensors, WEIGHTS, (exits, 2 * classes, classes))
        return cls(tuple(map(float, temperatures)), weights, offsets, tuple(thresholds))

    def _stack(self, exit_index: int, own: NDArray[np.float32], earlier: NDArray[np.float32]) -> NDArray[np.float32]:
        """Class by class, so that a row's sum does not depend on the rows beside it, as a matrix product's may.

        A sum over an axis that is not the last adds term after term, as the loop does.
        """
        weights = self._joined[exit_index]
        sources = (own,) if exit_index == 0 else (own, earlier)
        values = np.concatenate([np.ones((len(own), 1), np.float32), *sources], axis=1)
        weights = weights[: values.shape[1]]
        if values.size * weights.shape[1] <= _SMALL and weights.shape[1] > 1:
            return log_softmax(np.add.reduce(values[:, :, None] * weights, axis=1))
        evidence = np.repeat(weights[:1], len(own), axis=0)
        for c in range(1, values.shape[1]):
            evidence += values[:, c : c + 1] * weights[c]
        return log_softmax(evidence)

    def _judge(self, exit_index: int, evidence: NDArray[np.float32]) -> tuple[Decision, State]:
        probabilities = np.exp(evidence)
        if evidence.shape[1] > 1:
            probabilities.partition(evidence.shape[1] - 2, axis=1)
            probability, second = probabilities[:, -1].copy(), probabilities[:, -2]
        else:
            probability, second = probabilities[:, 0], np.zeros(len(evidence), np.float32)
        score = probability - second
        leave = score >= np.float32(self.thresholds[exit_index])
        if exit_index == len(self.thresholds) - 1:
            leave = np.ones(len(evidence), dtype=bool)
        return Decision(score, probability, evidence.argmax(axis=1), leave), (evidence,)


def log_softmax(logits: NDArray[Floating]) -> NDArray[Floating]:
    """Log-probabilities along axis 1, none below `FLOOR`; same dtype as the logits."""
    centred = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    centred -= np.log(np.add.reduce(np.exp(centred), axis=1, keepdims=True))
    return np.asarray(np.maximum(centred, logits.dtype.type(FLOOR), out=centred))


def log_probabilities(row: Sequence[float], scale: float) -> list[float]:
    """`log_softmax` of scale · row, in Python's numbers."""
    top = max(row)
    centred = [(value - top) * scale for value in row]
    total = log(sum(map(exp, centred)))
    return [max(value - total, FLOOR) for value in centred]
