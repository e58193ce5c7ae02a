"""Leave when the largest class probability is high enough (MSDNet; E2CM eq. 6 with a temperature)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.manifest import PolicyEntry
from edgeexit.policies.base import Decision, State

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
        label = logits.argmax(axis=1)
        rows = np.arange(len(logits))
        scaled = (logits - logits[rows, label][:, None]) * np.float32(1.0 / self.temperatures[exit_index])
        probability = 1.0 / np.exp(scaled).sum(axis=1)
        if exit_index == len(self.thresholds) - 1:
            leave = np.ones(len(logits), dtype=bool)
        else:
            leave = probability >= self.thresholds[exit_index]
        return Decision(probability, probability, label, leave), state

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
    def load(cls, thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> MaxProbability:
        """Rebuild the policy from a bundle's tensors.

        Raises:
            BundleError: A temperature is missing, not finite or not positive.
        """
        temperatures = tensors.get(TEMPERATURES)
        if temperatures is None or temperatures.shape != (len(thresholds),):
            raise BundleError(
                f"exits.safetensors has no usable tensor {TEMPERATURES}",
                got=None if temperatures is None else f"shape {temperatures.shape}",
                expected=f"shape ({len(thresholds)},), one temperature per exit",
            )
        if not (np.isfinite(temperatures).all() and (temperatures > 0).all()):
            raise BundleError(
                f"exits.safetensors: {TEMPERATURES} holds an unusable value",
                got=temperatures.tolist(),
                expected="positive finite numbers",
            )
        return cls(tuple(map(float, temperatures)), tuple(thresholds))
