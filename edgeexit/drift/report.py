"""The report: counts of today beside those of the reference, tested."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import DriftReference
from edgeexit.significance import fisher_more, homogeneity, wilson_interval

__all__ = ["Audit", "DriftReport", "ExitDrift", "compare"]

FEWEST_SAMPLES = 30

Counts = Sequence[NDArray[np.int64]]
"""Per exit the samples in each bin of scores."""


@dataclass(frozen=True)
class ExitDrift:
    """What happened at one exit, against the reference.

    Attributes:
        name: The exit.
        samples: How many left here.
        share: Of all samples; None where there were none.
        expected_share: In the reference.
        stability: Population stability index of the scores, Σ (p − q) ln(p / q) over the bins, half a
            sample added to each: by custom 0.1 is little and 0.25 much. None where there is one bin, or
            nobody left.
        p_value: Of the scores; None where there are too few samples to test.
    """

    name: str
    samples: int
    share: float | None
    expected_share: float
    stability: float | None
    p_value: float | None


@dataclass(frozen=True)
class Audit:
    """Samples that were run to the end.

    Attributes:
        samples: How many.
        agreement: The share of those to which the whole model gave the cascade's answer; None for none.
        low, high: Where the true share lies, 95 times in 100 (Wilson).
        expected_agreement: In the reference.
        p_value: Of agreement as low as this, if it were what it was less one standard error; None for no
            samples.
    """

    samples: int
    agreement: float | None
    low: float
    high: float
    expected_agreement: float
    p_value: float | None


@dataclass(frozen=True)
class DriftReport:
    """What a monitor has seen.

    Attributes:
        verdict: "drifting" if a p-value is below `test_level`; "unclear" with fewer than 30 samples.
        reasons: What fell below it, in words.
        samples: How many were answered.
        expected_samples: How many the reference has.
        look: Which look this is, counted from 1.
        test_level: What every p-value of this look is held against.
        shares_p_value: Of the exits' shares; None where there are too few samples to test.
        exits: One entry per exit.
        audit: Agreement with the whole model.
    """

    verdict: Literal["steady", "drifting", "unclear"]
    reasons: tuple[str, ...]
    samples: int
    expected_samples: int
    look: int
    test_level: float
    shares_p_value: float | None
    exits: tuple[ExitDrift, ...]
    audit: Audit


def compare(
    counts: Counts,
    audited: tuple[int, int],
    reference: DriftReference,
    names: Sequence[str],
    *,
    look: int,
    look_level: float,
) -> DriftReport:
    """Hold counts against a reference.

    Args:
        counts: Per exit the samples in each bin of scores.
        audited: How many samples were run to the end, and how many of those agreed.
        reference: Of the calibration split.
        names: The exits'.
        look: Which look this is.
        look_level: The chance of a false alarm that this look may have; its tests share it evenly.
    """
    expected = [np.asarray(row, dtype=np.int64) for row in reference.counts]
    here, there = ([int(row.sum()) for row in rows] for rows in (counts, expected))
    exits = tuple(
        ExitDrift(
            name=name,
            samples=here[k],
            share=here[k] / sum(here) if sum(here) else None,
            expected_share=there[k] / max(1, sum(there)),
            stability=_stability(counts[k], expected[k]),
            p_value=_p_value(counts[k].tolist(), expected[k].tolist()),
        )
        for k, name in enumerate(names)
    )
    audit = _audit(*audited, reference.agreeing, sum(there))
    shares_p_value = _p_value(here, there)
    tests = [p for p in (shares_p_value, audit.p_value, *(e.p_value for e in exits)) if p is not None]
    report = DriftReport(
        verdict="unclear",
        reasons=(),
        samples=sum(here),
        expected_samples=sum(there),
        look=look,
        test_level=look_level / max(1, len(tests)),
        shares_p_value=shares_p_value,
        exits=exits,
        audit=audit,
    )
    reasons = tuple(_reasons(report))
    if reasons:
        return replace(report, reasons=reasons, verdict="drifting")
    return replace(report, verdict="steady") if tests and report.samples >= FEWEST_SAMPLES else report


def _p_value(one: Sequence[int], other: Sequence[int]) -> float | None:
    test = homogeneity(one, other)
    return test.p_value if test.cells > 1 else None


def _audit(samples: int, agreeing: int, expected_agreeing: int, expected_samples: int) -> Audit:
    low, high = wilson_interval(agreeing, samples)
    differing = expected_samples - expected_agreeing
    # Thresholds were chosen on the reference's samples, so it agrees a little too well: one standard error is given.
    reserve = math.ceil(math.sqrt(max(1.0, differing * expected_agreeing / max(1, expected_samples))))
    differing = min(expected_samples, differing + reserve)
    p_value = fisher_more(samples - agreeing, samples, differing, expected_samples)
    return Audit(
        samples=samples,
        agreement=agreeing / samples if samples else None,
        low=low,
        high=high,
        expected_agreement=expected_agreeing / max(1, expected_samples),
        p_value=p_value if samples and expected_samples else None,
    )


def _stability(found: NDArray[np.int64], expected: NDArray[np.int64]) -> float | None:
    if len(expected) < 2 or found.sum() == 0 or expected.sum() == 0:
        return None
    p, q = ((row + 0.5) / (row.sum() + 0.5 * len(row)) for row in (found, expected))
    return float(((p - q) * np.log(p / q)).sum())


def _reasons(report: DriftReport) -> Iterator[str]:
    level = report.test_level
    if report.shares_p_value is not None and report.shares_p_value < level:
        moved = max(report.exits, key=lambda e: abs((e.share or 0.0) - e.expected_share))
        yield (
            f"the exits' shares have changed (p = {report.shares_p_value:.1g}): {moved.share or 0.0:.1%} leave at "
            f"{moved.name}, on the calibration split {moved.expected_share:.1%}"
        )
    for entry in report.exits:
        if entry.p_value is not None and entry.p_value < level:
            yield (
                f"the scores at {entry.name} have changed (p = {entry.p_value:.1g}, "
                f"stability index {entry.stability or 0.0:.2f})"
            )
    audit = report.audit
    if audit.p_value is not None and audit.agreement is not None and audit.p_value < level:
        yield (
            f"the cascade agrees less with the whole model (p = {audit.p_value:.1g}): {audit.agreement:.1%}, "
            f"on the calibration split {audit.expected_agreement:.1%}"
        )
