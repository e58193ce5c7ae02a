"""Leave when the exit's own probabilities are sure enough, by three more measures than the largest.

All take p = softmax(logits / temperature) of the exit, with a temperature fitted per exit, and answer
with the most probable class. With two classes all of them, and maximum probability, order the samples
alike; with more, entropy and margin also look at the classes that were not answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.base import State
from edgeexit.policies.scored import Opinion, Scored

__all__ = ["Entropy", "LogProbability", "Margin"]

_LOWEST = np.float32(-1e4)
"""exp of anything lower is 0 too, and 0 times it is a number."""


@dataclass(frozen=True)
class Entropy(Scored):
    """score = 1 − H(p) / log C = 1 + Σ p log p / log C, in [0, 1] (EENet eq. 6).

    BranchyNet leaves when H, in nats, is below a threshold T; that is score > 1 − T / log C. With one
    class there is no doubt, and the score is 1.
    """

    name: ClassVar[str] = "entropy"
    criterion: ClassVar[str] = "1 - entropy / log(classes)"

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        scaled = np.maximum(self.scaled(exit_index, logits), _LOWEST)
        exponentials = np.exp(scaled)
        total = exponentials.sum(axis=1)
        entropy_nats = np.log(total) - (exponentials * scaled).sum(axis=1) / total
        score = 1 - entropy_nats / np.float32(np.log(max(2, logits.shape[1])))
        return Opinion(np.clip(score, 0, 1), 1 / total, logits.argmax(axis=1)), state


@dataclass(frozen=True)
class LogProbability(Scored):
    """score = log max p, natural logarithm, at most 0.

    Distiller leaves when the cross-entropy is below a threshold T. Its example code computes that with
    the true label, which nobody has at run time; with the label that is answered it is −log max p, as
    the article says, and score > −T.

    The order of the samples is that of maximum probability. But close to certainty, where float32
    probabilities are all 1, their logarithms still differ.
    """

    name: ClassVar[str] = "log-probability"
    criterion: ClassVar[str] = "log max-probability"

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        label = logits.argmax(axis=1)
        exponentials = np.exp(self.scaled(exit_index, logits))
        np.put_along_axis(exponentials, label[:, None], 0, axis=1)
        others = exponentials.sum(axis=1)
        return Opinion(-np.log1p(others), 1 / (1 + others), label), state


@dataclass(frozen=True)
class Margin(Scored):
    """score = the largest probability less the second largest, in [0, 1]; 1 with one class.

    Big/Little (Park et al. 2015) calls it the score margin.
    """

    name: ClassVar[str] = "margin"
    criterion: ClassVar[str] = "margin"

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        scaled = self.scaled(exit_index, logits)
        probability = 1 / np.exp(scaled).sum(axis=1)
        if logits.shape[1] == 1:
            second = np.full(len(logits), -np.inf, dtype=np.float32)
        else:
            second = np.partition(scaled, -2, axis=1)[:, -2]
        return Opinion(-np.expm1(second) * probability, probability, logits.argmax(axis=1)), state
