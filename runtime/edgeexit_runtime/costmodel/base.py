"""What a cost model decides."""

from __future__ import annotations

from typing import Protocol

__all__ = ["CostModel", "WholeBatches"]


class CostModel(Protocol):
    """Decides for batches of more than one sample."""

    def watches(self) -> bool:
        """Whether it wants to be told of the steps of the next single sample, by `ran`; of batches it always is."""

    def learning(self, n: int) -> bool:
        """Whether batches of n samples are still being tried in several ways."""

    def sizes(self, n: int) -> list[int]:
        """How to cut up a batch of n samples: numbers of rows that add up to n."""

    def saved_s(self, index: int, rows: int, staying: int) -> float:
        """What compaction behind segment `index` saves until the next decision, in seconds."""

    def compaction_s(self, index: int, rows: int, staying: int) -> float:
        """What it costs, in seconds."""

    def enough(self, index: int) -> int:
        """The rows from which more rows make segment `index` hardly cheaper a row."""

    def pools(self, n: int) -> bool:
        """Whether what is left of a batch of n samples would cost less together with that of later batches."""

    def ran(self, index: int, rows: int, seconds: float) -> None:
        """Step `index` took so long on so many rows."""

    def left(self, index: int, samples: int) -> None:
        """So many samples left at exit `index`."""


class WholeBatches:
    """Batches are never cut up, and always compacted: right where a row of a larger batch is never dearer."""

    def watches(self) -> bool:
        """Nothing is learned."""
        return False

    def learning(self, n: int) -> bool:
        """Nothing is learned."""
        return False

    def sizes(self, n: int) -> list[int]:
        """All at once."""
        return [n]

    def saved_s(self, index: int, rows: int, staying: int) -> float:
        """See `CostModel.saved_s`."""
        return 1.0

    def compaction_s(self, index: int, rows: int, staying: int) -> float:
        """See `CostModel.compaction_s`."""
        return 0.0

    def enough(self, index: int) -> int:
        """See `CostModel.enough`."""
        return 1

    def pools(self, n: int) -> bool:
        """See `CostModel.pools`."""
        return False

    def ran(self, index: int, rows: int, seconds: float) -> None:
        """Nothing is learned."""

    def left(self, index: int, samples: int) -> None:
        """Nothing is learned."""
