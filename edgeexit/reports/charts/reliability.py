"""Reliability: how often an exit is right, against how sure it says it is."""

from __future__ import annotations

import numpy as np

from edgeexit.calibration import Reliability
from edgeexit.reports.charts.axes import Axis, Frame
from edgeexit.reports.charts.drawing import Drawing
from edgeexit.reports.words import percent

__all__ = ["reliability_chart"]

_WIDTH, _HEIGHT = 340, 300
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_BARS = 0.22
_FEW = 10


def reliability_chart(name: str, found: Reliability) -> str:
    """The curve, the diagonal that an honest exit would follow, and how many samples lie where."""
    drawing = Drawing(_WIDTH, _HEIGHT, f"Accuracy against confidence at {name}")
    frame = Frame(drawing, Axis(0, 1, 44, _WIDTH - 10), Axis(0, 1, _HEIGHT - 42, 26))
    frame.across(_TICKS, lambda value: f"{100 * value:.0f}")
    frame.along(_TICKS, lambda value: f"{100 * value:.0f}")
    frame.titles("confidence, %", "accuracy, %")
    total, most = max(1, int(found.count.sum())), max(1, int(found.count.max(initial=0)))
    bins = len(found.count)
    for k, number in enumerate(found.count):
        if number:
            height = _BARS * number / most
            left, right, top = frame.x(k / bins), frame.x((k + 1) / bins), frame.y(height)
            drawing.rect(left + 1, top, right - left - 2, frame.y.start - top, "histogram")
    drawing.line(*frame.at(0, 0), *frame.at(1, 1), "diagonal")
    telling = [k for k in range(bins) if found.count[k] >= _FEW]
    drawing.polyline((frame.at(found.confidence[k], found.accuracy[k]) for k in telling), "curve one")
    for k in np.flatnonzero(found.count).tolist():
        tip = (
            f"says {percent(float(found.confidence[k]))}, is right on {percent(float(found.accuracy[k]))} "
            f"of {int(found.count[k]):,} samples ({percent(int(found.count[k]) / total)})"
        )
        css = "point one" if k in telling else "point few"
        drawing.circle(*frame.at(found.confidence[k], found.accuracy[k]), 3.4, css, tip)
    return drawing.markup()
