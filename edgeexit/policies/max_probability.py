"""Leave when the largest class probability is high enough (MSDNet; E2CM eq. 6 with a temperature)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import fit_temperature
from edgeexit.manifest import PolicyEntry
from edgeexit.policies.base import PLAIN, Decision, Setting, State, Verdict
from edgeexit.policies.single import FEW_CLASSES, first_row, largest_probability
from edgeexit.policies.stored import positive_tensor

__all__ = ["MaxProbability"]

TEMPERATURES = "policy.temperatures"


@dataclass(frozen=True)
class MaxProbability:
    """score = max softmax(logits / temperature) of the exit.

    Args:
        temperatures: One positive value per exit.
        thresholds: One value per exit, in probability; infinity where nobody leaves.
    """

    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    name: str = "max-probability"
    criterion: str = "max-probability"

    def start(self, samples: int, classes: int) -> State:
        """No state."""
        return ()

    def decide(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Decision, State]:
        """See `Policy.decide`."""
        scaled = (logits - logits.max(axis=1, keepdims=True)) * np.float32(1.0 / self.temperatures[exit_index])
        probability = 1.0 / np.exp(scaled).sum(axis=1)
        leave = probability >= np.float32(self.thresholds[exit_index])
        if exit_index == len(self.thresholds) - 1:
            leave = np.ones(len(logits), dtype=bool)
        return Decision(probability, probability, logits.argmax(axis=1), leave), state

    def decide_one(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Verdict, State]:
        """See `Policy.decide_one`."""
        if logits.shape[1] > FEW_CLASSES:
            decision, state = self.decide(exit_index, logits, state)
            return first_row(decision), state
        probability, label = largest_probability(logits[0].tolist(), 1.0 / self.temperatures[exit_index])
        leave = probability >= self.thresholds[exit_index] or exit_index == len(self.thresholds) - 1
        return Verdict(probability, probability, label, leave), state

    def with_thresholds(self, thresholds: tuple[float, ...]) -> MaxProbability:
        """See `Policy.with_thresholds`."""
        return replace(self, thresholds=thresholds)

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """The temperatures, shape (exits,)."""
        return {TEMPERATURES: np.asarray(self.temperatures, dtype=np.float32)}

    def entry(self) -> PolicyEntry:
        """See `Policy.entry`."""
        return PolicyEntry(name=self.name, tensors=(TEMPERATURES,))

    @classmethod
    def fit(
        cls, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting = PLAIN
    ) -> MaxProbability:
        """Fit the temperatures on cached logits, E arrays of shape (n, C), with labels (n,); nobody leaves yet."""
        return cls(tuple(fit_temperature(values, labels) for values in logits), (float("inf"),) * len(logits))

    @classmethod
    def load(cls, thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> MaxProbability:
        """Rebuild the policy from a bundle's tensors.

        Raises:
            BundleError: A temperature is missing, not finite or not positive.
        """
        temperatures = positive_tensor(tensors, TEMPERATURES, (len(thresholds),))
        return cls(tuple(map(float, temperatures)), tuple(thresholds))
