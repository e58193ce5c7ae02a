"""Retuning: what a user asks of `edgeexit tune`, and the fit that answers it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.cached import CachedLogits
from edgeexit.data import Dataset
from edgeexit.errors import UnreachableError, UsageError
from edgeexit.thresholds import BUDGET_RESERVE, DROP_RESERVE, Budget, Goal, MaxDrop
from edgeexit.tuning import Pricing, Tuned, refuse_unreachable, tune_all
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.evaluation import choose_samples

__all__ = ["FOR_A_BUDGET", "FOR_A_LOSS", "Prices", "Request", "Unit", "price_exits", "requested", "retune"]

FOR_A_BUDGET, FOR_A_LOSS = "risk", "joint"
"""The threshold methods unless one is named. The joint search takes the calibration split's best point, which often
leaves much of a budget unspent; with even risk new samples are answered better (benchmarks/budgets.py)."""

TIMED_SAMPLES = 30
UNITS = {"macs": "a share of the whole model's MACs", "ms": "milliseconds a sample"}

Unit = Literal["macs", "ms"]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        goal: A largest loss, or a budget in `unit`.
        delta: With a largest loss: the chance of breaking it over calibration draws; None for no guarantee.
        unit: Of the budget.
        method: The threshold method; with `delta` none is used.
        profile: Times measured before.
    """

    goal: Goal
    delta: float | None
    unit: Unit
    method: str
    profile: Path | None


@dataclass(frozen=True)
class Prices:
    """What the exits cost.

    Attributes:
        costs: (E,) in the unit of the request.
        by_policy: The costs under a policy that is fitted; None where it adds nothing.
        source: Where times come from; None for MACs.
    """

    costs: NDArray[np.float64]
    by_policy: Pricing | None
    source: str | None


def requested(
    *,
    max_drop: float | None,
    delta: float | None,
    budget: float | None,
    unit: Unit | None,
    method: str | None,
    reserve: float | None,
    profile: Path | None,
) -> Request:
    """What the options together ask for; None stands for an option that was not given.

    Raises:
        UsageError: There is no goal or there are two, an option does not go with the goal, or a number
            is out of range.
    """
    if (max_drop is None) == (budget is None):
        raise UsageError(
            "one goal is needed",
            got="neither --max-drop nor --budget" if budget is None else "both --max-drop and --budget",
            expected="a largest loss (--max-drop 0.01) or a largest cost (--budget 0.5)",
        )
    if budget is not None and not (np.isfinite(budget) and budget > 0):
        raise UsageError("that is not a budget", got=f"{budget:g}", expected="a positive number")
    for given, words, fits in (
        (delta, "--delta goes with --max-drop", budget is None),
        (unit, "--unit goes with --budget", max_drop is None),
        (profile, "--profile goes with --budget and --unit ms", unit == "ms"),
        (method, "a guarantee finds its own thresholds: no --thresholds beside --delta", delta is None),
        (reserve, "a guarantee keeps its own reserve: no --reserve beside --delta", delta is None),
    ):
        if given is not None and not fits:
            raise UsageError(words, got=given, remedy="leave one of them out")
    if delta is not None and not max_drop:
        raise UsageError("that loss cannot be guaranteed", got=max_drop, expected="more than 0, such as 0.01")
    goal: Goal
    if budget is not None:
        goal = Budget(budget, BUDGET_RESERVE if reserve is None else reserve)
    else:
        goal = MaxDrop(max_drop or 0.0, DROP_RESERVE if reserve is None else reserve)
    own = FOR_A_LOSS if budget is None else FOR_A_BUDGET
    return Request(goal, delta, unit or "macs", method or own, profile)


def price_exits(request: Request, cascade: Cascade, dataset: Dataset) -> Prices:
    """What the exits cost, in the unit of the request. Times are measured now, or read.

    Raises:
        DeviceError: The profile cannot be used.
        DataError: A sample to time cannot be read.
        UnreachableError: The budget is out of reach.
    """
    if request.unit == "macs":
        prices = Prices(np.array([entry.cost for entry in cascade.manifest.exits]), None, None)
    else:
        prices = _times(request.profile, cascade, dataset)
    with _in_the_unit_of(request):
        refuse_unreachable(request.goal, prices.costs)
    return prices


def retune(request: Request, policies: tuple[str, ...], data: CachedLogits, prices: Prices, *, seed: int) -> Tuned:
    """Fit the policies, and take the best.

    Raises:
        UnreachableError: The goal is out of reach; the message says what is reachable, in the unit asked.
    """
    cached = (data.logits, data.labels, prices.costs)
    if request.delta is not None:
        from edgeexit.certified import tune_certified

        return tune_certified(policies, *cached, max_drop=request.goal.limit, delta=request.delta, seed=seed)
    with _in_the_unit_of(request):
        found = tune_all(policies, *cached, request.goal, method=request.method, seed=seed, price=prices.by_policy)
    return found[0]


def _times(profile: Path | None, cascade: Cascade, dataset: Dataset) -> Prices:
    if profile is not None:
        from edgeexit.profiles import read_profile

        return Prices(np.array(read_profile(profile, cascade.manifest).exits_ms), None, str(profile))
    from edgeexit_runtime.costs import exit_times_ms

    samples = list(dataset.batches(1, choose_samples(dataset, TIMED_SAMPLES)))  # read before the clock starts
    return Prices(
        exit_times_ms(cascade, samples),
        lambda policy: exit_times_ms(cascade.with_policy(policy), samples),
        "measured now",
    )


@contextmanager
def _in_the_unit_of(request: Request) -> Iterator[None]:
    """Say in which unit a budget is out of reach."""
    try:
        yield
    except UnreachableError as error:
        if isinstance(request.goal, MaxDrop):
            raise
        expected = f"{error.expected}; {UNITS[request.unit]}"
        raise UnreachableError(error.problem, got=error.got, expected=expected, remedy=error.remedy) from error
