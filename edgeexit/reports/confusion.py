"""Confusion: which class is taken for which, at one exit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.reports.evidence import Evidence

__all__ = ["Confusion", "Pair", "confusion"]

_PAIRS = 8


@dataclass(frozen=True)
class Pair:
    """A class taken for another.

    Attributes:
        truth: The class.
        answer: What it was taken for.
        count: How often.
        of: How many samples of the class there were.
    """

    truth: str
    answer: str
    count: int
    of: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """One exit.

    Attributes:
        name: Of the exit.
        samples: How many were counted.
        right: How many of them were right.
        pairs: The most frequent mistakes, most frequent first.
        matrix: (C, C) counts, the truth by row, the answer by column; None for more classes than asked for.
    """

    name: str
    samples: int
    right: int
    pairs: tuple[Pair, ...]
    matrix: NDArray[np.int64] | None


def confusion(
    evidence: Evidence, exit_index: int, chosen: NDArray[np.bool_] | None = None, *, most_classes: int
) -> Confusion:
    """Count an exit's answers against the truth.

    Args:
        evidence: Of the report.
        exit_index: Counted from 0.
        chosen: (N,) the samples to count; all of them if None.
        most_classes: For how many classes the matrix is still wanted.
    """
    rows = slice(None) if chosen is None else chosen
    truth, answer = evidence.truth[rows], evidence.judgement.label[exit_index][rows]
    classes = len(evidence.classes)
    codes, counts = np.unique(truth * classes + answer, return_counts=True)
    wrong = codes // classes != codes % classes
    order = np.lexsort((codes[wrong], -counts[wrong]))[:_PAIRS]
    of = np.bincount(truth, minlength=classes)
    pairs = tuple(
        Pair(evidence.classes[code // classes], evidence.classes[code % classes], int(count), int(of[code // classes]))
        for code, count in zip(codes[wrong][order], counts[wrong][order], strict=True)
    )
    matrix = None
    if classes <= most_classes:
        matrix = np.zeros((classes, classes), dtype=np.int64)
        matrix.flat[codes] = counts
    return Confusion(evidence.names[exit_index], len(truth), int((truth == answer).sum()), pairs, matrix)
