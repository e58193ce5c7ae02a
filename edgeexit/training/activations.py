"""Activations: what a backbone computed, batch by batch, for heads to learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["ActivationBatch", "ActivationFeed"]


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
