"""The reference: where the samples of the calibration split leave, and with which scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import DriftReference
from edgeexit.policies import Policy
from edgeexit.replay import replay

__all__ = ["binned", "drift_reference"]

MOST_BINS = 10
BIN_SAMPLES = 25


def drift_reference(policy: Policy, logits: Sequence[NDArray[np.float32]]) -> DriftReference:
    """Count where samples leave and with which scores.

    The bins of an exit lie between quantiles of its scores: at most ten, of 25 samples or more.

    Args:
        policy: With its thresholds.
        logits: Of the calibration split, E arrays of shape (N, C).
    """
    answers = replay(policy, logits)
    edges, counts = [], []
    for k in range(len(logits)):
        scores = answers.score[answers.exit == k]
        edges.append(_edges(scores))
        counts.append(tuple(map(int, binned(scores, edges[-1]))))
    agreeing = int((answers.label == logits[-1].argmax(axis=1)).sum())
    return DriftReference(agreeing=agreeing, edges=tuple(edges), counts=tuple(counts))


def binned(scores: NDArray[Any], edges: Sequence[float]) -> NDArray[np.int64]:
    """How many scores are in each bin: below the first edge, from the first on, …; one more than edges."""
    return np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)


def _edges(scores: NDArray[np.float32]) -> tuple[float, ...]:
    """Some of the scores, rising, that part them into bins of about equal size; equal scores stay together."""
    bins = min(MOST_BINS, len(scores) // BIN_SAMPLES)
    if bins < 2:
        return ()
    ordered = np.sort(scores)
    found = np.unique(ordered[[len(ordered) * b // bins for b in range(1, bins)]])
    return tuple(float(edge) for edge in found if np.isfinite(edge) and edge > ordered[0])
