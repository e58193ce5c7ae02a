"""A confusion matrix as a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.reports.charts.drawing import Drawing
from edgeexit.reports.words import shortened

__all__ = ["SHADES", "heatmap"]

SHADES = 6
"""Steps of each of the two scales."""

_WIDTH = 340
_RIGHT = 22
_LEAST_TOP = 4  # of the scale: a mistake made once is not a strong one
_NUMBERED_CLASSES = 10
_NAME_LENGTH = 11


def heatmap(matrix: NDArray[np.int64], classes: Sequence[str], name: str) -> str:
    """Truth by row, answer by column: right answers in one scale, mistakes in another of their own.

    Shades go with the counts; for few classes the counts are written too.
    """
    count = len(classes)
    names = [shortened(label, _NAME_LENGTH) for label in classes]
    longest = max(map(len, names))
    left, top = 14 + 5.6 * longest, 18 + 4.4 * longest
    cell = (_WIDTH - left - _RIGHT) / count
    drawing = Drawing(_WIDTH, top + cell * count + 6, f"Confusion at {name}: truth by row, answer by column")
    drawing.rect(left, top, cell * count, cell * count, "cells")
    diagonal = np.eye(count, dtype=bool)
    for part, css in ((diagonal, "good"), (~diagonal, "bad")):
        level = np.ceil(SHADES * matrix / max(_LEAST_TOP, matrix[part].max())).astype(int)
        for shade in range(1, SHADES + 1):
            drawing.path(_squares(part & (level == shade), left, top, cell), f"{css} shade{shade}")
        if count <= _NUMBERED_CLASSES:
            for row, column in zip(*np.nonzero(part & (matrix > 0)), strict=True):
                strong = " strong" if level[row, column] > SHADES // 2 else ""
                x, y = left + (column + 0.5) * cell, top + (row + 0.5) * cell + 3
                drawing.text(x, y, f"{matrix[row, column]}", f"number{strong}", "middle")
    size = "tick" if cell >= 11 else "tick small"
    for index, words in enumerate(names):
        middle = (index + 0.5) * cell
        drawing.text(left - 5, top + middle + 3.5, words, size, "end")
        drawing.text(left + middle + 3, top - 6, words, size, turned=-50)
    return drawing.markup()


def _squares(chosen: NDArray[np.bool_], left: float, top: float, cell: float) -> str:
    side = f"{cell - 0.8:.1f}"
    return "".join(
        f"M{left + column * cell:.1f} {top + row * cell:.1f}h{side}v{side}h-{side}z"
        for row, column in zip(*np.nonzero(chosen), strict=True)
    )
