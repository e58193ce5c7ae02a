"""Counting: what a model multiplies, recurrent layers included, for which torch's own counter has no rule."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["flop_counter"]

_MATRIX = 2

Shape = Sequence[int]


def flop_counter() -> FlopCounterMode:
    """A mode under which floating-point operations are counted, two for a MAC, as `FlopCounterMode` does.

    Recurrent layers that a library computes as a whole (oneDNN, cuDNN, MIOpen) count as they do where torch
    computes them by matrix products: each weight matrix meets each step of each sample once.
    """
    return FlopCounterMode(display=False, custom_mapping=_RECURRENT)


def _of_layer(steps: Shape, *weights_and_more: Any, **_: Any) -> int:
    return _operations(steps, weights_and_more[:4])


def _of_layers(steps: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return _operations(steps, weights)


def _operations(steps: Shape, weights: Sequence[Shape]) -> int:
    """Of steps (…, features) that all meet these weights; biases, of one axis, count nothing."""
    return 2 * prod(steps[:-1]) * sum(prod(weight) for weight in weights if len(weight) == _MATRIX)


_RECURRENT = {
    torch.ops.aten.mkldnn_rnn_layer: _of_layer,
    torch.ops.aten._cudnn_rnn: _of_layers,
    torch.ops.aten.miopen_rnn: _of_layers,
}
