"""Fitting the scheduler: Adam on small batches, with a part of the samples held out to say when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.adam import Adam
from edgeexit.policies.base import Setting
from edgeexit.policies.eenet.network import Network, Pass, survival
from edgeexit.policies.eenet.samples import Samples
from edgeexit.policies.scored import fit_temperatures

__all__ = ["FittedScheduler", "fit_scheduler"]

ALPHA, BETA = 0.1, 0.1
"""Weights of the budget loss and of the assignment's cross-entropy."""

L2 = 1e-4
"""Weight of half the squared weights."""

RATE = 3e-3
BATCHES, SMALLEST_BATCH = 16, 128
"""Batches an epoch, and the fewest samples in one."""

EPOCHS, PATIENCE = 300, 30
"""At most this many; and at most this many in a row without a smaller loss on the held-out part."""

HELD_OUT = 0.2
CLEARLY = 3.0
"""Standard errors by which the order of the classes has to be better than ranks."""

MAX_ROWS = 20_000
MOST_CLASSES = 128
"""With more classes ŷ is ranked."""


class FittedScheduler(NamedTuple):
    """What `LearnedScheduler` is made of."""

    temperatures: tuple[float, ...]
    ranked: bool
    shared: NDArray[np.float32]
    utility: NDArray[np.float32]
    shares: tuple[float, ...]


class _Trained(NamedTuple):
    network: Network
    outside: Samples  # held out
    found: Pass  # on those
    shares: NDArray[np.float64]


def fit_scheduler(
    logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting
) -> FittedScheduler:
    """Fit the scheduler with ŷ ranked, and in the order of the classes; take the one or the other.

    Args:
        logits: K arrays of shape (N, C). At most `MAX_ROWS` samples are used, drawn at random.
        labels: (N,).
        setting: Costs and budget, where there are any, and the seed.
    """
    rng = np.random.default_rng(setting.seed)
    order = rng.permutation(len(labels))[:MAX_ROWS]
    logits, labels = [values[order] for values in logits], labels[order]
    temperatures = fit_temperatures(logits, labels)
    costs = None if setting.costs is None or setting.budget is None else setting.costs / setting.budget
    arrangements = (True, False) if 2 < logits[0].shape[1] <= MOST_CLASSES else (True,)
    arranged = [Samples.of(logits, labels, temperatures, ranked, costs) for ranked in arrangements]
    trained = [_train(samples, setting.seed) for samples in arranged]
    ranked = len(trained) == 1 or not _clearly_better(trained[1], trained[0])
    found = trained[0 if ranked else 1]
    return FittedScheduler(
        temperatures,
        ranked,
        found.network.shared.astype(np.float32),
        found.network.heads[:, :, 0].astype(np.float32),
        tuple(map(float, found.shares)),
    )


def _clearly_better(one: _Trained, other: _Trained) -> bool:
    """Whether the first has smaller losses on the held-out part, by more than three standard errors."""
    weights = survival(other.found.assignment)  # the same for both
    own, others = (each.network.utility_loss(each.outside, each.found, weights) for each in (one, other))
    gain = others - own
    return bool(gain.mean() > CLEARLY * gain.std() / np.sqrt(len(gain)))


def _train(samples: Samples, seed: int) -> _Trained:
    """Draw weights, and move them to the smallest loss found on the first fifth of the samples."""
    rng = np.random.default_rng(seed)
    held_out, fitting = np.split(np.arange(len(samples)), [int(HELD_OUT * len(samples))])
    inside, outside = samples.rows(fitting), samples.rows(held_out if len(held_out) else fitting)
    network = Network(samples.inputs.shape[2], len(samples.inputs))
    network.draw(rng)
    adam = Adam(network.flat.size, RATE)
    best, kept, since = np.inf, network.flat.copy(), 0
    size = max(SMALLEST_BATCH, -(-len(inside) // BATCHES))
    for _ in range(EPOCHS):
        shuffled = rng.permutation(len(inside))
        for start in range(0, len(inside), size):
            batch = inside.rows(shuffled[start : start + size])
            found = network.forward(batch)
            gradient = network.gradient(batch, found, survival(found.assignment), ALPHA, BETA)
            adam.step(network.flat, gradient + L2 * network.flat)
        found = network.forward(outside)
        loss = network.loss(outside, found, survival(found.assignment), ALPHA, BETA)
        if loss < best:
            best, kept, since = loss, network.flat.copy(), 0
        elif (since := since + 1) == PATIENCE:
            break
    network.flat[:] = kept
    return _Trained(network, outside, network.forward(outside), network.forward(samples).assignment.mean(axis=1))
