"""Tuning: a policy fitted and given thresholds for a goal, on cached logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.cached import CachedLogits
from edgeexit.errors import UnreachableError, UsageError
from edgeexit.manifest import CalibrationSummary
from edgeexit.policies import POLICIES, Policy, Setting, policy_kind
from edgeexit.policies.base import Refittable
from edgeexit.replay import judge, replay
from edgeexit.thresholds import Budget, Goal, Material, MaxDrop, Outcome, fit_thresholds, measure

__all__ = [
    "Pricing",
    "Tuned",
    "as_stored",
    "fit_as_stored",
    "fit_held_out",
    "fit_on",
    "material",
    "refuse_unreachable",
    "summarise",
    "tune",
    "tune_all",
    "with_early",
]

FOLDS = 5
MOST_HELD_OUT = 20_000
"""With more samples than this, a fit and a search flatter their samples too little to matter."""

STEPS = 16

Pricing = Callable[[Policy], NDArray[np.float64]]
"""(E,) what is spent until each exit answers under a fitted policy, in the unit of the goal's budget."""


@dataclass(frozen=True)
class Tuned:
    """A policy with thresholds.

    Attributes:
        policy: Ready for a bundle.
        method: The threshold method.
        outcome: On the samples that the thresholds were fitted on.
        costs: (E,) what was reckoned with.
    """

    policy: Policy
    method: str
    outcome: Outcome
    costs: NDArray[np.float64]


def tune(
    name: str,
    logits: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    costs: NDArray[np.float64],
    goal: Goal,
    *,
    method: str | None = None,
    seed: int = 0,
    price: Pricing | None = None,
    reference: NDArray[np.bool_] | None = None,
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
        price: The costs under the fitted policy, where the policy adds to them. The thresholds then
            reckon with these, and `costs` only guides the fit of the policy.
        reference: (N,) whether the model that a loss is counted against is right; the last exit if None.

    Raises:
        UsageError: No such policy or method.
        UnreachableError: The goal is out of reach; the message says what is reachable.
    """
    refuse_unreachable(goal, costs)
    budget = goal.limit if isinstance(goal, Budget) else None
    policy, trial = fit_on(name, logits, labels, costs, Setting(costs, budget, seed))
    if reference is not None:
        trial = replace(trial, reference=reference)
    if price is not None:
        costs = price(policy)
        trial = replace(trial, costs=costs)
    chosen = method or POLICIES[name].thresholds
    thresholds = fit_held_out(chosen, trial, goal) if isinstance(goal, MaxDrop) else fit_thresholds(chosen, trial, goal)
    return Tuned(with_early(policy, thresholds), chosen, measure(trial, thresholds), costs)


def tune_all(
    names: Sequence[str],
    logits: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    costs: NDArray[np.float64],
    goal: Goal,
    *,
    method: str | None = None,
    seed: int = 0,
    price: Pricing | None = None,
    reference: NDArray[np.bool_] | None = None,
) -> list[Tuned]:
    """`tune` several policies: those that meet the goal, the one that serves it best on these samples first.

    Raises:
        UsageError: No such policy or method.
        UnreachableError: The goal is out of reach with each of them; the message is the first one's.
    """
    found: list[Tuned] = []
    refused: list[UnreachableError] = []
    for name in names:
        try:
            tuned = tune(name, logits, labels, costs, goal, method=method, seed=seed, price=price, reference=reference)
            found.append(tuned)
        except UnreachableError as error:
            refused.append(error)
    if not found:
        raise refused[0] if refused else UsageError("no policy was named", expected=" or ".join(POLICIES))

    def compared(one: Tuned, other: Tuned) -> int:
        return int(goal.better(other.outcome, one.outcome)) - int(goal.better(one.outcome, other.outcome))

    return sorted(found, key=cmp_to_key(compared))


def fit_on(
    name: str,
    logits: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    costs: NDArray[np.float64],
    setting: Setting,
) -> tuple[Policy, Material]:
    """A policy, as a bundle gives it back, and what its thresholds are to be fitted on.

    That is what the policy says about the samples it was fitted on. Where this flatters them (see
    `Refittable`) and there are no more than 20,000, each fifth of the samples is judged by a fit on the others.

    Raises:
        UsageError: No such policy.
    """
    fitted = policy_kind(name).fit(logits, labels, setting)
    policy = as_stored(fitted)
    if not isinstance(fitted, Refittable) or not FOLDS <= len(labels) <= MOST_HELD_OUT:
        return policy, material(policy, logits, labels, costs)
    fold = np.arange(len(labels)) % FOLDS
    score = np.empty((len(logits), len(labels)), dtype=np.float32)
    correct = np.empty(score.shape, dtype=bool)
    for k in range(FOLDS):
        others = as_stored(fitted.refit([values[fold != k] for values in logits], labels[fold != k]))
        part = material(others, [values[fold == k] for values in logits], labels[fold == k], costs)
        score[:, fold == k], correct[:, fold == k] = part.score, part.correct
    return policy, Material(score, correct, logits[-1].argmax(axis=1) == labels, costs)


def fit_held_out(method: str, trial: Material, goal: MaxDrop) -> NDArray[np.float64]:
    """(E−1,) thresholds for a largest loss that keep it on samples held out, as far as folds can tell.

    A search over many exits finds thresholds that happen to suit its samples. So the limit that the
    search is given is lowered in steps of a sixteenth until the loss on the samples, and what thresholds
    fitted on four fifths of them lose in addition on the other fifth, are together within the limit that
    was asked for. (Such flattery shrinks with the number of samples, and is scaled from four fifths to
    all of them.) With more than 20,000 samples there is nothing to lower.

    Raises:
        UsageError: No such method.
        UnreachableError: No thresholds keep the limit on all samples.
    """
    best = fit_thresholds(method, trial, goal)
    if not FOLDS <= trial.samples <= MOST_HELD_OUT:
        return best
    fold = np.arange(trial.samples) % FOLDS
    for step in range(STEPS + 1):
        inner = replace(goal, limit=goal.limit * (1 - step / STEPS))
        try:
            found = best if step == 0 else fit_thresholds(method, trial, inner)
            flattery = [_flattery(method, trial.rows(fold != k), trial.rows(fold == k), inner) for k in range(FOLDS)]
        except UnreachableError:
            break
        best = found
        if measure(trial, best).loss + float(np.mean(flattery)) * (FOLDS - 1) / FOLDS <= goal.limit:
            break
    return best


def _flattery(method: str, seen: Material, unseen: Material, goal: Goal) -> float:
    """How much more thresholds lose on samples held out than on those they were fitted on."""
    thresholds = fit_thresholds(method, seen, goal)
    return measure(unseen, thresholds).loss - measure(seen, thresholds).loss


def fit_as_stored(
    name: str, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting
) -> Policy:
    """A policy fitted on E arrays of shape (N, C) with labels (N,), as a bundle gives it back; nobody leaves yet.

    Raises:
        UsageError: No such policy.
    """
    return as_stored(policy_kind(name).fit(logits, labels, setting))


def refuse_unreachable(goal: Goal, costs: NDArray[np.float64]) -> None:
    """Refuse a budget that the costs alone put out of reach, before time is spent on a fit.

    Raises:
        UnreachableError: It is below the cheapest exit, (E,) costs in the budget's unit.
    """
    if isinstance(goal, Budget):
        nobody = np.zeros((len(costs), 0), dtype=np.float32)
        goal.check_reachable(Material(nobody, nobody.astype(bool), nobody[0].astype(bool), costs))


def as_stored(policy: Policy) -> Policy:
    """The policy as a bundle gives it back, its numbers rounded to those of its tensors.

    Thresholds lie between scores, often very close ones, so they are fitted on the scores that a
    device will see.
    """
    return policy_kind(policy.name).load(policy.thresholds, policy.tensors())


def material(
    policy: Policy, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], costs: NDArray[np.float64]
) -> Material:
    """What a fitted policy says about cached logits, for thresholds to be fitted on or measured on."""
    judgement = judge(policy, logits)
    reference = logits[-1].argmax(axis=1) == labels
    shares = getattr(policy, "shares", None)  # of a policy that assigns samples to exits
    return Material(
        judgement.score, judgement.label == labels, reference, costs, None if shares is None else np.asarray(shares)
    )


def with_early(policy: Policy, thresholds: NDArray[np.float64]) -> Policy:
    """The policy with thresholds, shape (E−1,), for all exits but the last. A bundle holds none of −∞."""
    storable = np.maximum(thresholds, float(np.finfo(np.float32).min))
    return policy.with_thresholds((*map(float, storable), float("inf")))


def summarise(
    tuned: Tuned,
    data: CachedLogits,
    cost_shares: NDArray[np.float64],
    goal: Goal,
    *,
    labels: Literal["data", "model"],
    unit: Literal["macs", "ms"] = "macs",
    delta: float | None = None,
) -> CalibrationSummary:
    """What a manifest says about calibration.

    Args:
        tuned: The policy with its thresholds.
        data: What it was tuned on.
        cost_shares: (E,) the exits' costs as fractions of the whole model's MACs.
        goal: What was asked.
        labels: Whose the labels are: the data's, or the whole model's answers.
        unit: Of a budget.
        delta: The chance of a larger loss than asked for, where there is a guarantee.
    """
    from edgeexit.drift import drift_reference  # most fits end in no bundle

    answers = replay(tuned.policy, data.logits)
    budget = goal.limit if isinstance(goal, Budget) else None
    return CalibrationSummary(
        samples=data.samples,
        held_out=False,
        labels=labels,
        max_drop=goal.limit if isinstance(goal, MaxDrop) else None,
        delta=delta,
        budget=budget,
        unit=None if budget is None else unit,
        method=tuned.method,
        full_accuracy=float((data.logits[-1].argmax(axis=1) == data.labels).mean()),
        accuracy=float((answers.label == data.labels).mean()),
        mean_cost=float(cost_shares[answers.exit].mean()),
        exit_shares=tuple(map(float, answers.shares(data.exits))),
        drift=drift_reference(tuned.policy, data.logits),
    )
