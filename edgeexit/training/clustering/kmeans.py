"""k-means: Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii 2007), the best of several."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeexit.errors import DataError, ModelError

__all__ = ["kmeans"]

_ROUNDS = 100


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, *, restarts: int, generator: torch.Generator) -> Tensor:
    """The centres with the least sum of squared distances that `restarts` searches found.

    A cluster that loses all its points starts again at the point that is farthest from its own centre.

    Args:
        points: (n, D) floats, at least `clusters` different ones.
        clusters: K.
        restarts: Searches, at least 1.
        generator: Of the starts, on the CPU.

    Returns:
        (K, D), in the points' dtype, on their device.

    Raises:
        ModelError: A point is not finite.
        DataError: There are fewer different points than clusters.
    """
    if not bool(torch.isfinite(points).all()):
        raise ModelError("a code is not finite", remedy="pretrain at a lower rate, and check the samples")
    different = len(torch.unique(points[: 50 * clusters], dim=0))
    if different < clusters and len(torch.unique(points, dim=0)) < clusters:
        raise DataError(
            "there are fewer different codes than clusters",
            got=different,
            expected=f"at least {clusters}",
            remedy="ask for fewer clusters, or pretrain for longer",
        )
    found = [_search(points, _start(points, clusters, generator)) for _ in range(restarts)]
    return min(found, key=lambda one: one[0])[1]


def _start(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is a point drawn with chances as its squared distance from the nearest so far."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [points[first]]
    distance = (points - chosen[0]).square().sum(1)
    while len(chosen) < clusters:
        row = int(torch.multinomial(distance.double().cpu(), 1, generator=generator))
        chosen.append(points[row])
        distance = torch.minimum(distance, (points - points[row]).square().sum(1))
    return torch.stack(chosen)


def _search(points: Tensor, centres: Tensor) -> tuple[float, Tensor]:
    """Lloyd's rounds until no point moves: the sum of squared distances and the centres."""
    nearest = torch.full((len(points),), -1, device=points.device)
    squares = points.square().sum(1, keepdim=True)
    for _ in range(_ROUNDS):
        apart = (squares - 2 * points @ centres.T + centres.square().sum(1)).clamp_min(0)
        distance, now = apart.min(1)
        if torch.equal(now, nearest):
            break
        nearest = now
        counts = torch.bincount(nearest, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        empty = torch.nonzero(counts == 0).flatten()
        centres = sums / counts.clamp_min(1).unsqueeze(1)
        centres[empty] = points[distance.topk(len(empty)).indices]
    return float((points - centres[nearest]).square().sum()), centres
