"""Version numbers, as far as comparing them takes."""

from __future__ import annotations

import re

__all__ = ["as_numbers", "at_least", "below"]

_RELEASE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*")


def as_numbers(version: str) -> tuple[int, ...]:
    """The release numbers: (1, 20, 1) for 1.20.1rc1; () where there are none. Zeros at the end are left out."""
    match = _RELEASE.match(version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def at_least(version: str, least: str) -> bool:
    """Whether a version is another one or newer."""
    return as_numbers(version) >= as_numbers(least)


def below(version: str, limit: str) -> bool:
    """Whether a version is older than another."""
    return as_numbers(version) < as_numbers(limit)
