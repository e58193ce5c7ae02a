"""Several sources, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.dataset import Batch, Source

__all__ = ["Joined"]


@dataclass(frozen=True, eq=False)
class Joined:
    """The samples of the first source, then those of the second, and so on; inputs are the same."""

    sources: tuple[Source, ...]

    @property
    def workers(self) -> int:
        """What the most demanding source wants."""
        return max(source.workers for source in self.sources)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """See `Source.read`."""
        starts = np.cumsum([0, *map(len, self.sources)])
        owners = np.searchsorted(starts, rows, side="right") - 1
        batches, positions = [], []
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            batches.append(self.sources[owner].read(rows[mine] - starts[owner]))
            positions.append(mine)
        order = np.argsort(np.concatenate(positions))
        return {name: np.concatenate([batch[name] for batch in batches])[order] for name in batches[0]}
