"""Leave when the exits passed so far agree: in a row (patience) or by majority (vote).

Counts of exits are few different numbers, and at the first exit there is but one: thresholds on
them alone would let all samples leave or none. So ties, and only ties, are broken by the calibrated
confidence of the exit: with count c and the largest probability p,

    score = (c + 0.999 p) / step,   c / step < score < (c + 1) / step

A threshold of c / step therefore gives exactly the published criterion, to which the confidence
adds nothing; a threshold between two counts lets the more confident ones of the lower count leave.

Everything is per sample. PABEE's code counts over the whole batch, which ties samples together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.base import State
from edgeexit.policies.scored import Opinion, Scored

__all__ = ["Patience", "Vote"]

_BELOW_THE_STEP = np.float32(0.999)
_NO_LABEL = -1.0


@dataclass(frozen=True)
class Patience(Scored):
    """score = the number of exits in a row, this one included, that gave this label, and 0.999 p (PABEE).

    PABEE counts agreements (one less than the exits that agree) and leaves when they reach one
    patience t for all exits: that is the threshold t + 1 everywhere. The answer is this exit's label.

    The state is two arrays of shape (samples,): the last label, and how often in a row it came.
    """

    name: ClassVar[str] = "patience"
    criterion: ClassVar[str] = "exits in a row, ties by max-probability"

    def start(self, samples: int, classes: int) -> State:
        """No label yet."""
        return np.full(samples, _NO_LABEL, dtype=np.float32), np.zeros(samples, dtype=np.float32)

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        label = logits.argmax(axis=1)
        before, times = state
        now = label.astype(np.float32)  # exact up to 2²⁴ classes
        row = np.where(now == before, times, np.float32(0)) + np.float32(1)
        probability = self.confidence(exit_index, logits)
        return Opinion(row + _BELOW_THE_STEP * probability, probability, label), (now, row)


@dataclass(frozen=True)
class Vote(Scored):
    """score = (the most votes that any class has, and 0.999 p) / exits so far (EENet eq. 7).

    Each exit passed votes for its label. The winner of the vote may be another class than this exit's
    label; the answer is this exit's label all the same, as EENet uses it.

    The state is the votes, shape (samples, classes).
    """

    name: ClassVar[str] = "vote"
    criterion: ClassVar[str] = "share of votes, ties by max-probability"

    def start(self, samples: int, classes: int) -> State:
        """No votes yet."""
        return (np.zeros((samples, classes), dtype=np.float32),)

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        label = logits.argmax(axis=1)
        votes = state[0].copy()
        votes[np.arange(len(label)), label] += 1
        probability = self.confidence(exit_index, logits)
        score = (votes.max(axis=1) + _BELOW_THE_STEP * probability) / np.float32(exit_index + 1)
        return Opinion(score, probability, label), (votes,)
