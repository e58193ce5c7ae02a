"""A finding: one thing about the machine, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status", "ok", "problem", "warning"]

Status = Literal["ok", "warning", "problem"]
"""A warning costs time or comparability; with a problem, bundles do not run or not rightly."""


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        check: What was looked at.
        status: How it is.
        found: What is there.
        expected: What should be there; None where anything may.
        remedy: A command, or what to do, where it is not ok.
    """

    check: str
    status: Status
    found: str
    expected: str | None = None
    remedy: str | None = None


def ok(check: str, found: str, expected: str | None = None) -> Finding:
    """It is as it should be."""
    return Finding(check, "ok", found, expected)


def warning(check: str, found: str, expected: str | None, remedy: str | None) -> Finding:
    """It costs time, or makes timings hard to compare."""
    return Finding(check, "warning", found, expected, remedy)


def problem(check: str, found: str, expected: str | None, remedy: str | None) -> Finding:
    """Bundles do not run like this, or not rightly."""
    return Finding(check, "problem", found, expected, remedy)
