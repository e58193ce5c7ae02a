"""Which samples to show: those that leave first and last, and some of every exit (EENet, figures 1 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.reports.evidence import Evidence

__all__ = ["ClassShow", "ExitShow", "Gallery", "Picture", "choose_pictures"]

_CLASSES = 6
_FIRST = 4
_AT_EXIT = 8


@dataclass(frozen=True)
class Picture:
    """One sample.

    Attributes:
        row: Its position among the samples.
        truth: Name of its class.
        answer: The cascade's answer.
        right: Whether that is right.
        exit: Name of the exit that it left at.
        score: There.
    """

    row: int
    truth: str
    answer: str
    right: bool
    exit: str
    score: float


@dataclass(frozen=True)
class ClassShow:
    """One class: the samples that leave first, and those that leave last."""

    name: str
    mean_cost: float
    first: tuple[Picture, ...]
    last: tuple[Picture, ...]


@dataclass(frozen=True)
class ExitShow:
    """One exit: some of the samples that left there, drawn at random."""

    name: str
    count: int
    drawn: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """What is shown, and as soon as they are read, the pictures.

    Attributes:
        classes: The classes that leave earliest and latest on average, cheapest first.
        exits: Every exit that somebody took.
        images: Row of a sample to a `data:` address.
    """

    classes: tuple[ClassShow, ...]
    exits: tuple[ExitShow, ...]
    images: Mapping[int, str]

    @property
    def rows(self) -> tuple[int, ...]:
        """Every sample that is shown, once, in rising order."""
        shown = [p.row for c in self.classes for p in (*c.first, *c.last)] + [
            p.row for e in self.exits for p in e.drawn
        ]
        return tuple(sorted(set(shown)))


def choose_pictures(evidence: Evidence, seed: int = 0) -> Gallery:
    """Choose samples to show; equal seeds choose equally. `images` is empty."""
    score = evidence.judgement.score[evidence.taken, np.arange(evidence.samples)]
    classes = tuple(_class_show(evidence, score, label) for label in _telling_classes(evidence))
    random = np.random.default_rng(seed)
    exits = []
    for k, name in enumerate(evidence.names):
        here = np.flatnonzero(evidence.left_at(k))
        if len(here):
            drawn = np.sort(random.permutation(here)[:_AT_EXIT])
            exits.append(ExitShow(name, len(here), tuple(_picture(evidence, score, int(row)) for row in drawn)))
    return Gallery(classes, tuple(exits), {})


def _telling_classes(evidence: Evidence) -> list[int]:
    """The classes of least and of greatest mean cost, by cost; those with enough samples come first."""
    counts = np.bincount(evidence.truth, minlength=len(evidence.classes))
    enough = np.flatnonzero(counts >= 2 * _FIRST)
    present = enough if len(enough) >= 2 else np.flatnonzero(counts)
    totals = np.bincount(evidence.truth, weights=evidence.spent, minlength=len(evidence.classes))
    ranked = sorted(present.tolist(), key=lambda label: (totals[label] / counts[label], label))
    if len(ranked) <= _CLASSES:
        return ranked
    return ranked[: _CLASSES // 2] + ranked[-(_CLASSES // 2) :]


def _class_show(evidence: Evidence, score: NDArray[np.float32], label: int) -> ClassShow:
    members = np.flatnonzero(evidence.truth == label)
    ranked = members[np.lexsort((members, -score[members], evidence.taken[members]))].tolist()
    count = min(_FIRST, (len(ranked) + 1) // 2)
    first, last = ranked[:count], ranked[max(count, len(ranked) - _FIRST) :][::-1]
    return ClassShow(
        name=evidence.classes[label],
        mean_cost=float(evidence.spent[members].mean()),
        first=tuple(_picture(evidence, score, row) for row in first),
        last=tuple(_picture(evidence, score, row) for row in last),
    )


def _picture(evidence: Evidence, score: NDArray[np.float32], row: int) -> Picture:
    return Picture(
        row=row,
        truth=evidence.classes[evidence.truth[row]],
        answer=evidence.classes[evidence.label[row]],
        right=bool(evidence.right[row]),
        exit=evidence.names[evidence.taken[row]],
        score=float(score[row]),
    )
