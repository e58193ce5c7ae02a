"""Accuracy against cost: every policy at every budget, each exit alone, and where the bundle stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeexit.comparison import Row
from edgeexit.reports.evidence import Evidence
from edgeexit.thresholds.hull import upper_hull

__all__ = ["Curve", "Point", "Tradeoff", "tradeoff"]

_BEST = 3


@dataclass(frozen=True)
class Point:
    """Something that costs and is right so often.

    Attributes:
        name: What it is.
        cost: 1 is the whole model without heads.
        accuracy: From 0 to 1.
        budget: What the cost was to stay within; None if nothing was asked.
        behind: Accuracy of the best policy at the same budget, less this one's; None without a budget.
    """

    name: str
    cost: float
    accuracy: float
    budget: float | None = None
    behind: float | None = None


@dataclass(frozen=True)
class Curve:
    """A contender at the budgets that it can keep.

    Attributes:
        name: Of the contender.
        points: By budget.
        rank: 0 is the best.
        own: Whether it is the bundle's own policy with its own method.
    """

    name: str
    points: tuple[Point, ...]
    rank: int
    own: bool

    @property
    def emphasised(self) -> bool:
        """Whether it is to stand out: the best few, and the bundle's own."""
        return self.rank < _BEST or self.own

    def at(self, budget: float) -> Point | None:
        """The point of a budget; None where it cannot be kept."""
        return next((point for point in self.points if point.budget == budget), None)


@dataclass(frozen=True)
class Tradeoff:
    """All that is compared.

    Attributes:
        budgets: In rising order.
        curves: Best first.
        exits: Each exit if everybody left there.
        bundle: The bundle as it is.
        whole: The whole model without any exit.
        hull: The upper convex hull of everything, by cost.
    """

    budgets: tuple[float, ...]
    curves: tuple[Curve, ...]
    exits: tuple[Point, ...]
    bundle: Point
    whole: Point
    hull: tuple[Point, ...]


def tradeoff(evidence: Evidence, rows: Sequence[Row], own: str | None) -> Tradeoff:
    """Arrange the rows of a comparison.

    Args:
        evidence: Of the report; may be of other samples than the rows, as long as the exits are the same.
        rows: Of `edgeexit.comparison.compare` or `cross_fit`; may be empty.
        own: The name that the bundle's own policy and thresholds have in the rows.
    """
    exits = tuple(
        Point(name, float(cost), float(correct.mean()))
        for name, cost, correct in zip(evidence.names, evidence.costs, evidence.correct, strict=True)
    )
    bundle = Point("this bundle", float(evidence.spent.mean()), float(evidence.right.mean()))
    whole = Point("whole model", 1.0, float(evidence.whole_right.mean()))
    curves = _curves(rows, own)
    everything = [point for curve in curves for point in curve.points] + [*exits, whole, bundle]
    chosen = upper_hull(
        np.array([point.cost for point in everything]), np.array([point.accuracy for point in everything])
    )
    budgets = tuple(sorted({row.budget for row in rows}))
    return Tradeoff(budgets, curves, exits, bundle, whole, tuple(everything[i] for i in chosen))


def _curves(rows: Sequence[Row], own: str | None) -> tuple[Curve, ...]:
    found: dict[str, list[Point]] = {}
    for row in sorted(rows, key=lambda row: row.budget):
        if row.accuracy is not None and row.cost is not None:
            found.setdefault(row.policy, []).append(Point(row.policy, row.cost, row.accuracy, row.budget))
    at: dict[float, list[float]] = {}
    for point in (point for points in found.values() for point in points):
        at.setdefault(point.budget or 0.0, []).append(point.accuracy)

    def distance(name: str) -> float:
        """Mean distance behind the best; a budget that it cannot keep counts as the worst there."""
        reached = {point.budget: point.accuracy for point in found[name]}
        return sum(max(all_) - reached.get(budget, min(all_)) for budget, all_ in at.items()) / len(at)

    ranked = sorted(found, key=lambda name: (distance(name), name))
    return tuple(
        Curve(
            name=name,
            points=tuple(replace(p, behind=max(at[p.budget or 0.0]) - p.accuracy) for p in found[name]),
            rank=rank,
            own=name == own,
        )
        for rank, name in enumerate(ranked)
    )
