"""A cost model out of a profile."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.manifest import Manifest
from edgeexit.profiles import Profile
from edgeexit_runtime.costmodel.table import LARGEST, CostTable, crossing_bytes, exit_shares

__all__ = ["MeasuredCosts"]


class MeasuredCosts(CostTable):
    """Costs out of a profile, which `edgeexit profile` measured on this device.

    Args:
        profile: Of this bundle.
        manifest: The bundle's.
        steps: K, how many of its segments are run.
    """

    def __init__(self, profile: Profile, manifest: Manifest, steps: int) -> None:
        super().__init__(exit_shares(manifest, steps), crossing_bytes(manifest)[:steps])
        self._batches = profile.batches
        entries = profile.segments[:steps]
        self._largest = profile.batches[-1]
        self._table = [
            [self._row_ms(entry.run_ms, entry.decide_ms, 1 << power) / 1e3 for power in range(LARGEST.bit_length())]
            for entry in entries
        ]
        self._compact_ms = [entry.compact_ms for entry in entries]

    def row_s(self, index: int, power: int) -> float:
        """See `CostTable.row_s`."""
        return self._table[index][min(power, LARGEST.bit_length() - 1)]

    def compaction_s(self, index: int, rows: int, staying: int) -> float:
        """See `CostModel.compaction_s`: as measured for the rows that stay."""
        return _between(self._batches, self._compact_ms[index], staying) / 1e3

    def _row_ms(self, run_ms: Sequence[float], decide_ms: Sequence[float], rows: int) -> float:
        both = [run + decide for run, decide in zip(run_ms, decide_ms, strict=True)]
        return _between(self._batches, both, rows) / rows


def _between(batches: Sequence[int], times: Sequence[float], rows: int) -> float:
    """Times between those measured lie on a line; beyond the last a row costs as it does there."""
    if rows >= batches[-1]:
        return times[-1] * rows / batches[-1]
    i = next(i for i, batch in enumerate(batches) if batch >= rows)
    if i == 0:
        return times[0]
    part = (rows - batches[i - 1]) / (batches[i] - batches[i - 1])
    return times[i - 1] + part * (times[i] - times[i - 1])
