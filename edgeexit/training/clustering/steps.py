"""What every stage of a clustering network's training shares: checks, parts of the samples, rates, kept weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from edgeexit.errors import DataError, ModelError
from edgeexit.training.clustering.distortion import Distortion
from edgeexit.training.clustering.network import DeepClustering
from edgeexit.training.clustering.settings import Precision

__all__ = [
    "CHUNK",
    "casting",
    "check_samples",
    "chunks",
    "gathered",
    "keeping",
    "refuse_not_finite",
    "rise_and_fall",
]

CHUNK = 2048
"""Samples that are run at once where nothing is learnt."""


def check_samples(network: DeepClustering, samples: Tensor, distortion: Distortion) -> None:
    """Refuse samples that the network cannot be trained on.

    Raises:
        DataError: Fewer than clusters, of another size, not finite, all equal, or no pictures where some are needed.
    """
    expected = network.layers[0].in_features
    if samples.ndim < 2 or not samples.is_floating_point() or samples[:1].numel() != (expected if len(samples) else 0):
        raise DataError(
            "the samples do not fit the clustering network",
            got=f"{samples.dtype} {list(samples.shape)}",
            expected=f"floats, n samples of {expected} numbers",
        )
    if len(samples) < network.clusters:
        raise DataError(
            "there are fewer samples than clusters",
            got=f"{len(samples)} samples for {network.clusters} clusters",
            expected="at least one sample a cluster, better a hundred and more",
            remedy="give more samples, or ask for fewer clusters",
        )
    if not bool(torch.isfinite(samples).all()):
        raise DataError("a sample has a number that is not finite", expected="finite numbers")
    if bool((samples == samples[:1]).all()):
        raise DataError("all samples are the same", expected="samples that differ")
    if not distortion.none and samples.ndim != 4:
        raise DataError(
            "only pictures can be turned and shifted",
            got=list(samples.shape),
            expected="(samples, channels, height, width)",
            remedy="give pictures, or no distortion",
        )


def casting(network: DeepClustering, precision: Precision) -> torch.autocast:
    """For one step: matrix products in `precision`, sums and losses in fp32."""
    return torch.autocast(network.scale.device.type, torch.bfloat16, enabled=precision == "bf16")


def rise_and_fall(share: float) -> float:
    """What the rate is multiplied by when `share` of the steps are done: linear up to a tenth, then a cosine."""
    return min((share + 1e-3) / 0.1, 0.5 * (1 + math.cos(math.pi * max(share - 0.1, 0.0) / 0.9)))


@torch.no_grad()
def gathered(network: DeepClustering, samples: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """What a function of samples gives for all of them, (n, …), a part at a time."""
    return torch.cat([function(part) for part in chunks(network, samples)])


def chunks(network: DeepClustering, samples: Tensor) -> Iterator[Tensor]:
    """The samples, `CHUNK` at a time, on the network's device."""
    return (part.to(network.scale.device) for part in torch.split(samples, CHUNK))


@contextmanager
def keeping(network: DeepClustering) -> Iterator[Callable[[], None]]:
    """Within this, `keep()` remembers the weights, and a ModelError brings the remembered ones back."""
    kept: dict[str, Tensor] = {}

    def keep() -> None:
        kept.update((name, value.clone()) for name, value in network.state_dict().items())

    try:
        yield keep
    except ModelError:
        network.load_state_dict(kept)
        raise


def refuse_not_finite(values: Tensor, whose: str, rate: float) -> None:
    """Raise a ModelError if a value is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise ModelError(
            f"the loss of {whose} is not finite",
            remedy=f"a rate below {rate:g}; the network has the weights from before this epoch",
        )
