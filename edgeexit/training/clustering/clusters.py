"""Deep embedded clustering (DEC; Xie, Girshick and Farhadi 2016) whose early exits name the same clusters.

The whole model learns as in DEC: centres start at k-means of the codes, soft assignments q (eq. 1) are drawn
towards a sharper target p (eq. 3), refreshed every epoch, by the loss KL(p‖q) (eq. 2).

Early exits learn its clusters from it (`edgeexit.training.clustering.exits`), so that an exit names the cluster
that the whole model would. There is a label nowhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgeexit.console import Advance, progress
from edgeexit.errors import ModelError
from edgeexit.training.clustering.distortion import batches
from edgeexit.training.clustering.exits import start_exits, teach_exits
from edgeexit.training.clustering.kmeans import kmeans
from edgeexit.training.clustering.network import DeepClustering
from edgeexit.training.clustering.settings import ClusterSettings
from edgeexit.training.clustering.steps import casting, check_samples, gathered, keeping, refuse_not_finite

__all__ = ["Clustering", "cluster", "sharpened"]


@dataclass(frozen=True)
class Clustering:
    """What came of it.

    Attributes:
        sizes: Samples of each cluster, as the whole model assigns them.
        changed: Share of the samples that changed cluster, in each epoch of the whole model.
        agreement: Share of the samples to which each exit gives the whole model's cluster; the last is 1.
    """

    sizes: tuple[int, ...]
    changed: tuple[float, ...]
    agreement: tuple[float, ...]


def cluster(
    network: DeepClustering, samples: Tensor, settings: ClusterSettings | None = None, *, quiet: bool = False
) -> Clustering:
    """Find clusters of the samples with the last exit, then teach them to the early exits. No label is asked for.

    Args:
        network: Pretrained, see `edgeexit.training.autoencoder.pretrain`; trained in place, on its device.
        samples: (n, …) float32, as for `pretrain`.
        settings: The defaults if None.
        quiet: Show no progress.

    Raises:
        DataError: The samples are too few or do not fit the network.
        ModelError: A cluster lost all its samples, or a loss or a code is not finite. The network keeps the last
            weights with which all clusters lived.
    """
    settings = ClusterSettings() if settings is None else settings
    check_samples(network, samples, settings.distortion)
    generator = torch.Generator().manual_seed(settings.seed)
    network.train()
    changed = _cluster_whole(network, samples, settings, generator, quiet)
    start_exits(network, samples)
    teach_exits(network, samples, settings, generator, quiet)
    network.eval()
    answers = gathered(network, samples, lambda part: torch.stack([logits.argmax(1) for logits in network(part)], 1))
    whole = answers[:, -1]
    return Clustering(
        sizes=tuple(torch.bincount(whole, minlength=network.clusters).tolist()),
        changed=tuple(changed),
        agreement=tuple((answers == whole[:, None]).double().mean(0).tolist()),
    )


def sharpened(assignments: Tensor) -> Tensor:
    """DEC's target distribution, eq. 3: p_ij = (q_ij² / f_j) / Σ_k (q_ik² / f_k), with f_j = Σ_i q_ij.

    Args:
        assignments: q, (n, K), rows that sum to 1.
    """
    weights = assignments.square() / assignments.sum(0).clamp_min(torch.finfo(assignments.dtype).tiny)
    return weights / weights.sum(1, keepdim=True)


def _cluster_whole(
    network: DeepClustering, samples: Tensor, settings: ClusterSettings, generator: torch.Generator, quiet: bool
) -> list[float]:
    """DEC proper, for the last exit; the share of samples that changed cluster in each epoch."""
    last = network.ends[-1].assign
    codes = gathered(network, samples, network.last_code)
    with torch.no_grad():
        last.centres.copy_(kmeans(codes, network.clusters, restarts=settings.restarts, generator=generator))
    optimiser = torch.optim.Adam(network.trunk(), lr=settings.rate, fused=True)
    steps = math.ceil(len(samples) / settings.batch)
    changed: list[float] = []
    with progress("clustering", settings.epochs * steps, quiet=quiet) as advance, keeping(network) as keep:
        assignments = _soft(network, samples)
        for epoch in range(settings.epochs):
            keep()
            target = sharpened(assignments)
            _epoch(network, samples, target, settings, optimiser, generator, advance)
            before, assignments = assignments, _soft(network, samples)
            refuse_not_finite(assignments, "the clustering", settings.rate)
            _refuse_dead(assignments, epoch + 1)
            changed.append(float((before.argmax(1) != assignments.argmax(1)).double().mean()))
            if changed[-1] <= settings.tolerance:
                break
        advance((settings.epochs - len(changed)) * steps)
    return changed


def _epoch(
    network: DeepClustering,
    samples: Tensor,
    target: Tensor,
    settings: ClusterSettings,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    advance: Advance,
) -> None:
    for rows, shown in batches(samples, settings.batch, settings.distortion, generator, network.scale.device):
        with casting(network, settings.precision):
            code = network.last_code(shown)
        logits = network.ends[-1].assign(code)
        loss = functional.kl_div(logits.log_softmax(1), target[rows], reduction="batchmean")
        refuse_not_finite(loss, "the clustering", settings.rate)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        advance(1)


def _soft(network: DeepClustering, samples: Tensor) -> Tensor:
    """The last exit's soft assignments q of all samples, (n, K), by eq. 1."""
    return gathered(network, samples, lambda part: network.ends[-1].assign(network.last_code(part)).softmax(1))


def _refuse_dead(assignments: Tensor, epoch: int) -> None:
    sizes = torch.bincount(assignments.argmax(1), minlength=assignments.shape[1])
    dead = torch.nonzero(sizes == 0).flatten().tolist()
    if dead:
        raise ModelError(
            "a cluster has died" if len(dead) == 1 else f"{len(dead)} clusters have died",
            got=f"no samples of {', '.join(map(str, dead))} after epoch {epoch}; sizes {sizes.tolist()}",
            expected="at least one sample in every cluster",
            remedy="ask for fewer clusters, pretrain for longer, or lower the rate; "
            "the network has the weights from before this epoch",
        )
