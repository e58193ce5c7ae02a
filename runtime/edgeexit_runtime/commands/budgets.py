"""Budgets on the command line, for the commands that take several."""

from __future__ import annotations

import math

import click

__all__ = ["parse_budgets"]


def parse_budgets(context: click.Context, option: click.Parameter, value: str) -> tuple[float, ...]:
    """Numbers separated by commas, each once, in the order given; positive and finite, or click refuses them."""
    try:
        found = tuple(float(word) for word in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(budget) and budget > 0 for budget in found):
        raise click.BadParameter(f"{value!r} is not a list of budgets such as 0.4,0.6,0.8", context, option)
    return tuple(dict.fromkeys(found))
