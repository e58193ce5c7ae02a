"""Trials: one fit of a policy with its thresholds for a budget, and what it does with every sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from edgeexit.cached import CachedLogits
from edgeexit.contenders import Contender
from edgeexit.errors import UnreachableError, UsageError
from edgeexit.policies import POLICIES, Setting
from edgeexit.thresholds import Budget, Material, exits_taken, fit_thresholds
from edgeexit.tuning import fit_on, material, refuse_unreachable

__all__ = ["FOLDS", "Advance", "Trial", "cross_trials", "steps", "trials"]

FOLDS = 5
SEED = 0

Advance = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Trial:
    """What one fit of a contender for one budget does with the samples that it is measured on.

    Attributes:
        contender: Who.
        budget: The budget.
        seed: Of the fit.
        taken: (n,) the exit that each sample takes; empty if the budget is out of reach.
        right: (n,) whether the answer is right; empty likewise.
        note: Why the budget is out of reach; empty if it is not.
    """

    contender: Contender
    budget: float
    seed: int
    taken: NDArray[np.int16]
    right: NDArray[np.bool_]
    note: str = ""


def trials(
    fitting: CachedLogits,
    measuring: CachedLogits,
    costs: NDArray[np.float64],
    budgets: Sequence[float],
    *,
    contenders: Sequence[Contender],
    seeds: int = 3,
    advance: Advance = lambda: None,
) -> list[Trial]:
    """The single results behind `compare`, sample by sample, in the order of its rows and then of the seeds.

    A policy is fitted once for all its contenders, and once for all budgets unless its fit depends on them.
    """
    goals = [Budget(budget) for budget in budgets]
    found: list[Trial] = []
    for name, group in groupby(sorted(contenders, key=lambda contender: contender.policy), lambda c: c.policy):
        members = list(group)
        rounds = [[goal] for goal in goals] if POLICIES[name].uses_budget else [goals]
        for seed in range(members[0].seeds(seeds)):
            for together in rounds:
                found += _fit_and_measure(members, together, fitting, measuring, costs, seed, advance)
    place = {contender.name: number for number, contender in enumerate(contenders)}
    return sorted(found, key=lambda trial: (place[trial.contender.name], budgets.index(trial.budget), trial.seed))


def cross_trials(
    data: CachedLogits,
    costs: NDArray[np.float64],
    budgets: Sequence[float],
    *,
    folds: int = FOLDS,
    contenders: Sequence[Contender],
    seeds: int = 3,
    advance: Advance = lambda: None,
) -> list[Trial]:
    """The single results behind `cross_fit`, the folds' samples one after another."""
    if folds < 2:
        raise UsageError("too few folds", got=folds, expected="at least 2")
    fold = _spread(data.labels, folds)
    parts = [
        trials(
            data.rows(fold != k), data.rows(fold == k), costs, budgets,
            contenders=contenders, seeds=seeds, advance=advance,
        )
        for k in range(folds)
    ]  # fmt: skip
    return [_joined(same) for same in zip(*parts, strict=True)]


def steps(contenders: Sequence[Contender], budgets: Sequence[float], seeds: int) -> int:
    """How many results `trials` finds."""
    return len(budgets) * sum(contender.seeds(seeds) for contender in contenders)


def _fit_and_measure(
    contenders: Sequence[Contender],
    goals: Sequence[Budget],
    fitting: CachedLogits,
    measuring: CachedLogits,
    costs: NDArray[np.float64],
    seed: int,
    advance: Advance,
) -> Iterator[Trial]:
    """One fit of a policy, and what its contenders do for each budget."""
    setting = Setting(costs, goals[0].limit if len(goals) == 1 else None, seed)
    seen: Material | None = None
    for goal in goals:
        try:
            refuse_unreachable(goal, costs)
            if seen is None:
                policy, seen = fit_on(contenders[0].policy, fitting.logits, fitting.labels, costs, setting)
                unseen = material(policy, measuring.logits, measuring.labels, costs)
        except UnreachableError as error:
            yield from (_refused(contender, goal, seed, error, advance) for contender in contenders)
            continue
        for contender in contenders:
            try:
                thresholds = fit_thresholds(contender.method, seen, goal)
            except UnreachableError as error:
                yield _refused(contender, goal, seed, error, advance)
                continue
            taken = exits_taken(unseen.score, thresholds)
            right = unseen.correct[taken, np.arange(unseen.samples)]
            advance()
            yield Trial(contender, goal.limit, seed, taken.astype(np.int16), right)


def _refused(contender: Contender, goal: Budget, seed: int, error: UnreachableError, advance: Advance) -> Trial:
    advance()
    note = error.problem if error.expected is None else f"{error.problem}; expected {error.expected}"
    return Trial(contender, goal.limit, seed, np.zeros(0, np.int16), np.zeros(0, np.bool_), note)


def _spread(labels: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """(N,) a fold for each sample: at random, the samples of each class as evenly as can be."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _joined(same: Sequence[Trial]) -> Trial:
    """One trial out of the folds' ones; out of reach if it is in any."""
    first = same[0]
    note = next((trial.note for trial in same if trial.note), "")
    if note:
        return Trial(first.contender, first.budget, first.seed, first.taken[:0], first.right[:0], note)
    taken, right = (np.concatenate([getattr(trial, name) for trial in same]) for name in ("taken", "right"))
    return Trial(first.contender, first.budget, first.seed, taken, right)
