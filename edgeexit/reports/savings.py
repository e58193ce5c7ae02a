"""Savings in multiply-accumulates, as Distiller tabulates them (Lee, Zmora et al., Intel, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeexit.manifest import Manifest
from edgeexit.reports.words import shortened

__all__ = ["ExitSavings", "Savings", "savings"]

_NAME = 24
_LEAST_WIDTH = 42


@dataclass(frozen=True)
class ExitSavings:
    """One exit.

    Attributes:
        name: Of the exit.
        share: Of the samples, that leave here.
        through_macs: Everything spent until this exit answers, heads included.
        behind_macs: What the segments behind this exit cost, heads left out: the work saved here.
    """

    name: str
    share: float
    through_macs: int
    behind_macs: int


@dataclass(frozen=True)
class Savings:
    """What the exits cost and save, in multiply-accumulates per sample.

    Attributes:
        whole_macs: The whole model without any exit.
        exits: Every exit; the last takes those that leave nowhere else.
    """

    whole_macs: int
    exits: tuple[ExitSavings, ...]

    @property
    def worst_macs(self) -> int:
        """What a sample costs that goes all the way."""
        return self.exits[-1].through_macs

    @property
    def overhead_macs(self) -> int:
        """What all exits add to a sample that goes all the way."""
        return self.worst_macs - self.whole_macs

    @property
    def early_share(self) -> float:
        """Share of the samples that leave before the last exit."""
        return sum(leaving.share for leaving in self.exits[:-1])

    @property
    def mean_macs(self) -> float:
        """Mean over the samples."""
        return sum(leaving.share * leaving.through_macs for leaving in self.exits)

    @property
    def saved_share(self) -> float:
        """1 − mean / whole."""
        return 1 - self.mean_macs / self.whole_macs

    @property
    def speedup(self) -> float:
        """Whole / mean, as if time went with the multiply-accumulates."""
        return self.whole_macs / self.mean_macs

    def text(self) -> str:
        """The table: the exits, then the figures that Distiller gives, by the names that it gives them."""
        exits = _columns(
            ("exit", "% exit", "MACs through", "saved behind"),
            [
                (leaving.name, f"{100 * leaving.share:.2f}", f"{leaving.through_macs:,}", f"{leaving.behind_macs:,}")
                for leaving in self.exits
            ],
        )
        figures = {
            "Overhead in MACs": f"{self.overhead_macs:,}",
            "Total MACs whole model": f"{self.whole_macs:,}",
            "Worst case w/overhead": f"{self.worst_macs:,}",
            "Total % exit early": f"{100 * self.early_share:.2f}",
            "% not exiting early": f"{100 * self.exits[-1].share:.2f}",
            "Average MACs/input": f"{self.mean_macs:,.0f}",
            "Savings per input": f"{100 * self.saved_share:.2f} %",
            "Speed-up in MACs": f"{self.speedup:.2f}",
        }
        width = max(len(exits[0]), _LEAST_WIDTH)
        return "\n".join([*exits, "", *(f"{name:<24}{value:>{width - 24}}" for name, value in figures.items())])

    def document(self) -> dict[str, Any]:
        """The table for JSON."""
        return {
            "whole_macs": self.whole_macs,
            "overhead_macs": self.overhead_macs,
            "worst_macs": self.worst_macs,
            "early_share": self.early_share,
            "mean_macs": self.mean_macs,
            "saved_share": self.saved_share,
            "speedup": self.speedup,
            "exits": [
                {
                    "name": leaving.name,
                    "share": leaving.share,
                    "through_macs": leaving.through_macs,
                    "behind_macs": leaving.behind_macs,
                }
                for leaving in self.exits
            ],
        }


def savings(manifest: Manifest, shares: Sequence[float]) -> Savings:
    """The table of a bundle, given the (E,) share of the samples that left at each exit."""
    exits = tuple(
        ExitSavings(entry.name, share, entry.cost_macs, sum(segment.macs for segment in manifest.segments[k + 1 :]))
        for k, (entry, share) in enumerate(zip(manifest.exits, shares, strict=True))
    )
    return Savings(manifest.macs, exits)


def _columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal width: the first column flush left, the others flush right."""
    table = [headings, *((shortened(row[0], _NAME), *row[1:]) for row in rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(headings))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    ]
