"""A cost model that learns from the steps that the cascade runs anyway."""

from __future__ import annotations

from statistics import median

from edgeexit.manifest import Manifest
from edgeexit_runtime.costmodel.table import LARGEST, CostTable, crossing_bytes, cut, exit_shares

__all__ = ["ObservedCosts"]

LOOKS = 5
"""How often a size is tried; the first time, in which memory is laid out, does not count."""

POWERS = LARGEST.bit_length()
WHOLE_BATCH = 0.98


class ObservedCosts(CostTable):
    """Costs learned from the steps that the cascade runs anyway.

    The first batches are cut into pieces of all sizes, round after round, so that whatever else the machine
    does hits all sizes alike; then the medians decide, and nothing more is measured. A batch is cut up only
    where that is expected to save something.

    Args:
        manifest: The bundle's.
        steps: K, how many of its segments are run.
    """

    def __init__(self, manifest: Manifest, steps: int) -> None:
        super().__init__(exit_shares(manifest, steps), crossing_bytes(manifest)[:steps])
        self._forget(0)
        self._watching = False

    def row_s(self, index: int, power: int) -> float:
        """See `CostTable.row_s`; sizes that were not seen yet relate to those seen as in the first step."""
        row = self._known[index]
        power = min(power, POWERS - 1)
        found = row[power]
        if found is not None:
            return found
        seen = [(abs(other - power), other) for other, value in enumerate(row) if value is not None]
        if not seen:
            return 0.0
        near = min(seen)[1]
        known = row[near] or 0.0
        first, there = self._known[0][power], self._known[0][near]
        return known * first / there if first and there else known

    def learning(self, n: int) -> bool:
        """See `CostModel.learning`."""
        bits = min(n, LARGEST).bit_length()
        return bits > len(self._tried) or min(self._tried[:bits]) < LOOKS

    def watches(self) -> bool:
        """See `CostModel.watches`."""
        return self._watching

    def best(self, n: int) -> int:
        """See `CostTable.best`."""
        reach = self.reach()
        size = super().best(n)
        return size if self.batch_s(size, reach) / size < WHOLE_BATCH * self.batch_s(n, reach) / n else n

    def sizes(self, n: int) -> list[int]:
        """See `CostModel.sizes`."""
        self._watching = self.learning(n)
        if self._watching:
            if min(n, LARGEST).bit_length() > len(self._tried):
                self._forget(min(n, LARGEST).bit_length())
            trials = self._trials(n)
            rest = n - sum(trials)
            return trials + ([rest] if rest else [])
        if n not in self._chosen:
            self._chosen[n] = self.best(n)
        return cut(n, self._chosen[n])

    def ran(self, index: int, rows: int, seconds: float) -> None:
        """See `CostModel.ran`."""
        power = min(rows, LARGEST).bit_length() - 1
        if rows & (rows - 1) and rows * rows > 1 << (2 * power + 1):
            power = min(power + 1, POWERS - 1)
        seen = self._seen[index][power]
        if len(seen) > 2 * LOOKS or (index == 0 and rows & (rows - 1)):
            return
        seen.append(seconds / rows)
        self._largest = max(self._largest, 1 << power)
        self._known[index][power] = median(seen[1:] or seen)

    def _forget(self, bits: int) -> None:
        """Begin anew, with the sizes 1, 2, 4, …, 2 ** (bits − 1).

        The machine may be faster or slower now than when the smaller sizes were tried.
        """
        steps = range(self._steps)
        self._largest = 1
        self._tried = [0] * bits
        self._seen: list[list[list[float]]] = [[[] for _ in range(POWERS)] for _ in steps]
        self._known: list[list[float | None]] = [[None] * POWERS for _ in steps]
        self._chosen: dict[int, int] = {}

    def _trials(self, n: int) -> list[int]:
        """A piece of each size that was tried least, small ones first, as far as they fit."""
        trials: list[int] = []
        powers = range(min(n, LARGEST).bit_length())
        least = min(self._tried[power] for power in powers)
        for power in powers:
            if self._tried[power] == least and sum(trials) + (1 << power) <= n:
                trials.append(1 << power)
                self._tried[power] += 1
        return trials
