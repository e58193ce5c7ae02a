"""Early exits of a clustering network that learn the whole model's clusters.

E2CM (section III-C) trains each exit as a clustering of its own, and then nothing says that cluster 3 of one exit is
cluster 3 of another, nor that they are cut alike. Here an exit's code starts as the linear map of its layer that is
closest to the last code (ridge regression), its centres at the last one's, and both are trained towards the last
one's soft assignments, KL(q_last‖q_exit), with every shared layer frozen. The clusters are the same by construction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgeexit.console import progress
from edgeexit.training.clustering.distortion import batches
from edgeexit.training.clustering.network import DeepClustering
from edgeexit.training.clustering.settings import ClusterSettings
from edgeexit.training.clustering.steps import (
    CHUNK,
    casting,
    chunks,
    gathered,
    keeping,
    refuse_not_finite,
    rise_and_fall,
)

__all__ = ["start_exits", "teach_exits"]

_RIDGE = 1e-3
"""Of the mean square of a layer's outputs."""


@torch.no_grad()
def start_exits(network: DeepClustering, samples: Tensor) -> None:
    """Each early code as the ridge regression of the last code on its layer, with the last one's centres."""
    wanted = gathered(network, samples, network.last_code).double()
    for depth, code, assign in network.ends[:-1]:
        inner = wanted.new_zeros(code.in_features + 1, code.in_features + 1)
        outer = wanted.new_zeros(code.in_features + 1, code.out_features)
        for part, rows in zip(chunks(network, samples), torch.split(wanted, CHUNK), strict=True):
            values = functional.pad(network.hidden(part)[depth - 1].double(), (0, 1), value=1.0)
            inner += values.T @ values
            outer += values.T @ rows
        inner.diagonal().add_(_RIDGE * inner.diagonal().mean())
        solution = torch.linalg.solve(inner, outer)
        code.weight.copy_(solution[:-1].T)
        code.bias.copy_(solution[-1])
        assign.centres.copy_(network.ends[-1].assign.centres)


def teach_exits(
    network: DeepClustering, samples: Tensor, settings: ClusterSettings, generator: torch.Generator, quiet: bool
) -> None:
    """Train the early codes and centres towards the last one's soft assignments; nothing else changes."""
    *early, last = network.ends
    if not early:
        return
    steps = settings.exit_epochs * math.ceil(len(samples) / settings.batch)
    optimiser = torch.optim.Adam(network.early(), lr=settings.exit_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rise_and_fall(step / steps))
    with progress("teaching the exits", steps, quiet=quiet) as advance, keeping(network) as keep:
        for _ in range(settings.exit_epochs):
            keep()
            for _, shown in batches(samples, settings.batch, settings.distortion, generator, network.scale.device):
                with torch.no_grad(), casting(network, settings.precision):
                    hidden = network.hidden(shown)
                    teacher = last.assign(last.code(hidden[-1])).softmax(1)
                given = [assign(code(hidden[depth - 1].float())).log_softmax(1) for depth, code, assign in early]
                loss = torch.stack([functional.kl_div(one, teacher, reduction="batchmean") for one in given]).sum()
                refuse_not_finite(loss, "the exits", settings.exit_rate)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                advance(1)
            refuse_not_finite(torch.stack([value.sum() for value in network.early()]), "the exits", settings.exit_rate)
