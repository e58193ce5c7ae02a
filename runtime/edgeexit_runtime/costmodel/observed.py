"""A cost model that learns from the steps that the cascade runs anyway."""

from __future__ import annotations

from edgeexit.manifest import Manifest
from edgeexit_runtime.costmodel.table import LARGEST, CostTable, crossing_bytes, cut, exit_shares

__all__ = ["ObservedCosts"]

LOOKS = 3
"""How often a size is tried before its time is believed; the least counts."""


class ObservedCosts(CostTable):
    """Costs learned from the steps that the cascade runs anyway.

    The first batches are cut into all sizes that are not known yet, small ones first.

    Args:
        manifest: The bundle's.
        steps: K, how many of its segments are run.
    """

    watches = True

    def __init__(self, manifest: Manifest, steps: int) -> None:
        super().__init__(exit_shares(manifest, steps), crossing_bytes(manifest)[:steps])
        powers = LARGEST.bit_length()
        self._largest = 1
        self._least: list[list[float | None]] = [[None] * powers for _ in range(steps)]
        self._looks = [[0] * powers for _ in range(steps)]
        self._chosen: dict[int, tuple[int, int]] = {}

    def row_s(self, index: int, power: int) -> float:
        """See `CostTable.row_s`; sizes that were not seen yet relate to those seen as in the first step."""
        row = self._least[index]
        power = min(power, len(row) - 1)
        found = row[power]
        if found is not None:
            return found
        seen = [(abs(other - power), other) for other, value in enumerate(row) if value is not None]
        if not seen:
            return 0.0
        near = min(seen)[1]
        known = row[near] or 0.0
        first, there = self._least[0][power], self._least[0][near]
        return known * first / there if first and there else known

    def sizes(self, n: int) -> list[int]:
        """See `CostModel.sizes`."""
        trials = self._trials(n)
        rest = n - sum(trials)
        if not rest:
            return trials
        size, uses = self._chosen.get(n, (0, 0))
        if uses == 0 or trials:
            size, uses = self.best(n), LOOKS * LOOKS
        self._chosen[n] = (size, uses - 1)
        return trials + cut(rest, size)

    def ran(self, index: int, rows: int, seconds: float) -> None:
        """See `CostModel.ran`. The least time of a size counts: whatever else the machine does only adds."""
        power = min(rows, LARGEST).bit_length() - 1
        if rows & (rows - 1) and rows * rows > 1 << (2 * power + 1):
            power = min(power + 1, LARGEST.bit_length() - 1)
        a_row = seconds / rows
        self._largest = max(self._largest, min(1 << power, LARGEST))
        known = self._least[index][power]
        self._looks[index][power] += 1
        self._least[index][power] = a_row if known is None else min(known * 1.001, a_row)

    def _trials(self, n: int) -> list[int]:
        trials: list[int] = []
        rest = n
        for power, looks in enumerate(self._looks[0]):
            size = 1 << power
            count = min(max(LOOKS - looks, 0), rest // size)
            trials += [size] * count
            rest -= size * count
        return trials
