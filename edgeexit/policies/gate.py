"""Leave when a learned gate says so (Bolukbasi, Wang, Dekel and Saligrama 2017, "BWDS").

Every exit but the last has a gate: a logistic regression on a few features of the exit's calibrated
probabilities p, for any number of classes. The gates are trained from the last to the first, each for
the later ones as they are, on which samples it pays to keep (`edgeexit.policies.gate_fitting`). That is
not the same as whether the exit is right: a sample that all exits get wrong is better let go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.base import PLAIN, Setting, State
from edgeexit.policies.scored import TEMPERATURES, Opinion, Scored, load_temperatures
from edgeexit.policies.stored import finite_tensor

__all__ = ["FEATURES", "LearnedGate", "features"]

FEATURES = 6
"""The three largest p; the entropy over log C; the log-odds of the largest p; and its log-ratio to the second."""

WEIGHTS = "policy.weights"

_LOWEST = np.float32(-1e4)
_LARGEST_ODDS = 16.0
"""Bound of both logarithms, in nats: past odds of 9 million to 1 a gate sees no difference."""


@dataclass(frozen=True, eq=False)
class LearnedGate(Scored):
    """score = the gate's probability that the sample should leave; ½ is where training drew the line.

    Args:
        temperatures: One positive value per exit; logits are divided by it.
        thresholds: One value per exit, in probability to leave; infinity where nobody leaves.
        weights: (E, `FEATURES` + 1) float32, the last of each row being the offset. The last exit has
            no gate: its row is 0, and its score is ½.
    """

    weights: NDArray[np.float32]

    name: ClassVar[str] = "gate"
    criterion: ClassVar[str] = "probability to leave"

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        found = features(self.scaled(exit_index, logits))
        weights = self._weights[exit_index]
        # A sum and not a product of matrices, whose rounding depends on the number of rows.
        odds = (found * weights[:-1]).sum(axis=1) + weights[-1]
        score = (0.5 * (1.0 + np.tanh(0.5 * odds))).astype(np.float32)
        return Opinion(score, found[:, 0].astype(np.float32), logits.argmax(axis=1)), state

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return self.weights.astype(np.float64)

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """Temperatures (E,) and the gates' weights (E, `FEATURES` + 1)."""
        return {**super().tensors(), WEIGHTS: self.weights}

    @classmethod
    def fit(
        cls, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting = PLAIN
    ) -> LearnedGate:
        """Fit on cached logits, E arrays of shape (n, C), with labels (n,); nobody leaves yet.

        With costs and a budget, the gates are those that meet the budget at ½.
        """
        from edgeexit.policies.gate_fitting import fit_gates  # a device has them fitted

        temperatures, weights = fit_gates(logits, labels, setting)
        return cls(temperatures, (float("inf"),) * len(logits), weights)

    @classmethod
    def load(cls, thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> LearnedGate:
        """Rebuild the policy from a bundle's tensors.

        Raises:
            BundleError: One is missing, of another shape, not finite, or a temperature is not positive.
        """
        temperatures = load_temperatures(tensors, TEMPERATURES, len(thresholds))
        weights = finite_tensor(tensors, WEIGHTS, (len(thresholds), FEATURES + 1))
        return cls(temperatures, tuple(thresholds), weights)


def features(scaled: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a gate sees, (n, `FEATURES`), of calibrated logits (n, C) whose largest is 0 in each row."""
    scaled = np.maximum(scaled, _LOWEST)
    classes = scaled.shape[1]
    kept = min(3, classes)
    leading = scaled if kept == classes else np.partition(scaled, classes - kept, axis=1)[:, classes - kept :]
    leading = -np.sort(-leading, axis=1)
    exponentials = np.exp(scaled)
    total = exponentials.sum(axis=1)
    found = np.zeros((len(scaled), FEATURES))
    found[:, :kept] = np.exp(leading) / total[:, None]
    found[:, 3] = (np.log(total) - (exponentials * scaled).sum(axis=1) / total) / np.log(max(2, classes))
    np.put_along_axis(exponentials, scaled.argmax(axis=1)[:, None], 0, axis=1)
    others = np.maximum(exponentials.sum(axis=1), np.float32(np.exp(-_LARGEST_ODDS)))
    found[:, 4] = -np.log(others)
    found[:, 5] = np.minimum(-leading[:, 1], _LARGEST_ODDS) if classes > 1 else _LARGEST_ODDS
    return found
