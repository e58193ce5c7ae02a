"""Scores by class at one exit (EENet, figures 6 to 9)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.reports.charts.axes import Axis, Frame, ticks
from edgeexit.reports.charts.drawing import Drawing, Mark, marks
from edgeexit.reports.evidence import Evidence
from edgeexit.reports.words import shortened, threshold

__all__ = ["score_scatter"]

_WIDTH = 340
_NAMED_CLASSES = 12
_NAME_LENGTH = 10
_SPREAD = 0.7
_SHORT = 3
_PLOT = 210


def score_scatter(evidence: Evidence, exit_index: int, rows: NDArray[np.int64]) -> str:
    """A point per sample: class across, score up, right or wrong, those that have left before behind.

    Args:
        evidence: Of the report.
        exit_index: Counted from 0.
        rows: The samples to draw.
    """
    score = evidence.judgement.score[exit_index][rows].astype(np.float64)
    limit = evidence.thresholds[exit_index]
    frame = _frame(evidence, f"Scores by class at {evidence.names[exit_index]}", _range(score, limit))
    # Samples of a class lie side by side, always in the same order.
    aside = _SPREAD * ((np.arange(len(rows)) * 0.618034) % 1 - 0.5)
    places = [
        frame.at(x, frame.y.kept(y))
        for x, y in zip((evidence.truth[rows] + aside).tolist(), score.tolist(), strict=True)
    ]
    gone = evidence.gone_before(exit_index)[rows]
    right = evidence.correct[exit_index][rows]
    groups: tuple[tuple[NDArray[np.bool_], Mark, str], ...] = (
        (gone, "dot", "dots gone"),
        (~gone & right, "dot", "dots right"),
        (~gone & ~right, "cross", "crosses wrong"),
    )
    for chosen, mark, css in groups:
        frame.drawing.path(marks([places[i] for i in np.flatnonzero(chosen)], mark), css)
    if np.isfinite(limit):
        place = frame.y(frame.y.kept(limit))
        frame.drawing.line(frame.x.start, place, frame.x.end, place, "threshold")
        frame.drawing.text(frame.x.end, 16, f"leave at {threshold(limit)} or more", "threshold-word", "end")
    return frame.drawing.markup()


def _frame(evidence: Evidence, label: str, scores: tuple[float, float]) -> Frame:
    """The axes: few classes are named, aslant if their names are long, many are numbered."""
    classes = len(evidence.classes)
    named = classes <= _NAMED_CLASSES
    aslant = named and max(map(len, evidence.classes)) > _SHORT
    bottom = 66 if aslant else 28 if named else 40
    drawing = Drawing(_WIDTH, _PLOT + bottom, label)
    frame = Frame(drawing, Axis(-0.5, classes - 0.5, 44, _WIDTH - 6), Axis(*scores, _PLOT, 26))
    frame.across(ticks(*scores, 5), lambda value: f"{value:.4g}".replace("-", "−"))
    if aslant:
        for index, name in enumerate(evidence.classes):
            drawing.text(frame.x(index) + 4, _PLOT + 14, shortened(name, _NAME_LENGTH), "tick", "end", turned=-40)
    elif named:
        frame.along(range(classes), lambda value: evidence.classes[int(value)], grid=False)
    else:
        whole = [tick for tick in ticks(0, classes - 1, 5) if tick == int(tick)]
        frame.along(whole, lambda value: f"{value:.0f}", grid=False)
    frame.titles("" if named else "class, by number", f"score: {evidence.criterion}")
    return frame


def _range(score: NDArray[np.float64], limit: float) -> tuple[float, float]:
    """What the axis shows: all but the lowest scores, and the threshold."""
    finite = score[np.isfinite(score)]
    values = [*np.quantile(finite, [0.002, 1.0])] if len(finite) else [0.0, 1.0]
    if np.isfinite(limit):
        values.append(limit)
    low, high = float(min(values)), float(max(values))
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin
