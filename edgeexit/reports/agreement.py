"""Who is right: the exit, the whole model, both, neither (SelfXit, table 1 and figure 2), and overthinking (SDN)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.reports.evidence import Evidence

__all__ = ["Combination", "HitCurve", "Overthinking", "combinations", "hit_curve", "overthinking"]

_STEPS = 101


@dataclass(frozen=True)
class Combination:
    """How often an exit's answer C, the whole model's answer B and the truth agree, as counts.

    Attributes:
        name: Of the exit.
        both_right: C = B = truth.
        same_mistake: C = B, and wrong.
        whole_only: B right, C wrong: lost by leaving here.
        exit_only: C right, B wrong: gained by leaving here.
        different_mistakes: C ≠ B, both wrong.
    """

    name: str
    both_right: int
    same_mistake: int
    whole_only: int
    exit_only: int
    different_mistakes: int

    @property
    def samples(self) -> int:
        """All five together."""
        return self.both_right + self.same_mistake + self.whole_only + self.exit_only + self.different_mistakes

    @property
    def gain(self) -> int:
        """Samples that are right because of this exit, less those that are wrong because of it."""
        return self.exit_only - self.whole_only


@dataclass(frozen=True, eq=False)
class HitCurve:
    """One exit alone, for every threshold on the confidence: all arrays (G,).

    Attributes:
        name: Of the exit.
        samples: How many are all.
        confidence: Thresholds from 0 to 1.
        hit_rate: Share of all samples that are at least as confident.
        accuracy: Of those; NaN where there are none.
        agreement: How often those have the whole model's answer; NaN where there are none.
    """

    name: str
    samples: int
    confidence: NDArray[np.float64]
    hit_rate: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    agreement: NDArray[np.float64]


@dataclass(frozen=True)
class Overthinking:
    """Samples that an exit before the last has right and the whole model has wrong.

    Attributes:
        share: Of all samples.
        kept_share: Of all samples: those among them that the cascade gets right.
        by_exit: (E−1,) share of all samples that are right at this exit and wrong at the end.
        best_accuracy: If every sample left at the first exit that is right.
        best_cost: Mean cost then; samples that no exit has right leave at the first.
    """

    share: float
    kept_share: float
    by_exit: tuple[float, ...]
    best_accuracy: float
    best_cost: float


def combinations(evidence: Evidence, exit_index: int, chosen: NDArray[np.bool_] | None = None) -> Combination:
    """Count the combinations at an exit, over the samples `chosen` (N,) or all of them."""
    rows = slice(None) if chosen is None else chosen
    answer, whole, truth = evidence.judgement.label[exit_index][rows], evidence.whole[rows], evidence.truth[rows]
    same, right, whole_right = answer == whole, answer == truth, whole == truth
    counts = (same & right, same & ~right, whole_right & ~right, right & ~whole_right, ~same & ~right & ~whole_right)
    return Combination(evidence.names[exit_index], *(int(count.sum()) for count in counts))


def hit_curve(evidence: Evidence, exit_index: int) -> HitCurve:
    """Hit rate and accuracy of an exit against the confidence that is asked for, over all samples."""
    order = np.argsort(-evidence.judgement.probability[exit_index], kind="stable")
    confidences = evidence.judgement.probability[exit_index][order].astype(np.float64)
    same = (evidence.judgement.label[exit_index] == evidence.whole)[order]
    asked = np.linspace(0, 1, _STEPS)
    hits = np.searchsorted(-confidences, -asked, side="right")

    def among_hits(good: NDArray[np.bool_]) -> NDArray[np.float64]:
        total = np.concatenate([[0.0], np.cumsum(good)])[hits]
        return np.asarray(np.where(hits > 0, total / np.maximum(hits, 1), np.nan))

    right = evidence.correct[exit_index][order]
    return HitCurve(
        name=evidence.names[exit_index],
        samples=evidence.samples,
        confidence=asked,
        hit_rate=hits / evidence.samples,
        accuracy=among_hits(right),
        agreement=among_hits(same),
    )


def overthinking(evidence: Evidence) -> Overthinking:
    """How much is lost by going on."""
    early = evidence.correct[:-1]
    lost = early & ~evidence.whole_right
    once = lost.any(axis=0)
    first_right = evidence.correct.argmax(axis=0)  # the first exit where none is right
    return Overthinking(
        share=float(once.mean()),
        kept_share=float((once & evidence.right).mean()),
        by_exit=tuple(map(float, lost.mean(axis=1))),
        best_accuracy=float(evidence.correct.any(axis=0).mean()),
        best_cost=float(evidence.costs[first_right].mean()),
    )
