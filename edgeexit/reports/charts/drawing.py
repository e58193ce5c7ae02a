"""A drawing: SVG elements with classes, built as a tree so that every name in it is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal
from xml.etree import ElementTree

__all__ = ["Drawing", "Mark", "marks"]

Anchor = Literal["start", "middle", "end"]
Mark = Literal["dot", "cross"]

_CROSS = 2.0


class Drawing:
    """An SVG of a fixed coordinate system that takes the width of its box.

    Args:
        width: In units; a unit is about a pixel on a phone.
        height: In units.
        label: What a screen reader says.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height = width, height
        view = f"0 0 {_number(width)} {_number(height)}"
        self._root = ElementTree.Element("svg", {"viewBox": view, "role": "img", "aria-label": label})

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self._add("path", css, d=f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}")

    def polyline(self, points: Iterable[Sequence[float]], css: str, tip: str | None = None) -> None:
        """Lines from point to point."""
        steps = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
        if steps:
            self.path(f"M{steps}", css, tip)

    def path(self, d: str, css: str, tip: str | None = None) -> None:
        """Any path; nothing for an empty one."""
        if d:
            self._add("path", css, tip, d=d)

    def rect(self, x: float, y: float, width: float, height: float, css: str, tip: str | None = None) -> None:
        """A rectangle."""
        self._add("rect", css, tip, x=_number(x), y=_number(y), width=_number(width), height=_number(height))

    def circle(self, x: float, y: float, radius: float, css: str, tip: str | None = None) -> None:
        """A circle, with words that a pointer brings up."""
        self._add("circle", css, tip, cx=_number(x), cy=_number(y), r=_number(radius))

    def text(
        self, x: float, y: float, words: str, css: str = "", anchor: Anchor = "start", turned: float | None = None
    ) -> None:
        """A line of text, at its baseline; `turned` by degrees about that point."""
        place = {"x": _number(x), "y": _number(y)}
        if anchor != "start":
            place["text-anchor"] = anchor
        if turned is not None:
            place["transform"] = f"rotate({_number(turned)} {_number(x)} {_number(y)})"
        self._add("text", css, **place).text = words

    def markup(self) -> str:
        """The `<svg>` element."""
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, css: str, tip: str | None = None, **attributes: str) -> ElementTree.Element:
        element = ElementTree.SubElement(self._root, tag, {**({"class": css} if css else {}), **attributes})
        if tip is not None:
            ElementTree.SubElement(element, "title").text = tip
        return element


def marks(points: Iterable[Sequence[float]], mark: Mark) -> str:
    """Many small marks as one path: dots are strokes without length, to be drawn with round caps."""
    if mark == "dot":
        return "".join(f"M{_number(x)} {_number(y)}h0" for x, y in points)
    width = _number(2 * _CROSS)
    cross = f"l{width} {width}m0-{width}l-{width} {width}"
    return "".join(f"M{_number(x - _CROSS)} {_number(y - _CROSS)}{cross}" for x, y in points)


def _number(value: float) -> str:
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"
