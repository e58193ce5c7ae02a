"""The evidence: what every exit says about every sample, and what the cascade did with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import Manifest
from edgeexit.policies import Policy
from edgeexit.replay import Judgement, judge
from edgeexit.thresholds.material import exits_taken

__all__ = ["Evidence", "examine"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """E exits, N samples, C classes. All of a report is drawn from this.

    An exit's answer is what the policy says there; the whole model's is the largest of the last
    exit's own logits.

    Attributes:
        names: (E,) the exits.
        costs: (E,) everything spent until each exit answers; 1 is the whole model without heads.
        classes: (C,) names.
        criterion: What the score is.
        thresholds: (E,) in the criterion's units; infinity where nobody leaves, and at the last exit.
        truth: (N,) what counts as right.
        whole: (N,) the whole model's answers.
        judgement: Score, label and probability, each (E, N), with nobody leaving.
        taken: (N,) the exit that each sample left at.
    """

    names: tuple[str, ...]
    costs: NDArray[np.float64]
    classes: tuple[str, ...]
    criterion: str
    thresholds: tuple[float, ...]
    truth: NDArray[np.int64]
    whole: NDArray[np.int64]
    judgement: Judgement
    taken: NDArray[np.int64]

    @property
    def exits(self) -> int:
        """E."""
        return len(self.names)

    @property
    def samples(self) -> int:
        """N."""
        return len(self.truth)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(E, N): whether each exit is right."""
        return np.asarray(self.judgement.label == self.truth)

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """(N,): the cascade's answers."""
        return np.asarray(self.judgement.label[self.taken, np.arange(self.samples)])

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """(N,): whether the cascade is right."""
        return np.asarray(self.label == self.truth)

    @cached_property
    def whole_right(self) -> NDArray[np.bool_]:
        """(N,): whether the whole model is right."""
        return np.asarray(self.whole == self.truth)

    @cached_property
    def spent(self) -> NDArray[np.float64]:
        """(N,): the cost of each sample."""
        return np.asarray(self.costs[self.taken])

    def left_at(self, exit_index: int) -> NDArray[np.bool_]:
        """(N,): which samples left at this exit."""
        return np.asarray(self.taken == exit_index)

    def gone_before(self, exit_index: int) -> NDArray[np.bool_]:
        """(N,): which samples never got as far as this exit."""
        return np.asarray(self.taken < exit_index)


def examine(
    manifest: Manifest, policy: Policy, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64] | None
) -> Evidence:
    """Replay a bundle's policy on cached logits.

    Args:
        manifest: The bundle's.
        policy: The bundle's, with its thresholds.
        logits: E arrays of shape (N, C).
        labels: (N,) in 0…C−1; None lets the whole model's answers count as right.
    """
    judgement = judge(policy, logits)
    whole = np.asarray(logits[-1].argmax(axis=1))
    return Evidence(
        names=tuple(entry.name for entry in manifest.exits),
        costs=np.array([entry.cost for entry in manifest.exits]),
        classes=manifest.labels,
        criterion=policy.criterion,
        thresholds=(*policy.thresholds[:-1], float("inf")),
        truth=whole if labels is None else labels,
        whole=whole,
        judgement=judgement,
        taken=exits_taken(judgement.score, np.asarray(policy.thresholds[:-1], dtype=np.float64)),
    )
