"""Activations: what a backbone computed, batch by batch, for heads to learn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from edgeexit.errors import DataError, UsageError
from edgeexit.training.settings import TrainSettings

__all__ = ["ActivationBatch", "ActivationFeed", "cause", "check_batch"]


@dataclass(frozen=True)
class ActivationBatch:
    """What the backbone computed for n samples.

    Attributes:
        values: One float32 activation (n, …) for each head.
        teacher: (n, C) logits of the whole model.
        labels: (n,) int64, or None; not looked at in mode "distilled".
        mask: (n, T) of tokens, or None.
    """

    values: Sequence[Tensor]
    teacher: Tensor
    labels: Tensor | None = None
    mask: Tensor | None = None


class ActivationFeed(Protocol):
    """Where activations come from: a torch backbone, ONNX Runtime, or memory."""

    @property
    def steps(self) -> int:
        """Batches of an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[ActivationBatch]:
        """The batches of an epoch from `start` on; the same for the same numbers.

        Of held-out data `epoch(0)` is asked for each time, and has every sample once.
        """


def check_batch(batch: ActivationBatch, heads: int, settings: TrainSettings, where: str) -> None:
    """Refuse a batch from which heads cannot learn.

    Args:
        batch: To learn from, or to judge by.
        heads: How many there are.
        settings: Of the run.
        where: Which batch it is, for the message.

    Raises:
        UsageError: There is not one activation for each head.
        DataError: Answers of the whole model are not finite, or labels are needed and are not there or no classes.
    """
    if len(batch.values) != heads:
        raise UsageError("there has to be one activation for each head", got=len(batch.values), expected=heads)
    wrong = ~batch.teacher.isfinite()
    if settings.mode == "layerwise":  # where nothing is learnt from it: −∞ shuts a class out
        wrong &= batch.teacher != -math.inf
    if bool(wrong.any()):
        rows = wrong.any(dim=1).nonzero().flatten().tolist()
        raise DataError(
            f"the whole model's answers are not finite in {where}",
            got=f"{batch.teacher[wrong][0].item()}; {len(rows)} of {len(wrong)} samples, the first at row {rows[0]}",
            expected="finite logits",
            remedy="check the data for values that are not finite or far too large, and the model's weights",
        )
    if not settings.needs_labels:
        return
    if batch.labels is None:
        raise DataError(
            f"mode {settings.mode} needs labels, and the data have none",
            remedy="mode distilled trains exits on the model's own answers and needs none",
        )
    classes = batch.teacher.shape[1]
    if int(batch.labels.max()) >= classes:
        raise DataError("a label is no class of the model", got=int(batch.labels.max()), expected=f"0 to {classes - 1}")


def cause(found: str, value: Tensor, where: str) -> str:
    """Why something of a head was not finite: the activations (n, …) that it was given, or, if they were, `found`."""
    if not bool(value.isfinite().all()):
        return f"the activations that it reads were not finite in {where}; check the data and the model"
    return f"its {found} in {where}, on finite activations; try a lower rate"
