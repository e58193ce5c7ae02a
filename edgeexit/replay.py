"""Replaying a cascade on cached logits: what each sample would have done, with nothing run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.base import Policy

__all__ = ["Judgement", "Replay", "judge", "replay"]


@dataclass(frozen=True)
class Replay:
    """What the cascade answers, one row per sample."""

    label: NDArray[np.int64]
    exit: NDArray[np.int64]
    score: NDArray[np.float32]
    probability: NDArray[np.float32]

    def shares(self, exits: int) -> NDArray[np.float64]:
        """Share of the samples that left at each exit, shape (exits,)."""
        return np.bincount(self.exit, minlength=exits) / max(1, len(self.exit))


@dataclass(frozen=True)
class Judgement:
    """What every exit would say about every sample, whether or not the sample gets there."""

    score: NDArray[np.float32]  # (E, N)
    label: NDArray[np.int64]  # (E, N)
    probability: NDArray[np.float32]  # (E, N)


def judge(policy: Policy, logits: Sequence[NDArray[np.float32]]) -> Judgement:
    """Run the policy over cached logits, E arrays of shape (N, C), with nobody leaving."""
    state = policy.start(*logits[0].shape)
    decisions = []
    for k, at_exit in enumerate(logits):
        decision, state = policy.decide(k, at_exit, state)
        decisions.append(decision)
    return Judgement(
        score=np.stack([d.score for d in decisions]),
        label=np.stack([d.label for d in decisions]),
        probability=np.stack([d.probability for d in decisions]),
    )


def replay(policy: Policy, logits: Sequence[NDArray[np.float32]]) -> Replay:
    """What the cascade answers on cached logits, E arrays of shape (N, C)."""
    judgement = judge(policy, logits)
    thresholds = np.asarray(policy.thresholds, dtype=np.float32)[:, None]
    leaves = judgement.score >= thresholds
    leaves[-1] = True
    exit_index = leaves.argmax(axis=0)
    rows = np.arange(len(exit_index))
    return Replay(
        label=judgement.label[exit_index, rows],
        exit=exit_index,
        score=judgement.score[exit_index, rows],
        probability=judgement.probability[exit_index, rows],
    )
