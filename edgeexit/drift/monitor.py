"""The monitor: counts answers while a cascade runs, and looks whether they have drifted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from edgeexit.drift.reference import binned
from edgeexit.drift.report import DriftReport, compare
from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import DriftReference

__all__ = ["LEVEL", "DriftMonitor"]

LEVEL = 0.01
"""The chance of a false alarm that a monitor allows itself unless told otherwise."""


class DriftMonitor:
    """Counts answers, and compares them with a reference when asked.

        monitor = DriftMonitor(manifest.calibration.drift, [e.name for e in manifest.exits])
        monitor.add(answers.exit, answers.score)
        monitor.report().verdict

    A look calls drift when the p-value of any of its tests is below its level. The levels of all tests
    and of all looks add up to `level`: look i has level / (i (i + 1)), and its tests share that evenly. So
    in all looks together, however many, the chance of a false alarm is about `level` at most, if samples
    are drawn independently and as the calibration split was. Neighbouring frames of a film are not:
    give the monitor one in a while.

    Args:
        reference: Of the bundle.
        names: The exits'.
        level: The chance of a false alarm in all looks together.

    Attributes:
        looks: How often `report` was called.

    Raises:
        UsageError: There is no reference, or the level is no chance.
    """

    def __init__(self, reference: DriftReference | None, names: Sequence[str], *, level: float = LEVEL) -> None:
        if reference is None:
            raise UsageError(
                "the bundle has nothing that drift could be measured against",
                expected="a bundle whose thresholds were fitted by this version, after its heads were last updated",
                remedy="edgeexit tune BUNDLE --data DIR --max-drop 0.01 -o TUNED",
            )
        if not 0 < level < 1:
            raise UsageError("that is not the chance of a false alarm", got=level, expected="between 0 and 1")
        self.looks = 0
        self._reference = reference
        self._names = tuple(names)
        self._level = level
        self.restart()

    def restart(self) -> None:
        """Forget all samples: the next look is at those that come now. Looks go on being counted."""
        self._counts = [np.zeros(len(counts), dtype=np.int64) for counts in self._reference.counts]
        self._audited = self._agreeing = 0

    def add(self, exits: ArrayLike, scores: ArrayLike) -> None:
        """Count answers of a cascade that was run to its last exit where necessary.

        Args:
            exits: (n,) the exits that answered, or one.
            scores: (n,) with these scores, or one.

        Raises:
            DataError: There is no such exit, or a score is NaN.
        """
        where, how = np.atleast_1d(np.asarray(exits)), np.atleast_1d(np.asarray(scores))
        if where.shape != how.shape or np.isnan(how).any():
            raise DataError("these are not exits with their scores", got=f"{where.shape}, {how.shape}, or NaN")
        for k in np.unique(where):
            if not 0 <= k < len(self._counts):
                raise DataError("there is no such exit", got=int(k), expected=f"0 to {len(self._counts) - 1}")
            self._counts[k] += binned(how[where == k], self._reference.edges[k])

    def audit(self, agrees: ArrayLike) -> None:
        """Count samples that were run to the end, drawn at random from all.

        Args:
            agrees: (n,) whether the whole model gives the cascade's answer.
        """
        found = np.atleast_1d(np.asarray(agrees, dtype=bool))
        self._audited += found.size
        self._agreeing += int(found.sum())

    def report(self) -> DriftReport:
        """Look: compare what came since the start, or since `restart`, with the reference."""
        self.looks += 1
        return compare(
            self._counts,
            (self._audited, self._agreeing),
            self._reference,
            self._names,
            look=self.looks,
            look_level=self._level / (self.looks * (self.looks + 1)),
        )
