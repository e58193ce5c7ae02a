"""Which of many fitted exits are worth having: measured inside the cascade, useless ones left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgeexit.subsets import best_subset
from edgeexit.thresholds import Material, MaxDrop, fit_thresholds, measure

__all__ = ["PLACEMENTS", "cascade_costs", "check_macs", "expected_time", "select_exits", "select_exits_selfxit"]

PLACEMENTS = ("gain", "selfxit")
"""How `--exits auto` chooses: `select_exits` or `select_exits_selfxit`."""

_MAX_SAMPLES = 10_000
_WORTH_A_STEP = 1e-4

CHECK_MACS = 2_500_000
"""What a check takes beyond its own MACs, in MACs that take as long: the head's few small operators, one more
output of the graph, the policy's word. `benchmarks/checks.py` measures 1.3 million with the simplest policy and
2.2 to 2.7 million with the dearest; where the interpreter is slower than the arithmetic it is more."""

POLICY_MACS = {"pooled-probability": 500_000, "stacked-margin": 1_000_000}
"""What a policy's word takes longer than that of maximum probability, likewise."""

_MOST_OF_MODEL = 0.05
_SELFXIT_CANDIDATES = 8
"""Behind the eighth the tolerance T/2ⁿ is below half a percent of T."""


def cascade_costs(backbone: NDArray[np.float64], heads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Everything spent until each exit answers: the backbone up to it and all heads up to it."""
    return np.asarray(backbone + np.cumsum(heads))


def check_macs(whole: float, policy: str | None = None) -> float:
    """What a check is charged when exits and policies are chosen, beyond the MACs of its head.

    A model so small that no exit can save that much time is still given exits, for devices slow enough
    that only MACs count: no check is charged more than a twentieth of the model.

    Args:
        whole: MACs of the whole model.
        policy: A policy's name: its word is charged too.
    """
    charge = min(float(CHECK_MACS), _MOST_OF_MODEL * whole)
    return charge * (1 + POLICY_MACS.get(policy or "", 0) / CHECK_MACS)


def expected_time(shares: Sequence[float], mean_cost: float, whole: float) -> float:
    """What the cascade takes on a CPU, the whole model's time being 1, if MACs and checks were all.

    Args:
        shares: (E,) the share of the samples that each exit answers.
        mean_cost: Mean MACs of a sample, as a fraction of the whole model's.
        whole: MACs of the whole model.
    """
    last = len(shares) - 1
    checks = sum(share * min(k + 1, last) for k, share in enumerate(shares))
    return mean_cost + checks * CHECK_MACS / max(1.0, whole)


def select_exits(
    score: NDArray[np.float32],
    correct: NDArray[np.bool_],
    backbone: NDArray[np.float64],
    heads: NDArray[np.float64],
    *,
    max_drop: float,
    min_gain: float,
    keep: Sequence[int] = (),
) -> list[int]:
    """The exits with which the cascade costs least on average, found by steepest descent.

    From no fitted exit at all, the best single step is taken again and again: one exit more, one less, or one
    moved by a place or two. A set costs what it does at `max_drop` with all thresholds fitted anew, heads
    included, and `min_gain` of the whole model for each exit.

    Args:
        score: (E, N) scores of all candidates, the last row being the whole model.
        correct: (E, N) whether each exit is right.
        backbone: (E,) cost of the backbone up to each exit.
        heads: (E,) cost of each exit's own check.
        max_drop: Allowed loss of accuracy.
        min_gain: Fraction of the whole model's cost that an exit must save on average to stay.
        keep: Indices that always stay.

    Returns:
        Indices of the exits that stay, in order, the last exit always among them.
    """
    step = -(-score.shape[1] // _MAX_SAMPLES)
    score, correct = score[:, ::step], correct[:, ::step]
    last = len(score) - 1
    fixed = frozenset((last, *keep))
    whole = float(backbone[last])

    @cache
    def charge(kept: frozenset[int]) -> float:
        rows = sorted(kept)
        costs = cascade_costs(backbone[rows], heads[rows])
        material = Material(score[rows], correct[rows], correct[last], costs)
        mean_cost = measure(material, fit_thresholds("joint", material, MaxDrop(max_drop))).mean_cost
        return mean_cost + min_gain * whole * len(kept)

    kept = fixed
    while True:
        best = min(_steps(kept, fixed, last), key=lambda tried: (charge(tried), sorted(tried)), default=kept)
        if charge(best) >= charge(kept) - _WORTH_A_STEP * whole:
            return sorted(kept)
        kept = best


def _steps(kept: frozenset[int], fixed: frozenset[int], last: int) -> Iterator[frozenset[int]]:
    """The sets that differ from this one by an exit that comes, goes or moves."""
    for i in range(last):
        if i not in kept:
            yield kept | {i}
        elif i not in fixed:
            without = kept - {i}
            yield without
            yield from (without | {j} for j in range(max(0, i - 2), min(last, i + 3)) if j not in kept)


def select_exits_selfxit(
    score: NDArray[np.float32],
    correct: NDArray[np.bool_],
    backbone: NDArray[np.float64],
    heads: NDArray[np.float64],
    *,
    max_drop: float,
    keep: Sequence[int] = (),
) -> list[int]:
    """SelfXit's choice: thresholds by the tolerance T/2ⁿ, then the subset that saves most (sections 3.3, 3.4).

    Of many candidates eight, evenly spread, take part: the tolerance is halved from one to the next.

    Args:
        score: (E, N) scores of all candidates, the last row being the whole model.
        correct: (E, N) whether each exit is right.
        backbone: (E,) cost of the backbone up to each exit.
        heads: (E,) cost of each exit's own head.
        max_drop: T.
        keep: Indices that always stay.

    Returns:
        Indices of the exits that stay, in order, the last exit always among them.
    """
    last = len(score) - 1
    free = [i for i in range(last) if i not in keep]
    spread = np.linspace(0, len(free) - 1, min(len(free), _SELFXIT_CANDIDATES)).round().astype(int) if free else []
    rows = [*(free[i] for i in spread), last]
    material = Material(score[rows], correct[rows], correct[last], cascade_costs(backbone[rows], heads[rows]))
    thresholds = fit_thresholds("tolerance", material, MaxDrop(max_drop))
    chosen = best_subset(score[rows], thresholds, backbone[rows], heads[rows])
    return sorted({last, *keep, *(rows[i] for i in chosen)})
