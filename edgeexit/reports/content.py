"""The content of a report: everything that the page shows, drawn from the evidence once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import Reliability, reliability
from edgeexit.comparison import Row
from edgeexit.manifest import Manifest
from edgeexit.reports.agreement import Combination, HitCurve, Overthinking, combinations, hit_curve, overthinking
from edgeexit.reports.confusion import Confusion, confusion
from edgeexit.reports.evidence import Evidence
from edgeexit.reports.gallery import Gallery
from edgeexit.reports.headline import ExitFigures, Headline, exit_figures, headline
from edgeexit.reports.savings import Savings, savings
from edgeexit.reports.tradeoff import Tradeoff, tradeoff

__all__ = ["Comparison", "Report", "compose"]

MOST_CLASSES = 30
"""For more classes than this a confusion is told by its most frequent pairs."""

_DRAWN = 600
_SEED = 0


@dataclass(frozen=True)
class Comparison:
    """How policies were compared.

    Attributes:
        rows: Of `edgeexit.comparison.compare` or `cross_fit`.
        how: One sentence: what they were fitted and measured on.
        own: The name that the bundle's own policy and thresholds have in the rows.
    """

    rows: Sequence[Row]
    how: str
    own: str | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows; tuples have an entry per exit.

    Attributes:
        name: Of the bundle.
        facts: (what, value), for the top of the page.
        notes: What a reader must know about the figures, one sentence each.
        evidence: What all of it is drawn from.
        headline: The cascade in a few figures.
        exits: Each exit's figures.
        tradeoff: Accuracy against cost.
        compared: How the policies were compared; None where they were not.
        rows: Of that comparison.
        drawn: Samples that the scatter plots show.
        reliabilities: Over all samples.
        hits: Over all samples.
        combined: Who is right, among the samples that left at each exit.
        combined_all: The same for all samples.
        overthinking: What is lost by going on.
        confusions: Among the samples that left at each exit.
        confusions_all: The same for all samples.
        savings: In multiply-accumulates.
        gallery: Pictures; None where the samples are none.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    evidence: Evidence
    headline: Headline
    exits: tuple[ExitFigures, ...]
    tradeoff: Tradeoff
    compared: str | None
    rows: tuple[Row, ...]
    drawn: NDArray[np.int64]
    reliabilities: tuple[Reliability, ...]
    hits: tuple[HitCurve, ...]
    combined: tuple[Combination, ...]
    combined_all: tuple[Combination, ...]
    overthinking: Overthinking
    confusions: tuple[Confusion, ...]
    confusions_all: tuple[Confusion, ...]
    savings: Savings
    gallery: Gallery | None

    def document(self) -> dict[str, Any]:
        """The figures for JSON."""
        figures = asdict(self.headline)
        return {
            **figures,
            "exits": [
                {
                    **asdict(exit_),
                    "calibration_error": float(honest.error),
                    "who_is_right": _counts(left),
                    "who_is_right_all": _counts(everyone),
                }
                for exit_, honest, left, everyone in zip(
                    self.exits, self.reliabilities, self.combined, self.combined_all, strict=True
                )
            ],
            "overthinking": asdict(self.overthinking),
            "savings": self.savings.document(),
        }


def compose(
    manifest: Manifest,
    evidence: Evidence,
    *,
    name: str,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    comparison: Comparison | None = None,
    gallery: Gallery | None = None,
) -> Report:
    """Draw everything from the evidence.

    Args:
        manifest: Of the bundle.
        evidence: Of its policy on some samples.
        name: Of the bundle.
        facts: (what, value), for the top of the page.
        notes: What a reader must know about the figures, one sentence each.
        comparison: Of policies; only the bundle is shown without.
        gallery: With its images.
    """
    each = range(evidence.exits)
    left = [evidence.left_at(k) for k in each]
    figures = exit_figures(evidence)
    random = np.random.default_rng(_SEED)
    return Report(
        name=name,
        facts=tuple(facts),
        notes=tuple(notes),
        evidence=evidence,
        headline=headline(evidence),
        exits=figures,
        tradeoff=tradeoff(evidence, comparison.rows, comparison.own) if comparison else tradeoff(evidence, (), None),
        compared=comparison.how if comparison else None,
        rows=tuple(comparison.rows) if comparison else (),
        drawn=np.sort(random.permutation(evidence.samples)[:_DRAWN]),
        reliabilities=tuple(reliability(evidence.judgement.probability[k], evidence.correct[k]) for k in each),
        hits=tuple(hit_curve(evidence, k) for k in each),
        combined=tuple(combinations(evidence, k, left[k]) for k in each),
        combined_all=tuple(combinations(evidence, k) for k in each),
        overthinking=overthinking(evidence),
        confusions=tuple(confusion(evidence, k, left[k], most_classes=MOST_CLASSES) for k in each),
        confusions_all=tuple(confusion(evidence, k, most_classes=MOST_CLASSES) for k in each),
        savings=savings(manifest, [exit_.share for exit_ in figures]),
        gallery=gallery,
    )


def _counts(combination: Combination) -> dict[str, int]:
    counts = asdict(combination)
    del counts["name"]
    return counts
