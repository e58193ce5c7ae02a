"""A policy's word on a single sample, in Python's numbers: at batch 1 arrays of one cost more than the sums in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies import Policy, State

__all__ = ["Judge", "Verdict", "one_by_one"]


class Verdict(NamedTuple):
    """One row of a `Decision`."""

    score: float
    probability: float
    label: int
    leave: bool


Judge = Callable[[int, NDArray[np.float32], State], tuple[Verdict, State]]
"""Takes the exit's index, its logits (1, classes) and the state of one sample."""


def one_by_one(policy: Policy) -> Judge:
    """How the policy judges single samples: its own `decide_one` if it has one, else `decide`."""
    own: Judge | None = getattr(policy, "decide_one", None)
    if own is not None:
        return own

    def judge(exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Verdict, State]:
        (score, probability, label, leave), state = policy.decide(exit_index, logits, state)
        return Verdict(float(score[0]), float(probability[0]), int(label[0]), bool(leave[0])), state

    return judge
