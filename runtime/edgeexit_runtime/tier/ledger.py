"""The ledger: which samples wait for an answer from elsewhere, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.answers import Answer, Resolved
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.wire.limits import MAX_MESSAGE_BYTES

__all__ = ["Ledger", "Pending"]

MAX_PIECE_ROWS = 32
MAX_PIECE_BYTES = MAX_MESSAGE_BYTES * 3 // 4


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """Samples of one batch that no local exit was sure of, n ≥ 1.

    Attributes:
        key: Theirs alone within a stream.
        start: The position of their batch's first sample in the stream.
        best: The best local answer to each, and which rows of the batch they are.
        arrays: (n, …) what the next segment takes, by the names of `Tail.takes`.
        inputs: (n, …) the model's inputs of the same samples.
        due_s: When they have to be answered, on the stream's clock.
    """

    key: int
    start: int
    best: Resolved
    arrays: Arrays
    inputs: Arrays
    due_s: float

    def __len__(self) -> int:
        return len(self.best.decision.label)

    def answers(self, reason: str) -> Iterator[Answer]:
        """The best local answers, in the order of the samples, degraded for this reason."""
        return self.best.answers(self.start, reason)

    def some(self, chosen: NDArray[np.intp]) -> Pending:
        """The samples at these positions, (m,) strictly increasing."""
        best = Resolved.some(self.best.exit, self.best.rows, self.best.decision, chosen)
        arrays, inputs = ({name: a[chosen] for name, a in found.items()} for found in (self.arrays, self.inputs))
        return Pending(self.key, self.start, best, arrays, inputs, self.due_s)

    def pieces(
        self, keys: Iterator[int], max_rows: int = MAX_PIECE_ROWS, max_bytes: int = MAX_PIECE_BYTES
    ) -> list[Pending]:
        """The samples in groups that fit into a message, each but the only one with a key of its own."""
        row_bytes = max(sum(array[:1].nbytes for array in found.values()) for found in (self.arrays, self.inputs))
        most = max(1, min(max_rows, max_bytes // max(1, row_bytes)))
        if len(self) <= most:
            return [self]
        cuts = np.split(np.arange(len(self)), range(most, len(self), most))
        return [replace(self.some(chosen), key=next(keys)) for chosen in cuts]


class Ledger:
    """Who waits. Whoever settles an entry first answers it; nobody else can.

    It is meant for one thread.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Pending] = {}

    def __len__(self) -> int:
        """How many entries wait."""
        return len(self._waiting)

    def enter(self, pending: Pending) -> None:
        """Let samples wait."""
        self._waiting[pending.key] = pending

    def waits(self, key: int) -> Pending | None:
        """The entry, if it still waits."""
        return self._waiting.get(key)

    def settle(self, key: int) -> Pending | None:
        """Strike an entry out. None: it was settled before, and is not to be answered again."""
        return self._waiting.pop(key, None)

    def next_due_s(self) -> float | None:
        """When the first of them has to be answered; None when nobody waits."""
        return min((pending.due_s for pending in self._waiting.values()), default=None)

    def overdue(self, now_s: float) -> list[Pending]:
        """Strike out the entries whose time has come, the most urgent first."""
        late = sorted((p for p in self._waiting.values() if p.due_s <= now_s), key=lambda p: p.due_s)
        for pending in late:
            del self._waiting[pending.key]
        return late
