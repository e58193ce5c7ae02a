"""What thresholds are fitted on, and what they give there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Material", "Outcome", "exits_taken", "measure"]


@dataclass(frozen=True)
class Material:
    """What every exit would say about every calibration sample, whether or not the sample gets there.

    Attributes:
        score: (E, N), each exit's score for every sample; a sample leaves where score ≥ threshold.
        correct: (E, N), whether each exit's label is right. Without labels: whether it is the whole
            model's.
        reference: (N,), whether the whole model is right. Without labels: all True.
        costs: (E,), everything spent until each exit answers, any unit.
        shares: (E,), the part of the samples that a learned scheduler assigns to each exit; None
            where the policy assigns nothing.
    """

    score: NDArray[np.float32]
    correct: NDArray[np.bool_]
    reference: NDArray[np.bool_]
    costs: NDArray[np.float64]
    shares: NDArray[np.float64] | None = None

    @property
    def exits(self) -> int:
        """E."""
        return len(self.score)

    @property
    def samples(self) -> int:
        """N."""
        return len(self.reference)

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Material:
        """The same for some of the samples."""
        return Material(self.score[:, chosen], self.correct[:, chosen], self.reference[chosen], self.costs, self.shares)


@dataclass(frozen=True)
class Outcome:
    """What thresholds give on the samples they are measured on.

    Attributes:
        loss: Accuracy of the reference minus the cascade's.
        standard_error: Of the loss.
        accuracy: Of the cascade.
        mean_cost: In the unit of the costs.
        cost_error: Standard error of the mean cost.
        cost_step: How far one sample can move the mean cost: (dearest − cheapest exit) / (N − 1).
    """

    loss: float
    standard_error: float
    accuracy: float
    mean_cost: float
    cost_error: float
    cost_step: float


def exits_taken(score: NDArray[np.float32], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """The exit that each sample leaves at, (N,): the first whose score reaches its threshold, else the last.

    Args:
        score: (E, N).
        thresholds: (E−1,); infinity where nobody leaves. At the last exit everybody does.
    """
    leaves = np.ones(score.shape, dtype=bool)
    leaves[:-1] = score[:-1] >= thresholds.astype(np.float32)[:, None]
    return np.asarray(leaves.argmax(axis=0))


def measure(material: Material, thresholds: NDArray[np.float64]) -> Outcome:
    """What thresholds, shape (E−1,), give on this material."""
    taken = exits_taken(material.score, thresholds)
    right = material.correct[taken, np.arange(material.samples)]
    loss = material.reference.astype(np.float64) - right
    cost = material.costs[taken]
    root = np.sqrt(material.samples)
    return Outcome(
        loss=float(loss.mean()),
        standard_error=float(loss.std() / root),
        accuracy=float(right.mean()),
        mean_cost=float(cost.mean()),
        cost_error=float(cost.std() / root),
        cost_step=float(np.ptp(material.costs)) / max(1, material.samples - 1),
    )
