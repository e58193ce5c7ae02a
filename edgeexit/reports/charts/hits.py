"""Hit rate and accuracy of one exit against the confidence that is asked for (SelfXit, figure 2)."""

from __future__ import annotations

import numpy as np

from edgeexit.reports.agreement import HitCurve
from edgeexit.reports.charts.axes import Axis, Frame
from edgeexit.reports.charts.drawing import Drawing
from edgeexit.reports.words import percent

__all__ = ["hits_chart"]

_WIDTH, _HEIGHT = 340, 270
_FEW = 10
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def hits_chart(curve: HitCurve, asked: float | None) -> str:
    """Three curves: share that is confident enough, how often those are right, how often as the whole model.

    The last two end where fewer than ten samples are confident enough.

    Args:
        curve: Of one exit.
        asked: The bundle's threshold where it is one on the confidence, to be marked; None if it is not.
    """
    drawing = Drawing(_WIDTH, _HEIGHT, f"Hit rate and accuracy against the confidence threshold at {curve.name}")
    frame = Frame(drawing, Axis(0, 1, 44, _WIDTH - 10), Axis(0, 1, _HEIGHT - 42, 26))
    frame.across(_TICKS, lambda value: f"{100 * value:.0f}")
    frame.along(_TICKS, lambda value: f"{100 * value:.0f}")
    frame.titles("confidence asked for, %", "%")
    if asked is not None and frame.x.holds(asked):
        place = frame.x(asked)
        drawing.line(place, frame.y.start, place, frame.y.end, "threshold")
        words = f"here {percent(asked)}"
        drawing.text(place, frame.y.end - 6, words, "threshold-word", "end" if asked > 0.7 else "middle")
    telling = np.flatnonzero(curve.hit_rate * curve.samples >= min(_FEW, curve.samples))
    drawing.polyline(map(frame.at, curve.confidence, curve.hit_rate), "curve three")
    for values, css in ((curve.agreement, "two"), (curve.accuracy, "one")):
        drawing.polyline(map(frame.at, curve.confidence[telling], values[telling]), f"curve {css}")
    return drawing.markup()
