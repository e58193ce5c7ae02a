"""The figures that matter first: accuracy, cost, and who leaves where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.reports.evidence import Evidence
from edgeexit.reports.words import percent, points

__all__ = ["ExitFigures", "Headline", "exit_figures", "headline", "reading"]

_SAME_POINTS = 0.0005


@dataclass(frozen=True)
class Headline:
    """The cascade in a few figures. Errors are standard errors over the samples.

    Attributes:
        samples: How many.
        accuracy: Of the cascade.
        accuracy_error: Of `accuracy`.
        full_accuracy: Of the whole model.
        accuracy_drop: full_accuracy − accuracy.
        drop_error: Of `accuracy_drop`, sample by sample.
        mean_cost: What a sample costs; 1 is the whole model without heads.
        cost_error: Of `mean_cost`.
        worst_cost: What a sample costs that goes all the way.
    """

    samples: int
    accuracy: float
    accuracy_error: float
    full_accuracy: float
    accuracy_drop: float
    drop_error: float
    mean_cost: float
    cost_error: float
    worst_cost: float


@dataclass(frozen=True)
class ExitFigures:
    """One exit.

    Attributes:
        name: Of the exit.
        threshold: In the criterion's units; None where nobody leaves, and at the last exit.
        count: Samples that left here.
        share: Of all samples.
        accuracy: Of those that left here; None if nobody did.
        alone_accuracy: If everybody left here.
        cost: Everything spent until here.
    """

    name: str
    threshold: float | None
    count: int
    share: float
    accuracy: float | None
    alone_accuracy: float
    cost: float


def headline(evidence: Evidence) -> Headline:
    """The figures of the whole cascade."""
    loss = evidence.whole_right.astype(np.float64) - evidence.right
    return Headline(
        samples=evidence.samples,
        accuracy=float(evidence.right.mean()),
        accuracy_error=_standard_error(evidence.right),
        full_accuracy=float(evidence.whole_right.mean()),
        accuracy_drop=float(loss.mean()),
        drop_error=_standard_error(loss),
        mean_cost=float(evidence.spent.mean()),
        cost_error=_standard_error(evidence.spent),
        worst_cost=float(evidence.costs[-1]),
    )


def exit_figures(evidence: Evidence) -> tuple[ExitFigures, ...]:
    """The figures of each exit."""
    found = []
    for k, name in enumerate(evidence.names):
        here = evidence.left_at(k)
        count = int(here.sum())
        found.append(
            ExitFigures(
                name=name,
                threshold=evidence.thresholds[k] if np.isfinite(evidence.thresholds[k]) else None,
                count=count,
                share=count / evidence.samples,
                accuracy=float(evidence.right[here].mean()) if count else None,
                alone_accuracy=float(evidence.correct[k].mean()),
                cost=float(evidence.costs[k]),
            )
        )
    return tuple(found)


def reading(headline: Headline, exits: tuple[ExitFigures, ...]) -> str:
    """The headline as one sentence."""
    early = 1 - exits[-1].share
    return (
        f"The cascade is right on {percent(headline.accuracy)} of {headline.samples:,} samples, "
        f"{_against(headline.accuracy_drop)}, and does {_work(headline.mean_cost)}: "
        f"{percent(early)} of the samples leave before the end."
    )


def _against(drop: float) -> str:
    if abs(drop) < _SAME_POINTS:
        return "as often as the whole model"
    return f"{points(abs(drop))} {'below' if drop > 0 else 'above'} the whole model"


def _work(cost: float) -> str:
    if cost <= 1:
        return f"{percent(cost)} of its multiply-accumulates"
    return f"{percent(cost - 1)} more multiply-accumulates than it"


def _standard_error(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    return float(values.std() / np.sqrt(len(values)))
