"""Tuning: a policy fitted and given thresholds for a goal, on cached logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies import POLICIES, Policy, Setting, policy_kind
from edgeexit.replay import judge
from edgeexit.thresholds import Budget, Goal, Material, Outcome, fit_thresholds, measure

__all__ = ["Tuned", "material", "tune"]


@dataclass(frozen=True)
class Tuned:
    """A policy with thresholds.

    Attributes:
        policy: Ready for a bundle.
        method: The threshold method.
        outcome: On the samples it was fitted on.
    """

    policy: Policy
    method: str
    outcome: Outcome


def tune(
    name: str,
    logits: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    costs: NDArray[np.float64],
    goal: Goal,
    *,
    method: str | None = None,
    seed: int = 0,
) -> Tuned:
    """Fit a policy and its thresholds.

    Args:
        name: A key of `edgeexit.policies.POLICIES`.
        logits: E arrays of shape (N, C).
        labels: (N,) what counts as right: the truth, or the whole model's answers where there is none.
        costs: (E,) everything spent until each exit answers, in the unit of the goal's budget.
        goal: A budget or a largest loss.
        method: A key of `edgeexit.thresholds.METHODS`; the one of the policy's own text if None.
        seed: For whatever chance enters.

    Raises:
        UsageError: No such policy or method.
        UnreachableError: The goal is out of reach; the message says what is reachable.
    """
    kind = policy_kind(name)
    budget = goal.limit if isinstance(goal, Budget) else None
    policy = kind.fit(logits, labels, Setting(costs, budget, seed))
    trial = material(policy, logits, labels, costs)
    chosen = method or POLICIES[name].thresholds
    thresholds = fit_thresholds(chosen, trial, goal)
    fitted = policy.with_thresholds((*map(float, thresholds), float("inf")))
    return Tuned(fitted, chosen, measure(trial, thresholds))


def material(
    policy: Policy, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], costs: NDArray[np.float64]
) -> Material:
    """What a fitted policy says about cached logits, for thresholds to be fitted on or measured on."""
    judgement = judge(policy, logits)
    reference = logits[-1].argmax(axis=1) == labels
    return Material(judgement.score, judgement.label == labels, reference, costs)
