"""Accuracy against cost for every policy, and how far each is behind the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeexit.reports.charts.axes import Axis, Frame, ticks
from edgeexit.reports.charts.drawing import Drawing
from edgeexit.reports.tradeoff import Curve, Point, Tradeoff
from edgeexit.reports.words import decimals, percent, points, shortened

__all__ = ["NARROW", "WIDE", "Size", "behind_chart", "colour", "cost_chart"]

_ROW = 15.0
_MOST_BEHIND = 0.03
_LEAST_SPREAD = 0.02
_NEAR = 70
_LEAST_GAP = 34
_NAME = 26
_COLOURS = ("one", "two", "three")
_LETTER = 7.4
_GAP = 14.0


@dataclass(frozen=True)
class Size:
    """How large a chart is, in units, and whether there is room for names at the right."""

    width: int
    height: int
    named: bool


WIDE = Size(560, 420, named=True)
NARROW = Size(350, 360, named=False)


def colour(curve: Curve) -> str:
    """The class of a curve's colour and dashes in the style sheet."""
    if curve.rank < len(_COLOURS):
        return _COLOURS[curve.rank]
    return "own" if curve.own else "muted"


def cost_chart(found: Tradeoff, size: Size) -> str:
    """Every policy's curve, each exit alone, the hull, the bundle and the whole model.

    What lies far below the best curves is left out, so that they can be told apart; exits down there are
    marked at the lower edge.
    """
    label = "Accuracy against cost of every policy, of each exit alone and of this bundle"
    drawing = Drawing(size.width, size.height, label)
    low, high = _accuracies(found)
    drawn = [p for curve in found.curves for p in curve.points] + [*found.exits, found.bundle, found.whole]
    right = max(1.02, max(p.cost for p in drawn) * 1.02)
    frame = Frame(drawing, Axis(0, right, 40, size.width - 12), Axis(low, high, size.height - 42, 26))
    frame.across(ticks(low, high, 8), lambda value: f"{100 * value:.4g}")
    frame.along(ticks(0, right, 5), lambda value: f"{value:.4g}")
    frame.titles("mean cost, whole model = 1", "accuracy, %")
    _draw_line(frame, [(p.cost, p.accuracy) for p in found.hull], "hull")
    for curve in sorted(found.curves, key=lambda curve: -curve.rank):
        _draw_line(frame, [(p.cost, p.accuracy) for p in curve.points], f"curve {colour(curve)}", curve.name)
        for point in curve.points if curve.emphasised else ():
            if frame.y.holds(point.accuracy):
                drawing.circle(*frame.at(point.cost, point.accuracy), 2.5, f"point {colour(curve)}", _tip(point))
    for point in found.exits:
        _mark_exit(frame, point)
    _mark_whole(frame, found.whole, drawn)
    _mark_bundle(frame, found.bundle)
    return drawing.markup()


def behind_chart(found: Tradeoff, size: Size) -> str:
    """For each budget, how many points of accuracy each policy is behind the best one."""
    drawing = Drawing(size.width, size.height, "Points of accuracy behind the best policy at the same budget")
    deepest = max((p.behind or 0.0 for curve in found.curves for p in curve.points), default=0.0)
    low = -100 * max(0.002, min(_MOST_BEHIND, deepest * 1.05))
    budgets = found.budgets
    margin = 0.04 * (budgets[-1] - budgets[0]) or 0.05
    emphasised = [curve for curve in found.curves if curve.emphasised]
    names = max(len(shortened(curve.name, _NAME)) for curve in emphasised) if size.named else 0
    x = Axis(budgets[0] - margin, budgets[-1] + margin, 40, size.width - _GAP - _LETTER * names)
    frame = Frame(drawing, x, Axis(low, -0.04 * low, size.height - 42, 26))
    frame.across(ticks(low, 0, 6), lambda value: f"{value:.4g}".replace("-", "−"))
    crowded = any(x(after) - x(before) < _LEAST_GAP for before, after in pairwise(budgets))
    frame.along(ticks(budgets[0], budgets[-1], 6) if crowded else budgets, lambda value: f"{value:.4g}")
    frame.titles("budget, whole model = 1", "points of accuracy behind the best")
    for curve in sorted(found.curves, key=lambda curve: -curve.rank):
        places = _behind(curve)
        _draw_line(frame, places, f"curve {colour(curve)}", curve.name)
        if curve.emphasised:
            for place, point in zip(places, curve.points, strict=True):
                if frame.y.holds(place[1]):
                    drawing.circle(*frame.at(*place), 3, f"point {colour(curve)}", _tip(point))
    if size.named:
        _name_ends(frame, emphasised)
    return drawing.markup()


def _behind(curve: Curve) -> list[tuple[float, float]]:
    """(budget, points of accuracy above the best: 0 or less)."""
    return [(point.budget or 0.0, -100 * (point.behind or 0.0)) for point in curve.points]


def _draw_line(frame: Frame, points: Sequence[tuple[float, float]], css: str, tip: str | None = None) -> None:
    for part in frame.rising_above(points):
        frame.drawing.polyline(part, css, tip)


def _name_ends(frame: Frame, curves: Sequence[Curve]) -> None:
    """The names of curves beside their last points, moved apart, with a thin line to each."""
    ends = []
    for curve in curves:
        budget, behind = _behind(curve)[-1]
        ends.append((*frame.at(budget, frame.y.kept(behind)), curve))
    ends.sort(key=lambda end: (end[1], end[2].rank))
    left = frame.x.end + _GAP
    for (x, y, curve), place in zip(
        ends, _moved_apart([end[1] for end in ends], _ROW, frame.y.end, frame.y.start), strict=True
    ):
        frame.drawing.polyline([(x + 4, y), (left - 3, place)], f"leader {colour(curve)}")
        frame.drawing.text(left, place + 4, shortened(curve.name, _NAME), f"name {colour(curve)}")


def _moved_apart(wanted: Sequence[float], least: float, top: float, bottom: float) -> list[float]:
    """Places in rising order at least `least` apart, near where they are wanted, within the bounds if they fit."""
    downwards: list[float] = []
    for place in wanted:
        downwards.append(max(place, downwards[-1] + least if downwards else top))
    upwards: list[float] = []
    for place in reversed(downwards):
        upwards.append(min(place, upwards[-1] - least if upwards else bottom))
    return upwards[::-1]


def _accuracies(found: Tradeoff) -> tuple[float, float]:
    """What the vertical axis shows: the best curves, and as much again below them if there is something."""
    best = [p.accuracy for curve in found.curves if curve.emphasised for p in curve.points]
    best += [found.bundle.accuracy, found.whole.accuracy]
    others = [p.accuracy for curve in found.curves for p in curve.points] + [p.accuracy for p in found.exits]
    high = max(best + others)
    spread = max(high - min(best), _LEAST_SPREAD)
    low = max(min(best + others), min(best) - spread) if found.curves else min(best + others)
    return max(0.0, low - 0.05 * (high - low)), min(1.0, high + 0.08 * max(high - low, _LEAST_SPREAD))


def _mark_exit(frame: Frame, point: Point) -> None:
    if frame.y.holds(point.accuracy):
        frame.drawing.circle(*frame.at(point.cost, point.accuracy), 3, "point exit", _tip(point))
    else:
        x, y = frame.at(point.cost, frame.y.low)
        frame.drawing.path(f"M{x - 4:.1f} {y - 10:.1f}h8l-4 7z", "point exit", _tip(point))
        frame.drawing.text(x, y - 14, percent(point.accuracy, 0), "tick", "middle")


def _mark_whole(frame: Frame, whole: Point, points: Sequence[Point]) -> None:
    """A square, with its name above or below, whichever is farther from the points nearby."""
    x, y = frame.at(whole.cost, whole.accuracy)
    frame.drawing.rect(x - 4, y - 4, 8, 8, "point whole", _tip(whole))
    places = [frame.at(point.cost, point.accuracy) for point in points if point is not whole]
    near = [up for along, up in places if abs(along - x) < _NEAR]
    above, below = y - 10, y + 18
    place = max((above, below), key=lambda place: min((abs(place - 4 - up) for up in near), default=0.0))
    frame.drawing.text(min(x, frame.x.end - 34), place, "whole model", "name soft halo", "middle")


def _mark_bundle(frame: Frame, bundle: Point) -> None:
    x, y = frame.at(bundle.cost, bundle.accuracy)
    place = min(y + 40, frame.y.start - 8)
    frame.drawing.line(x, y + 7, x, place - 12, "leader")
    frame.drawing.path(f"M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7-7z", "point bundle", _tip(bundle))
    frame.drawing.text(min(x, frame.x.end - 36), place, "this bundle", "name halo", "middle")


def _tip(point: Point) -> str:
    within = "" if point.budget is None else f", budget {decimals(point.budget, 2)}"
    behind = f", {points(point.behind, 2)} behind the best" if point.behind else ""
    return f"{point.name}: {percent(point.accuracy, 2)} at {decimals(point.cost)}{within}{behind}"
