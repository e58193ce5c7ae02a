"""What a cascade answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies import Decision

__all__ = ["Answer", "Answers", "Insight", "Resolved"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample's answer, as `Cascade.stream` yields it."""

    index: int  # position of the sample in the stream, counted from 0 over all batches
    label: int  # class index
    probability: float  # of the label, in [0, 1]
    exit: int  # index of the exit that answered
    score: float  # in the units of that exit's criterion
    degraded: bool  # True: this tier could not resolve the sample
    reason: str | None  # why it is degraded


class Insight(NamedTuple):
    """What every exit read and said, with nobody leaving.

    Attributes:
        features: For each exit (n, D) float32, what its head read; None where it has no fitted head.
        logits: (K, n, classes) float32.
    """

    features: tuple[NDArray[np.float32] | None, ...]
    logits: NDArray[np.float32]


class Resolved(NamedTuple):
    """Samples of one batch that were answered at the same exit."""

    exit: int
    rows: NDArray[np.intp] | None  # (m,) rows of the batch; None: all of them, in order
    decision: Decision  # m rows
    degraded: NDArray[np.bool_] | None = None  # (m,); None: none of them

    @classmethod
    def some(
        cls, exit_index: int, rows: NDArray[np.intp] | None, decision: Decision, chosen: NDArray[np.intp]
    ) -> Resolved:
        """Only the `chosen` positions of a decision."""
        kept = Decision(
            score=decision.score[chosen],
            probability=decision.probability[chosen],
            label=decision.label[chosen],
            leave=decision.leave[chosen],
        )
        return cls(exit_index, chosen if rows is None else rows[chosen], kept)

    def answers(self, start: int, reason: str | None) -> Iterator[Answer]:
        """One answer a sample; `start` is the position of the batch's first sample in the stream."""
        rows = range(len(self.decision.label)) if self.rows is None else self.rows.tolist()
        degraded = repeat(False) if self.degraded is None else self.degraded.tolist()
        columns = zip(
            rows,
            self.decision.label.tolist(),
            self.decision.probability.tolist(),
            self.decision.score.tolist(),
            degraded,
            strict=False,
        )
        for row, label, probability, score, is_degraded in columns:
            yield Answer(
                start + row, label, probability, self.exit, score, is_degraded, reason if is_degraded else None
            )


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A batch's answers; row i belongs to sample i.

    Attributes:
        label: (n,) int64, class index.
        probability: (n,) float32 of the label, in [0, 1].
        exit: (n,) int64, index of the exit that answered.
        score: (n,) float32 in the units of that exit's criterion.
        degraded: (n,) bool, True where this tier could not resolve the sample and its last exit
            answered all the same.
        reason: Why there are degraded answers; None when there are none.
    """

    label: NDArray[np.int64]
    probability: NDArray[np.float32]
    exit: NDArray[np.int64]
    score: NDArray[np.float32]
    degraded: NDArray[np.bool_]
    reason: str | None = None

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def blank(cls, n: int) -> Answers:
        """Room for n answers."""
        return cls(
            label=np.zeros(n, np.int64),
            probability=np.zeros(n, np.float32),
            exit=np.zeros(n, np.int64),
            score=np.zeros(n, np.float32),
            degraded=np.zeros(n, np.bool_),
        )

    @classmethod
    def of_one(cls, answer: Answer) -> Answers:
        """A batch of one sample."""
        return cls(
            label=np.array([answer.label], np.int64),
            probability=np.array([answer.probability], np.float32),
            exit=np.array([answer.exit], np.int64),
            score=np.array([answer.score], np.float32),
            degraded=np.array([answer.degraded], np.bool_),
            reason=answer.reason,
        )

    def put(self, resolved: Resolved) -> None:
        """Write the answers of some rows."""
        rows: Any = slice(None) if resolved.rows is None else resolved.rows
        self.label[rows] = resolved.decision.label
        self.probability[rows] = resolved.decision.probability
        self.exit[rows] = resolved.exit
        self.score[rows] = resolved.decision.score
        if resolved.degraded is not None:
            self.degraded[rows] = resolved.degraded
