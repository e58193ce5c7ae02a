"""What a head is worth: accuracy against cost in one number, and what its exit saves at a tolerated loss.

Both count the whole model's MACs C, those of the head C1, and those behind the exit C2. The saving is eq. 4 of SelfXit
(section 3.4) for the subset of this exit alone, over N samples: |H| (C2 − C1) − |M| C1 = N (HR · C2 − C1), with the
hit rate HR at the confidence threshold that keeps the tolerance (section 3.3, eq. 2 and 3, as the first exit). The
worth puts the accuracy in the place of the hit rate: it is the saving of an exit that knows when it is right.

    saving = HR · C2 / C − C1 / C        worth = P(right) · C2 / C − C1 / C

The search goes by the worth. The saving is what counts in the end, but the handful of confident mistakes that sets
the threshold makes it so uncertain on a thousand samples that the worth foretells the saving on other samples better
than the saving itself does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import fit_temperature, softmax
from edgeexit.subsets import subset_score
from edgeexit.thresholds import Material, MaxDrop, fit_thresholds

__all__ = ["Quality", "hopeless", "quality"]

_MOST_OF_REST = 0.1


class Quality(NamedTuple):
    """How good a head is on samples held out.

    Attributes:
        accuracy: The share of its answers that are right.
        hit_rate: The share of the samples that leave at the threshold.
        saving: Of the whole model's MACs, on average; −C1 / C where nobody leaves.
        worth: Likewise, if those left of whom the exit is right.
    """

    accuracy: float
    hit_rate: float
    saving: float
    worth: float

    @classmethod
    def none(cls, accuracy: float, *, head: float, whole: float) -> Quality:
        """That of an exit that nobody may leave at."""
        return cls(accuracy, 0.0, -head / whole, -head / whole)


def quality(
    logits: NDArray[np.float32],
    teacher: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    *,
    before: float,
    head: float,
    whole: float,
    max_drop: float,
) -> Quality:
    """Calibrate a head's confidence, set its threshold, and count what the exit saves.

    Args:
        logits: (N, C) of the head.
        teacher: (N, C) logits of the whole model.
        labels: (N,) in 0…C−1; None takes the whole model's answers for them.
        before: MACs up to the exit, the head not included.
        head: MACs of the head.
        whole: MACs of the whole model.
        max_drop: T, a fraction of the samples; the exit alone gets T/2.
    """
    answers = teacher.argmax(axis=1)
    truth = answers.astype(np.int64) if labels is None else labels
    if not np.isfinite(logits).all():
        return Quality.none(0.0, head=head, whole=whole)
    correct = logits.argmax(axis=1) == truth
    confidence = softmax(logits / np.float32(fit_temperature(logits, truth))).max(axis=1)
    reference = answers == truth
    score = np.stack([confidence, np.ones_like(confidence)])
    costs = np.array([before + head, whole + head])
    material = Material(score, np.stack([correct, reference]), reference, costs)
    thresholds = fit_thresholds("tolerance", material, MaxDrop(max_drop))
    saved = subset_score(score, thresholds, np.array([before, whole]), np.array([head, 0.0]), [0])
    return Quality(
        accuracy=float(correct.mean()),
        hit_rate=float((confidence >= np.float32(thresholds[0])).mean()),
        saving=float(saved / (len(truth) * whole)),
        worth=float(correct.mean() * (whole - before) - head) / whole,
    )


def hopeless(best: float | None, *, before: float, head: float, whole: float) -> bool:
    """Whether a head need not be trained.

    It cannot become the best if another is worth as much as it would be if it were always right; and its cost must be
    "substantially less" than that of what is behind the exit (SelfXit, section 3.2.1): at most a tenth.

    Args:
        best: The worth of the best head so far; None where there is none yet, and then this one is tried.
        before: MACs up to the exit, the head not included.
        head: MACs of the head.
        whole: MACs of the whole model.
    """
    behind = whole - before
    return best is not None and (head > _MOST_OF_REST * behind or (behind - head) / whole <= best)
