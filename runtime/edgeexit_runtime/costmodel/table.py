"""A cost model that knows what a row costs in each step, for 1, 2, 4, … rows."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.manifest import Manifest
from edgeexit_runtime.wiring import wire

__all__ = ["LARGEST", "CostTable", "crossing_bytes", "cut", "exit_shares"]

LARGEST = 256
"""Rows beyond which a row is taken to cost the same."""

SHARES_WEIGHT = 64.0
FORGET_AFTER = 4096.0
COPY_BYTES_PER_S = 2e9
COPY_CALL_S = 5e-6
NEAR = 0.97
POOLING_PAYS = 0.9


class CostTable:
    """Seconds a row, for each step and for 1, 2, 4, … rows, and how many samples get to each step.

    Args:
        shares: The share of samples that leaves at each exit, at first; then it is counted.
        carried_bytes: For each segment, the bytes of one sample that cross behind it.
    """

    def __init__(self, shares: Sequence[float], carried_bytes: Sequence[int]) -> None:
        self._counts = [SHARES_WEIGHT * share for share in shares]
        self._total = sum(self._counts) or 1.0
        self._carried_bytes = tuple(carried_bytes)
        self._steps = len(shares)
        self._largest = LARGEST

    def row_s(self, index: int, power: int) -> float:
        """What a row costs in step `index` among 2 ** power rows, in seconds."""
        raise NotImplementedError

    def step_s(self, index: int, rows: float) -> float:
        """What step `index` costs for so many rows, at least one, in seconds."""
        rows = max(rows, 1.0)
        power = min(int(rows), LARGEST).bit_length() - 1
        low = 1 << power
        here = self.row_s(index, power)
        if rows <= low or rows >= LARGEST:
            return here * rows
        part = (rows - low) / low
        return rows * (here + part * (self.row_s(index, power + 1) - here))

    def reach(self) -> list[float]:
        """The share of samples that gets to each step."""
        left, shares = self._total, []
        for count in self._counts:
            shares.append(left / self._total)
            left -= count
        return shares

    def watches(self) -> bool:
        """See `CostModel.watches`."""
        return False

    def learning(self, n: int) -> bool:
        """See `CostModel.learning`."""
        return False

    def batch_s(self, size: int, reach: Sequence[float]) -> float:
        """What `size` samples are expected to cost together, in seconds."""
        total = 0.0
        for index, share in enumerate(reach):
            anybody = 1.0 - (1.0 - share) ** size
            if anybody > 0:
                total += anybody * self.step_s(index, size * share / anybody)
        return total

    def best(self, n: int) -> int:
        """The size, at most n, at which samples are expected to cost least."""
        reach = self.reach()
        return min(self._candidates(n), key=lambda size: self.batch_s(size, reach) / size)

    def sizes(self, n: int) -> list[int]:
        """See `CostModel.sizes`."""
        return cut(n, self.best(n))

    def saved_s(self, index: int, rows: int, staying: int) -> float:
        """See `CostModel.saved_s`."""
        return self.step_s(index + 1, rows) - self.step_s(index + 1, staying)

    def compaction_s(self, index: int, rows: int, staying: int) -> float:
        """See `CostModel.compaction_s`. A row that stays takes the place of one that leaves."""
        moved = min(staying, rows - staying)
        return COPY_CALL_S + moved * self._carried_bytes[index] / COPY_BYTES_PER_S

    def enough(self, index: int) -> int:
        """See `CostModel.enough`."""
        least = self._least_row_s(index)
        sizes = self._candidates(self._largest)
        return next(size for size in sizes if NEAR * self.step_s(index, size) / size <= least)

    def pools(self, n: int) -> bool:
        """See `CostModel.pools`. In a pool every step finds as many rows as it likes best."""
        reach = self.reach()
        pooled_s = sum(share * self._least_row_s(index) for index, share in enumerate(reach))
        size = self.best(n)
        return pooled_s < POOLING_PAYS * self.batch_s(size, reach) / size

    def ran(self, index: int, rows: int, seconds: float) -> None:
        """See `CostModel.ran`."""

    def left(self, index: int, samples: int) -> None:
        """See `CostModel.left`."""
        self._counts[index] += samples
        self._total += samples
        if self._total > FORGET_AFTER:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2

    def _least_row_s(self, index: int) -> float:
        return min(self.step_s(index, size) / size for size in self._candidates(self._largest))

    def _candidates(self, n: int) -> list[int]:
        powers = [1 << power for power in range(min(n, self._largest).bit_length())]
        return powers if powers[-1] == n or n > self._largest else [*powers, n]


def crossing_bytes(manifest: Manifest) -> list[int]:
    """For each segment, the bytes of one sample that have to be carried on behind it."""
    specs = list(manifest.inputs)
    bytes_ = []
    for step, entry in zip(wire(manifest.inputs, manifest.segments), manifest.segments, strict=True):
        known = [*specs, *entry.outputs]
        specs = [known[i] for i in step.keeps]
        bytes_.append(sum(spec.size_bytes for spec in specs))
    return bytes_


def exit_shares(manifest: Manifest, steps: int) -> list[float]:
    """The share that leaves at each of the first `steps` exits on the calibration split, the last taking all."""
    shares = list(manifest.calibration.exit_shares)
    return [*shares[: steps - 1], sum(shares[steps - 1 :])]


def cut(n: int, size: int) -> list[int]:
    """N rows in pieces of `size`, and what is left."""
    return [size] * (n // size) + ([n % size] if n % size else [])
