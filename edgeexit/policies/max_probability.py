"""Leave when the largest class probability is high enough (MSDNet; E2CM eq. 6 with a temperature)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.base import State, Verdict
from edgeexit.policies.scored import Opinion, Scored
from edgeexit.policies.single import FEW_CLASSES, first_row, largest_probability, rounded_thresholds

__all__ = ["MaxProbability"]


@dataclass(frozen=True)
class MaxProbability(Scored):
    """score = max softmax(logits / temperature) of the exit, in (0, 1]."""

    name: ClassVar[str] = "max-probability"
    criterion: ClassVar[str] = "max-probability"
    few_rows: ClassVar[int] = 16

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        probability = self.confidence(exit_index, logits)
        return Opinion(probability, probability, logits.argmax(axis=1)), state

    def decide_one(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Verdict, State]:
        """See `Policy.decide_one`."""
        if logits.shape[1] > FEW_CLASSES:
            decision, state = self.decide(exit_index, logits, state)
            return first_row(decision), state
        probability, label = largest_probability(logits[0].tolist(), 1.0 / self.temperatures[exit_index])
        leave = probability >= self._rounded[exit_index] or self.is_last(exit_index)  # also where it is NaN
        return Verdict(probability, probability, label, leave), state

    @cached_property
    def _rounded(self) -> tuple[float, ...]:
        return rounded_thresholds(self.thresholds)
