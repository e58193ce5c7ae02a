"""Thresholds: fitted to a goal on replayed exits, by any of several methods."""

from __future__ import annotations

from edgeexit.thresholds.goals import BUDGET_RESERVE, DROP_RESERVE, Budget, Goal, MaxDrop
from edgeexit.thresholds.material import Material, Outcome, exits_taken, measure
from edgeexit.thresholds.table import METHODS, fit_thresholds

__all__ = [
    "BUDGET_RESERVE",
    "DROP_RESERVE",
    "METHODS",
    "Budget",
    "Goal",
    "Material",
    "MaxDrop",
    "Outcome",
    "exits_taken",
    "fit_thresholds",
    "measure",
]
