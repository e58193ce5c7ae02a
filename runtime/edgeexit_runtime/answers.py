"""What a cascade answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies import Decision, Verdict

__all__ = ["LOCAL_TIER", "Answer", "Answers", "Insight", "Resolved"]

LOCAL_TIER = "local"
"""What the tier is called that a program runs itself."""


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
    rows: NDArray[np.intp] | None  # (m,) rows of the batch, in any order; None: all of them, in order
    decision: Decision  # m rows

    @classmethod
    def some(
        cls, exit_index: int, rows: NDArray[np.intp] | None, decision: Decision, chosen: NDArray[np.intp] | None
    ) -> Resolved:
        """Only the `chosen` positions of a decision; all when None."""
        if chosen is None:
            return cls(exit_index, rows, decision)
        kept = Decision(
            score=decision.score[chosen],
            probability=decision.probability[chosen],
            label=decision.label[chosen],
            leave=decision.leave[chosen],
        )
        return cls(exit_index, chosen if rows is None else rows[chosen], kept)

    @classmethod
    def one(cls, exit_index: int, verdict: Verdict, row: int) -> Resolved:
        """A single sample."""
        return cls(exit_index, np.array([row]), Decision.of([verdict]))

    def answers(self, start: int, reason: str | None) -> Iterator[Answer]:
        """One answer a sample, in the order of the batch.

        Args:
            start: The position of the batch's first sample in the stream.
            reason: Why samples that this exit was not sure of are degraded; None if they are not.
        """
        score, probability, label, leave = self.decision
        rows = np.arange(len(label)) if self.rows is None else self.rows
        columns = (rows, label, probability, score, leave)
        order = None if self.rows is None else rows.argsort()
        ordered = (column.tolist() if order is None else column[order].tolist() for column in columns)
        for row, label_, probability_, score_, leaves in zip(*ordered, strict=True):
            degraded = reason is not None and not leaves
            yield Answer(start + row, label_, probability_, self.exit, score_, degraded, reason if degraded else None)


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

    def put(self, resolved: Resolved, *, degrades: bool = False) -> None:
        """Write the answers of some rows.

        Args:
            resolved: The rows and their answers.
            degrades: Whether a sample that the exit was not sure of is degraded.
        """
        rows: Any = slice(None) if resolved.rows is None else resolved.rows
        self.label[rows] = resolved.decision.label
        self.probability[rows] = resolved.decision.probability
        self.exit[rows] = resolved.exit
        self.score[rows] = resolved.decision.score
        if degrades:
            self.degraded[rows] = ~resolved.decision.leave

    def put_one(self, row: int, exit_index: int, verdict: Verdict, *, degrades: bool = False) -> None:
        """Write a single answer; see `put`."""
        self.label[row] = verdict.label
        self.probability[row] = verdict.probability
        self.exit[row] = exit_index
        self.score[row] = verdict.score
        if degrades:
            self.degraded[row] = not verdict.leave
