"""Leave when this exit says what the last exits said (confusion, Shallow-Deep Networks)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.base import State
from edgeexit.policies.scored import Opinion, Scored

__all__ = ["EARLIER", "Confusion"]

EARLIER = 3
"""With how many of the exits before it an exit is compared, at most."""


@dataclass(frozen=True)
class Confusion(Scored):
    """score = −(mean over the last m exits j of ‖p_k − p_j‖₁), in [−2, 0], with m = min(k, 3).

    p = softmax(logits / temperature) of an exit. Shallow-Deep Networks measure confusion once the network
    has ended, as the L1 distances of the *final* probabilities from those of all exits, and read from it
    whether the answer is likely to be wrong. At run time the final probabilities are not there yet, so
    the present exit stands for them, and only the exits just before it for the others: the earliest
    differ from everything that comes later. The mean, not the sum, makes the first exits' scores
    comparable with those of later ones.

    Exit 0 has none before it. Its confusion is that with its own one-hot answer,
    ‖p − e_label‖₁ = 2 (1 − max p), in the same range.

    The state is the probabilities of the last exits, the latest first, shape (samples, 3, classes).
    """

    name: ClassVar[str] = "confusion"
    criterion: ClassVar[str] = "-(mean L1 distance from the last exits)"

    def start(self, samples: int, classes: int) -> State:
        """No probabilities yet."""
        return (np.zeros((samples, EARLIER, classes), dtype=np.float32),)

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        probabilities = np.exp(self.scaled(exit_index, logits))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        probability = probabilities.max(axis=1)
        if exit_index == 0:
            score = 2 * (probability - 1)
        else:
            earlier = state[0][:, : min(exit_index, EARLIER)]
            score = -np.abs(probabilities[:, None] - earlier).sum(axis=2).mean(axis=1)
        seen = np.concatenate([probabilities[:, None], state[0][:, :-1]], axis=1)
        return Opinion(np.maximum(score, np.float32(-2)), probability, logits.argmax(axis=1)), (seen,)
