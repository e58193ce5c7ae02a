"""The samples that the scheduler is fitted on, and what is wanted of it on each (EENet eq. 3, 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.eenet.forward import agreement, own_inputs

__all__ = ["Samples", "assignment_targets"]


@dataclass(frozen=True, eq=False)
class Samples:
    """N samples at K exits.

    Attributes:
        inputs: (K, N, D_1), [ŷ_k, a_k] of each exit; b_k is what the exits say themselves.
        correct: (K, N), q of eq. 3.
        assignment: (K, N), r of eq. 4.
        costs: (K,) in multiples of the budget B; None where no budget is asked for.
    """

    inputs: NDArray[np.float64]
    correct: NDArray[np.bool_]
    assignment: NDArray[np.float64]
    costs: NDArray[np.float64] | None

    @classmethod
    def of(
        cls,
        logits: Sequence[NDArray[np.float32]],
        labels: NDArray[np.int64],
        temperatures: Sequence[float],
        ranked: bool,
        costs: NDArray[np.float64] | None,
    ) -> Samples:
        """From K arrays of logits, shape (N, C), and labels (N,)."""
        answers = np.stack([values.argmax(axis=1) for values in logits])
        inputs = []
        for k, (values, temperature) in enumerate(zip(logits, temperatures, strict=True)):
            own, _ = own_inputs(values, temperature, ranked)
            vote = agreement(answers[: k + 1].T.astype(np.float32))
            inputs.append(np.concatenate([own, vote[:, None]], axis=1))
        correct = answers == labels
        return cls(np.stack(inputs), correct, assignment_targets(correct), costs)

    def rows(self, chosen: NDArray[np.int64]) -> Samples:
        """The same for some of the samples."""
        return Samples(self.inputs[:, chosen], self.correct[:, chosen], self.assignment[:, chosen], self.costs)

    def __len__(self) -> int:
        return len(self.correct[0])


def assignment_targets(correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The targets r of eq. 4, (K, N): a sample belongs in equal parts to the exits that have it right, or to all."""
    wanted = correct | ~correct.any(axis=0)
    return np.asarray(wanted / wanted.sum(axis=0))
