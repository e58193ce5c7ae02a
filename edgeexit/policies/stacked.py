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

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import Floating
from edgeexit.manifest import PolicyEntry
from edgeexit.policies.base import PLAIN, Decision, Setting, State, Verdict
from edgeexit.policies.single import first_row
from edgeexit.policies.stored import finite_tensor, positive_tensor

__all__ = ["FLOOR", "StackedMargin", "log_softmax"]

FLOOR = -12.0
"""Least log-probability: what is less likely than 6e-6 counts as that."""

TEMPERATURES = "policy.temperatures"
WEIGHTS = "policy.weights"
OFFSETS = "policy.offsets"


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
        own = log_softmax(logits * self._scales[exit_index])
        both = np.concatenate([own, state[0]], axis=1)
        evidence = log_softmax(both @ self.weights[exit_index] + self.offsets[exit_index])
        decision, state = self._judge(exit_index, evidence)
        return first_row(decision), state

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
        """Class by class, so that a row's sum does not depend on the rows beside it, as a matrix product's may."""
        weights = self.weights[exit_index]
        evidence = np.repeat(self.offsets[exit_index][None], len(own), axis=0)
        sources = (own,) if exit_index == 0 else (own, earlier)
        for part, values in enumerate(sources):
            for c in range(own.shape[1]):
                evidence += values[:, c : c + 1] * weights[part * own.shape[1] + c]
        return log_softmax(evidence)

    def _judge(self, exit_index: int, evidence: NDArray[np.float32]) -> tuple[Decision, State]:
        label = evidence.argmax(axis=1)
        probability = np.exp(evidence[np.arange(len(label)), label])
        second = np.exp(np.partition(evidence, -2, axis=1)[:, -2]) if evidence.shape[1] > 1 else np.float32(0)
        score = probability - second
        leave = score >= np.float32(self.thresholds[exit_index])
        if exit_index == len(self.thresholds) - 1:
            leave = np.ones(len(label), dtype=bool)
        return Decision(score, probability, label, leave), (evidence,)


def log_softmax(logits: NDArray[Floating]) -> NDArray[Floating]:
    """Log-probabilities along axis 1, none below `FLOOR`; same dtype as the logits."""
    centred = logits - logits.max(axis=1, keepdims=True)
    least = logits.dtype.type(FLOOR)
    return np.asarray(np.maximum(centred - np.log(np.exp(centred).sum(axis=1, keepdims=True)), least))
