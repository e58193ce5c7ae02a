"""Cached logits: what every exit says about every sample, and what is right. All fitting starts from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

__all__ = ["FEWEST_SAMPLES", "CachedLogits"]

FEWEST_SAMPLES = 10
"""Fewer tell nothing about a threshold."""

_NAMED = 5


@dataclass(frozen=True, eq=False)
class CachedLogits:
    """The logits of N samples at E exits, with nobody leaving.

    Attributes:
        logits: E arrays of shape (N, C), any scale.
        labels: (N,) what counts as right, in 0…C−1: the truth, or the whole model's answers.
    """

    logits: tuple[NDArray[np.float32], ...]
    labels: NDArray[np.int64]

    @property
    def samples(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def exits(self) -> int:
        """E."""
        return len(self.logits)

    @property
    def classes(self) -> int:
        """C."""
        return int(self.logits[0].shape[1])

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> CachedLogits:
        """The same for some of the samples: positions, or one truth value per sample."""
        return CachedLogits(tuple(values[chosen] for values in self.logits), self.labels[chosen])

    def labelled_by_the_model(self) -> CachedLogits:
        """The same with the whole model's answers as labels."""
        return CachedLogits(self.logits, np.asarray(self.logits[-1].argmax(axis=1), dtype=np.int64))

    def check(self, names: Sequence[str] | None = None, *, every_class: bool = True) -> None:
        """Refuse logits and labels that nothing can be fitted on.

        Args:
            names: Of the classes, for messages; their numbers if None.
            every_class: Whether each class needs a sample. The whole model's answers need not name all.

        Raises:
            DataError: A logit is NaN or infinite, shapes disagree, a label is out of range, there are
                fewer than `FEWEST_SAMPLES` samples, or a class has none.
        """
        self._check_shapes()
        self._check_logits()
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if wrong.size:
            raise DataError(
                f"the label of sample {wrong[0]} is out of range",
                got=int(self.labels[wrong[0]]),
                expected=f"0 to {self.classes - 1}",
                remedy="number the classes from 0 in the order of the model's logits",
            )
        if self.samples < FEWEST_SAMPLES:
            raise DataError(
                "there are too few samples",
                got=self.samples,
                expected=f"at least {FEWEST_SAMPLES}, better a thousand and more",
                remedy="give more data",
            )
        empty = np.flatnonzero(np.bincount(self.labels, minlength=self.classes) == 0)
        if every_class and empty.size:
            shown = [str(k) if names is None else names[k] for k in empty[:_NAMED]]
            raise DataError(
                "a class has no sample" if empty.size == 1 else f"{empty.size} classes have no sample",
                got=f"none of {', '.join(shown)}" + (", …" if empty.size > _NAMED else ""),
                expected="at least one sample of every class",
                remedy="add samples of it, or take the whole model's answers for labels (--labels model)",
            )

    def _check_shapes(self) -> None:
        shapes = [values.shape for values in self.logits]
        if not shapes or len(shapes[0]) != 2 or shapes[0][1] < 2 or len(set(shapes)) > 1:
            raise DataError(
                "the exits' logits differ in shape, or are no logits",
                got=", ".join(str(list(shape)) for shape in dict.fromkeys(shapes)) or "no exits",
                expected="(samples, classes) at every exit, with two classes or more",
            )
        if self.labels.shape != shapes[0][:1] or self.labels.dtype.kind not in "iu":
            raise DataError(
                "the labels do not fit the logits",
                got=f"{self.labels.dtype} {list(self.labels.shape)}",
                expected=f"integers {list(shapes[0][:1])}",
            )

    def _check_logits(self) -> None:
        for k, values in enumerate(self.logits):
            good = np.isfinite(values).all(axis=1)
            if not good.all():
                row = int(good.argmin())
                raise DataError(
                    f"exit {k} gives a logit that is not finite for sample {row}",
                    got=values[row].tolist()[:_NAMED],
                    expected="finite numbers",
                    remedy="check the data, and that they are scaled as the model expects",
                )
