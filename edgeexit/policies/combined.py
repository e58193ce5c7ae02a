"""Leave when a classifier at the exit and the class means say so: either of them, or both (E2CM).

E2CM joins class means with internal classifiers in two ways that exclude each other, and both are
here by name. The internal classifier is the exit's calibrated largest probability p; E2CM is the
probability q of the nearest class mean (`edgeexit.policies.class_means`). Both are probabilities of being
right, so one threshold per exit serves both, and an exit has one score:

- `either` (section III-B): E2CM is consulted if the internal classifier would go on, and may let the sample
  leave; it goes on only if both agree to that. score = max(p, q)
- `veto` (section IV-A): E2CM is consulted if the internal classifier would leave, and may forbid it.
  score = min(p, q), or 0 if the two give different labels

The answer is the internal classifier's label with its probability p (III-B says so). At the last exit
there is nothing left to decide, and the score is p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.base import State
from edgeexit.policies.class_means import WithClassMeans
from edgeexit.policies.scored import Opinion

__all__ = ["Either", "Veto"]


@dataclass(frozen=True, eq=False)
class Either(WithClassMeans):
    """score = max(p, q): leave when the internal classifier or the class means say so (E2CM, section III-B)."""

    name: ClassVar[str] = "either"
    criterion: ClassVar[str] = "max(max-probability, class-means probability)"

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        probability = self.confidence(exit_index, logits)
        own = Opinion(probability, probability, logits.argmax(axis=1))
        if self.is_last(exit_index):
            return own, state
        means = self.nearest.opinion(exit_index, logits)
        return own._replace(score=np.maximum(probability, means.probability)), state


@dataclass(frozen=True, eq=False)
class Veto(WithClassMeans):
    """score = min(p, q), 0 where the labels differ: leave when both say so and agree (E2CM, section IV-A).

    Any threshold above 0 is a veto that nothing overrules. A threshold of 0 sets it aside with every
    other condition: all samples leave, which the smallest budgets need.
    """

    name: ClassVar[str] = "veto"
    criterion: ClassVar[str] = "min(max-probability, class-means probability), 0 if the labels differ"

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        probability = self.confidence(exit_index, logits)
        own = Opinion(probability, probability, logits.argmax(axis=1))
        if self.is_last(exit_index):
            return own, state
        means = self.nearest.opinion(exit_index, logits)
        both = np.minimum(probability, means.probability)
        return own._replace(score=np.where(own.label == means.label, both, np.float32(0))), state
