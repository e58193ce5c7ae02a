"""Axes: from values to places, with a few round numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeexit.reports.charts.drawing import Drawing

__all__ = ["Axis", "Frame", "ticks"]

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """A straight scale.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Place in the drawing.
        end: Place in the drawing; smaller than `start` for an axis that rises.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies; values beyond the ends lie beyond them."""
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)

    def holds(self, value: float) -> bool:
        """Whether a value is between the ends."""
        return self.low <= value <= self.high

    def kept(self, value: float) -> float:
        """The value, or the nearer end for one that is beyond."""
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Frame:
    """Two axes with their grid."""

    drawing: Drawing
    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies."""
        return self.x(x), self.y(y)

    def rising_above(self, points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
        """Places of the parts of a line, given by its values, that lie above the lower end of the vertical axis."""
        parts: list[list[tuple[float, float]]] = [[]]
        for before, now in zip([None, *points], points, strict=False):
            inside = now[1] >= self.y.low
            if before is not None and inside != (before[1] >= self.y.low):
                share = (self.y.low - before[1]) / (now[1] - before[1])
                parts[-1].append(self.at(before[0] + share * (now[0] - before[0]), self.y.low))
                if not inside:
                    parts.append([])
            if inside:
                parts[-1].append(self.at(*now))
        return [part for part in parts if len(part) > 1]

    def across(self, values: Sequence[float], word: Callable[[float], str]) -> None:
        """Horizontal grid lines with words to their left."""
        for value in values:
            place = self.y(value)
            self.drawing.line(self.x.start, place, self.x.end, place, "grid")
            self.drawing.text(self.x.start - 6, place + 4, word(value), "tick", "end")

    def along(self, values: Sequence[float], word: Callable[[float], str], *, grid: bool = True) -> None:
        """Words under the horizontal axis, with vertical grid lines."""
        for value in values:
            place = self.x(value)
            if grid:
                self.drawing.line(place, self.y.start, place, self.y.end, "grid")
            self.drawing.text(place, self.y.start + 16, word(value), "tick", "middle")

    def titles(self, x: str, y: str) -> None:
        """What the axes are: one under the horizontal axis, one above the vertical."""
        self.drawing.text((self.x.start + self.x.end) / 2, self.drawing.height - 4, x, "axis", "middle")
        self.drawing.text(2, self.y.end - 10, y, "axis")


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in _ROUND if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]
