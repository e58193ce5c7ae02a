"""Comparison: every policy with its thresholds at the same budgets, fitted and measured on the same logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from edgeexit.cached import CachedLogits
from edgeexit.contenders import Contender, default_contenders
from edgeexit.errors import DataError
from edgeexit.trials import FOLDS, Advance, Trial, cross_trials, steps, trials

__all__ = ["FOLDS", "Contender", "Row", "compare", "cross_fit", "default_contenders", "steps", "summarise"]


@dataclass(frozen=True)
class Row:
    """A contender at a budget.

    Attributes:
        policy: The contender's name.
        thresholds: Its threshold method.
        budget: What its mean cost was to be at most.
        accuracy: On the samples that it was measured on, the mean over seeds; None if not reachable.
        accuracy_error: Standard error of it: √(s² / S + p (1 − p) / n), with s the standard deviation over
            S seeds and p the accuracy on n samples.
        cost: Mean cost there, the mean over seeds; None if not reachable.
        cost_error: Standard error of it, likewise: √(s² / S + variance of a sample's cost / n).
        seeds: S; 1 where chance does not enter.
        reachable: Whether the budget can be kept, with every seed.
        note: Why not.
    """

    policy: str
    thresholds: str
    budget: float
    accuracy: float | None
    accuracy_error: float | None
    cost: float | None
    cost_error: float | None
    seeds: int
    reachable: bool
    note: str


def compare(
    fitting: CachedLogits,
    measuring: CachedLogits,
    costs: NDArray[np.float64],
    budgets: Sequence[float],
    *,
    contenders: Sequence[Contender] | None = None,
    seeds: int = 3,
    every_class: bool = True,
    advance: Advance = lambda: None,
) -> list[Row]:
    """Fit each contender for each budget on one set of samples, and measure it on another.

    Args:
        fitting: What policies and thresholds are fitted on.
        measuring: What accuracy and cost are measured on.
        costs: (E,) everything spent until each exit answers, in the unit of the budgets, such as
            fractions of the whole model's MACs.
        budgets: Largest mean costs.
        contenders: Who takes part; `default_contenders()` if None.
        seeds: How often a policy is fitted whose fit has chance in it.
        every_class: Whether each class needs a sample to fit on; not where the model gives the labels.
        advance: Called `steps(contenders, budgets, seeds)` times, as the work goes on.

    Returns:
        One row per contender and budget, contender by contender.

    Raises:
        DataError: The logits or labels cannot be used, or the two sets do not go together.
        UsageError: A budget is not a positive number, or a policy or method is not known.
    """
    chosen = default_contenders() if contenders is None else contenders
    fitting.check(every_class=every_class)
    measuring.check(every_class=False)
    if (fitting.exits, fitting.classes) != (measuring.exits, measuring.classes):
        raise DataError(
            "the logits to measure on are not of the same cascade",
            got=f"{measuring.exits} exits, {measuring.classes} classes",
            expected=f"{fitting.exits} exits, {fitting.classes} classes",
        )
    found = trials(fitting, measuring, costs, budgets, contenders=chosen, seeds=seeds, advance=advance)
    return summarise(found, costs)


def cross_fit(
    data: CachedLogits,
    costs: NDArray[np.float64],
    budgets: Sequence[float],
    *,
    folds: int = FOLDS,
    contenders: Sequence[Contender] | None = None,
    seeds: int = 3,
    every_class: bool = True,
    advance: Advance = lambda: None,
) -> list[Row]:
    """`compare` with one set of samples: each fold is measured by what was fitted on the others.

    Args:
        data: The samples. They are spread over the folds at random, each class evenly.
        costs: See `compare`.
        budgets: See `compare`.
        folds: How many, at least 2.
        contenders: See `compare`.
        seeds: See `compare`.
        every_class: See `compare`; each class then needs two.
        advance: Called `folds` times as often as with `compare`.

    Raises:
        DataError: The logits or labels cannot be used, or a class has a single sample.
        UsageError: A budget is not a positive number, or a policy or method is not known.
    """
    chosen = default_contenders() if contenders is None else contenders
    data.check(every_class=every_class)
    if every_class and np.bincount(data.labels).min() < 2:
        raise DataError(
            "a class has a single sample, so it cannot be both fitted on and measured",
            got=f"one of class {int(np.bincount(data.labels).argmin())}",
            expected="two samples of every class, better hundreds",
            remedy="give more data, or other data to fit on",
        )
    found = cross_trials(data, costs, budgets, folds=folds, contenders=chosen, seeds=seeds, advance=advance)
    return summarise(found, costs)


def summarise(found: Sequence[Trial], costs: NDArray[np.float64]) -> list[Row]:
    """One row per contender and budget, with means and standard errors over seeds and samples."""
    groups = groupby(found, lambda trial: (trial.contender.name, trial.budget))
    return [_row(list(group), costs) for _, group in groups]


def _row(same: Sequence[Trial], costs: NDArray[np.float64]) -> Row:
    contender, seeds = same[0].contender, len(same)
    note = next((trial.note for trial in same if trial.note), "")
    accuracy = accuracy_error = cost = cost_error = None
    if not note:
        accuracy, accuracy_error = _mean([trial.right.astype(np.float64) for trial in same])
        cost, cost_error = _mean([costs[trial.taken] for trial in same])
    return Row(
        policy=contender.name,
        thresholds=contender.method,
        budget=same[0].budget,
        accuracy=accuracy,
        accuracy_error=accuracy_error,
        cost=cost,
        cost_error=cost_error,
        seeds=seeds,
        reachable=not note,
        note=note,
    )


def _mean(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Mean over seeds and samples, and its standard error. For truth values the variance is p (1 − p)."""
    means = np.array([part.mean() for part in values])
    over_seeds = means.var(ddof=1) / len(means) if len(means) > 1 else 0.0
    over_samples = float(np.mean([part.var() for part in values])) / len(values[0])
    return float(means.mean()), float(np.sqrt(over_seeds + over_samples))
