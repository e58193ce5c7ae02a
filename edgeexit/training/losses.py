"""Losses: how the exits' answers become one number to bring down.

All take logits as a tuple of E tensors (n, C), cheapest exit first, the whole model last, and compute in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgeexit.errors import UsageError

__all__ = [
    "distillation",
    "distiller_weights",
    "eenet_weights",
    "exit_weights",
    "late_to_early",
    "weighted_cross_entropy",
]

_ROUNDING = 1e-9


def eenet_weights(exits: int) -> tuple[float, ...]:
    """EENet's weights γ_k = 2k / (K (K + 1)) for exits k = 1 … K (section 3.1), later exits heavier.

    The paper writes k / (K (K + 1)), which sums to one half; twice that is a weighted mean, as the text around it says.

    Raises:
        UsageError: `exits` is below 1.
    """
    _check_exits(exits)
    return tuple(2 * k / (exits * (exits + 1)) for k in range(1, exits + 1))


def distiller_weights(lossweights: Sequence[float], exits: int) -> tuple[float, ...]:
    """Distiller's weights: one for each early exit, and 1 minus their sum for the whole model.

    Args:
        lossweights: K − 1 weights, as in `--earlyexit_lossweights 0.1 0.3`.
        exits: K, the whole model included.

    Raises:
        UsageError: There are not K − 1 weights, one is negative or no number, or they leave nothing for the last exit.
    """
    _check_exits(exits)
    weights = tuple(float(weight) for weight in lossweights)
    if len(weights) != exits - 1:
        raise UsageError(
            "the loss weights do not fit the exits",
            got=f"{len(weights)} weights",
            expected=f"{exits - 1}, one for each early exit; the whole model gets what is left of 1",
        )
    last = 1 - math.fsum(weights)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or last <= _ROUNDING:
        raise UsageError(
            "the loss weights of the early exits cannot be used",
            got=", ".join(f"{weight:g}" for weight in weights),
            expected="numbers from 0 that sum to less than 1: the whole model gets what is left",
        )
    return (*weights, last)


def exit_weights(weights: str | Sequence[float], exits: int) -> tuple[float, ...]:
    """Weights by name, "eenet" or "uniform", or from numbers: K − 1 as Distiller's, or K as they are.

    Raises:
        UsageError: The name is unknown, or the numbers do not fit.
    """
    if isinstance(weights, str):
        if weights == "eenet":
            return eenet_weights(exits)
        if weights == "uniform":
            _check_exits(exits)
            return (1 / exits,) * exits
        raise UsageError("these loss weights are unknown", got=weights, expected="eenet, uniform, or numbers")
    if len(weights) != exits:
        return distiller_weights(weights, exits)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) <= 0:
        raise UsageError(
            "the loss weights cannot be used", got=tuple(weights), expected="numbers from 0, at least one above it"
        )
    return tuple(map(float, weights))


def weighted_cross_entropy(logits: Sequence[Tensor], labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Σ_k γ_k · CE_k, in nats, the mean over the batch (EENet, section 3.1; Distiller, equation 2).

    Args:
        logits: E tensors (n, C).
        labels: (n,) int64 class indices.
        weights: E numbers.

    Returns:
        A scalar, float32.
    """
    losses = [
        weight * functional.cross_entropy(values.float(), labels)
        for values, weight in zip(logits, weights, strict=True)
    ]
    return torch.stack(losses).sum()


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(teacher ‖ student) of softmax(logits / T), in nats, the mean over the batch.

    SelfXit (section 3.2.2) trains an exit on the backbone's answers with it at T = 1; the factor T² keeps gradients
    alike for all T. The teacher gets no gradient.

    Args:
        student: (n, C) logits.
        teacher: (n, C) logits.
        temperature: T, above 0.

    Returns:
        A scalar, float32, at least 0.
    """
    wanted = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    given = functional.log_softmax(student.float() / temperature, dim=1)
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def late_to_early(logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Self-distillation: the mean of `distillation` from the last exit, which gets no gradient, to each earlier one.

    Returns:
        A scalar, float32; 0 where there is one exit only.
    """
    *early, last = logits
    if not early:
        return last.new_zeros((), dtype=torch.float32)
    return torch.stack([distillation(values, last, temperature) for values in early]).mean()


def _check_exits(exits: int) -> None:
    if exits < 1:
        raise UsageError("there are no exits to weigh", got=exits, expected="at least 1")
