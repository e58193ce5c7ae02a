"""What is asked of thresholds: the best accuracy within a budget, or the least cost within a loss.

Thresholds are chosen by looking at the very samples they are measured on, and new samples are
another draw. A goal therefore keeps a reserve, in standard errors of what it limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeexit.errors import UnreachableError, UsageError
from edgeexit.thresholds.material import Material, Outcome, measure

__all__ = ["BUDGET_RESERVE", "DROP_RESERVE", "Budget", "Goal", "MaxDrop"]

DROP_RESERVE = 1.0
"""Standard errors of the loss. One makes the limit hold on new samples more often than not; it is no guarantee."""

BUDGET_RESERVE = 3.0
"""Standard errors of the mean cost."""

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Budget:
    """The best accuracy whose mean cost, with its reserve, is at most `limit`.

    Attributes:
        limit: In the unit of the material's costs.
        reserve: Standard errors of the mean cost to keep back.
    """

    limit: float
    reserve: float = BUDGET_RESERVE

    def __post_init__(self) -> None:
        _check("budget", self.limit, self.reserve, least=0.0)

    def met(self, outcome: Outcome) -> bool:
        """Whether the mean cost with its reserve keeps the limit."""
        return outcome.mean_cost + self.reserve * outcome.cost_error <= self.limit * (1 + _ROUNDING)

    def better(self, one: Outcome, other: Outcome) -> bool:
        """Whether the first of two outcomes that both meet the goal is to be preferred."""
        return (one.accuracy, -one.mean_cost) > (other.accuracy, -other.mean_cost)

    def check_reachable(self, material: Material) -> None:
        """Raise if no thresholds can meet the goal.

        Raises:
            UnreachableError: The budget is below the cost of the first exit.
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


def _check(what: str, limit: float, reserve: float, *, least: float) -> None:
    if not (np.isfinite(limit) and limit >= least):
        raise UsageError(f"that is not a {what}", got=limit, expected=f"a finite number, at least {least:g}")
    if not (np.isfinite(reserve) and reserve >= 0):
        raise UsageError("that is not a reserve", got=reserve, expected="a number of standard errors, 0 or more")
