"""Numbers as a reader wants them."""

from __future__ import annotations

import math

__all__ = ["count", "decimals", "percent", "points", "shortened", "threshold"]

_THIN = "\u202f"  # a narrow space that never breaks
_MINUS = "\u2212"


def percent(share: float | None, digits: int = 1) -> str:
    """A share such as 0.946 as "94.6 %"; a dash for None."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{_signed(100 * share, digits)}{_THIN}%"


def points(difference: float, digits: int = 1) -> str:
    """A difference of two shares such as 0.008 as "0.8 points"."""
    return f"{_signed(100 * difference, digits)} points"


def decimals(number: float | None, digits: int = 3) -> str:
    """A plain number; a dash for None."""
    return "–" if number is None or not math.isfinite(number) else _signed(number, digits)


def count(number: int) -> str:
    """A count with separators."""
    return f"{number:,}"


def threshold(value: float | None) -> str:
    """A threshold in four significant figures; a dash for None."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}".replace("-", _MINUS)


def shortened(name: str, length: int) -> str:
    """A name of at most `length` characters, its middle left out if it is longer."""
    if len(name) <= length:
        return name
    tail = (length - 1) // 3
    return f"{name[: length - 1 - tail]}…{name[len(name) - tail :]}"


def _signed(number: float, digits: int) -> str:
    text = f"{number:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", _MINUS)
