"""E²CM's search: thresholds drawn at random, bisected to a target cost, and the convex hull of what was found.

Görmez, Dasari & Koyuncu 2022, section IV-A: for each of 1000 target costs a threshold vector is drawn
uniformly from [0, 1]; then its components are bisected in turn, falling while the cascade costs more
than the target and rising while it costs less. The convex hull of the points (cost, accuracy) is the
curve; between two vertices it is reached by time sharing (`edgeexit.thresholds.hull`).

Scores of other criteria do not lie in [0, 1], so a threshold is drawn here as a quantile of its exit's
scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.thresholds.along import extremes
from edgeexit.thresholds.cuts import cut
from edgeexit.thresholds.goals import Goal
from edgeexit.thresholds.hull import upper_hull
from edgeexit.thresholds.material import Material, Outcome, measure

__all__ = ["Found", "bisected_quantiles", "fit_bisection", "search_by_bisection"]

_SEED = 0
_TARGETS = 1000
_SAMPLES = 2000
"""The search looks at no more, evenly chosen; what it finds is measured on all."""

_HALVINGS = 10
_CHUNK = 2_000_000
"""Targets times samples that are worked on at once."""


@dataclass(frozen=True)
class Found:
    """What the search found, on all samples.

    Attributes:
        thresholds: (F, E−1).
        outcomes: F of them.
        hull: Indices of the vertices, from the cheapest to the most accurate.
    """

    thresholds: NDArray[np.float64]
    outcomes: tuple[Outcome, ...]
    hull: NDArray[np.int64]


def fit_bisection(material: Material, goal: Goal) -> NDArray[np.float64]:
    """The best thresholds of the search that meet the goal.

    That is a vertex of the hull where one serves best, and else a point between two vertices, which are
    often far apart. A device runs one threshold vector, so nothing is mixed.

    Returns:
        (E−1,) thresholds, infinity where nobody should leave.

    Raises:
        UnreachableError: No thresholds meet the goal; the message says what is reachable.
    """
    goal.check_reachable(material)
    found = search_by_bisection(material)
    best, *others = [i for i, outcome in enumerate(found.outcomes) if goal.met(outcome)]
    for i in others:
        if goal.better(found.outcomes[i], found.outcomes[best]):
            best = i
    return np.asarray(found.thresholds[best])


def search_by_bisection(material: Material) -> Found:
    """All that is found for 1000 target costs, with nobody leaving and everybody at the cheapest exit."""
    few = material.rows(np.arange(0, material.samples, max(1, -(-material.samples // _SAMPLES))))
    targets = np.linspace(float(material.costs.min()), float(material.costs.max()), _TARGETS)
    quantiles = bisected_quantiles(few, targets, np.random.default_rng(_SEED))
    thresholds = np.unique(np.stack([*extremes(material), *_thresholds(few, quantiles)]), axis=0)
    outcomes = tuple(measure(material, each) for each in thresholds)
    hull = upper_hull([o.mean_cost for o in outcomes], [o.accuracy for o in outcomes])
    return Found(thresholds, outcomes, hull)


def bisected_quantiles(
    material: Material, targets: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Threshold vectors that bring the mean cost to each target.

    All start at random. In turn, exit after exit, each threshold's interval is halved towards the
    target: what leaves at an exit depends on the exits before it, what it saves on those after it.

    Args:
        material: E exits, N samples.
        targets: (T,) mean costs.
        rng: Draws the starts.

    Returns:
        (T, E−1) in [0, 1]: the share of each exit's samples whose score lies below the threshold.
    """
    places = np.argsort(np.argsort(material.score[:-1], axis=1, kind="stable"), axis=1)
    ranks = ((places + 0.5) / material.samples).astype(np.float32)
    quantiles = rng.random((len(targets), material.exits - 1), dtype=np.float32)
    step = max(1, _CHUNK // material.samples)
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        quantiles[part] = _bisect(ranks, material.costs, targets[part], quantiles[part])
    return quantiles.astype(np.float64)


def _bisect(
    ranks: NDArray[np.float32], costs: NDArray[np.float64], targets: NDArray[np.float64], start: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`bisected_quantiles` for some of the targets."""
    early, samples = ranks.shape
    cost = costs.astype(np.float32)
    quantiles = start.copy()
    low, high = np.zeros_like(quantiles), np.ones_like(quantiles)
    later = np.empty((early + 1, len(targets), samples), dtype=np.float32)
    for _ in range(_HALVINGS):
        later[early] = cost[-1]
        for k in reversed(range(early)):
            later[k] = np.where(ranks[k] >= quantiles[:, k, None], cost[k], later[k + 1])
        mean = later[0].mean(axis=1, dtype=np.float64)
        here = np.ones(later[0].shape, dtype=bool)
        for k in range(early):
            dear = mean > targets
            high[dear, k] = quantiles[dear, k]
            low[~dear, k] = quantiles[~dear, k]
            quantiles[:, k] = (low[:, k] + high[:, k]) / 2
            leaves = ranks[k] >= quantiles[:, k, None]
            now = np.where(leaves, cost[k], later[k + 1])
            mean += np.where(here, now - later[k], 0).mean(axis=1, dtype=np.float64)
            here &= ~leaves
    return np.asarray(quantiles)


def _thresholds(material: Material, quantiles: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Quantiles as thresholds between different scores; where scores are equal, fewer leave."""
    falling = -np.sort(-material.score[:-1], axis=1)
    columns = []
    for k, descending in enumerate(falling):
        leaving = np.floor((1 - quantiles[:, k]) * material.samples + 0.5).astype(np.int64)
        ends = np.concatenate([[0], np.flatnonzero(descending[:-1] != descending[1:]) + 1, [material.samples]])
        position = ends[np.searchsorted(ends, leaving, side="right") - 1]
        values = {p: cut(descending, p) for p in set(position.tolist())}
        columns.append([values[p] for p in position.tolist()])
    return list(np.asarray(columns, dtype=np.float64).reshape(len(falling), len(quantiles)).T)
