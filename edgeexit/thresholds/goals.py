"""What is asked of thresholds: the best accuracy within a budget, or the least cost within a loss.

Thresholds are chosen by looking at the very samples they are measured on, and new samples are
another draw. A goal therefore keeps a reserve of z standard errors of what it limits. For a budget the
reserve is the empirical Bernstein bound (Maurer & Pontil 2009, theorem 4, with z² = 2 ln(2/δ)):

    mean cost + z · standard error + 7/6 · z² · (dearest − cheapest exit) / (N − 1) ≤ budget
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import UnreachableError, UsageError
from edgeexit.thresholds.material import Material, Outcome, measure

__all__ = ["BUDGET_RESERVE", "DROP_RESERVE", "Budget", "Goal", "MaxDrop"]

DROP_RESERVE = 1.0
"""Standard errors of the loss. One makes the limit hold on new samples more often than not; it is no guarantee."""

BUDGET_RESERVE = 3.25
"""z of the bound on the mean cost: 99 % for thresholds that do not depend on the samples."""

_ROUNDING = 1e-12

Number = TypeVar("Number", float, NDArray[np.float64])


@dataclass(frozen=True)
class Budget:
    """The best accuracy whose mean cost, with its reserve, is at most `limit`.

    Attributes:
        limit: In the unit of the material's costs.
        reserve: z of the bound; 0 keeps nothing back.
    """

    limit: float
    reserve: float = BUDGET_RESERVE

    def __post_init__(self) -> None:
        _check("budget", self.limit, self.reserve, least=0.0)

    def met(self, outcome: Outcome) -> bool:
        """Whether the mean cost with its reserve keeps the limit."""
        return bool(self.bound(outcome.mean_cost, outcome.cost_error, outcome.cost_step) <= self.limit + _ROUNDING)

    def bound(self, mean_cost: Number, cost_error: Number, cost_step: float) -> Number:
        """The mean cost with its reserve; none is kept where every sample costs the same."""
        step = np.where(cost_error > _ROUNDING, 7 / 6 * self.reserve**2 * cost_step, 0.0)
        return mean_cost + self.reserve * cost_error + step  # type: ignore[return-value]

    def better(self, one: Outcome, other: Outcome) -> bool:
        """Whether the first of two outcomes that both meet the goal is to be preferred."""
        return (one.accuracy, -one.mean_cost) > (other.accuracy, -other.mean_cost)

    def check_reachable(self, material: Material) -> None:
        """Raise if no thresholds can meet the goal.

        Raises:
            UnreachableError: The budget is below the cost of the cheapest exit.
        """
        least, most = float(material.costs.min()), float(material.costs[-1])
        if self.limit < least * (1 - _ROUNDING):
            raise UnreachableError(
                "the budget is below the cost of the cheapest exit",
                got=f"{self.limit:g}",
                expected=f"{least:.4g} (everybody leaves at the cheapest exit) to {most:.4g} (nobody leaves early)",
                remedy="allow a larger budget, or export with an earlier exit",
            )


@dataclass(frozen=True)
class MaxDrop:
    """The least mean cost whose loss of accuracy, with its reserve, is at most `limit`.

    Attributes:
        limit: A fraction of all samples.
        reserve: Standard errors of the loss to keep back.
    """

    limit: float
    reserve: float = DROP_RESERVE

    def __post_init__(self) -> None:
        _check("loss of accuracy", self.limit, self.reserve, least=-1.0)

    def met(self, outcome: Outcome) -> bool:
        """Whether the loss with its reserve keeps the limit."""
        return outcome.loss + self.reserve * outcome.standard_error <= self.limit + _ROUNDING

    def better(self, one: Outcome, other: Outcome) -> bool:
        """Whether the first of two outcomes that both meet the goal is to be preferred."""
        return (-one.mean_cost, one.accuracy) > (-other.mean_cost, other.accuracy)

    def check_reachable(self, material: Material) -> None:
        """Raise if not even the last exit meets the goal.

        Raises:
            UnreachableError: The last exit's own answers lose more (a policy that changes them does that).
        """
        outcome = measure(material, np.full(material.exits - 1, np.inf))
        if not self.met(outcome):
            raise UnreachableError(
                "no thresholds keep the loss of accuracy within the limit",
                got=f"{self.limit:g}",
                expected=f"at least {outcome.loss:.4f}, the loss with nobody leaving early, and a reserve",
                remedy="allow a larger loss, or choose another policy",
            )


Goal = Budget | MaxDrop
"""What thresholds are fitted to."""


def _check(what: str, limit: float, reserve: float, *, least: float) -> None:
    if not (np.isfinite(limit) and limit >= least):
        raise UsageError(f"that is not a {what}", got=limit, expected=f"a finite number, at least {least:g}")
    if not (np.isfinite(reserve) and reserve >= 0):
        raise UsageError("that is not a reserve", got=reserve, expected="a number of standard errors, 0 or more")
