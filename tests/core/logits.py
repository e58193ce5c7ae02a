"""Logits of cascades that were never built: later exits know more, and chance does the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.cached import CachedLogits


def drawn(
    samples: int = 400, exits: int = 3, classes: int = 4, *, seed: int = 0, skill: tuple[float, float] = (1.0, 3.0)
) -> CachedLogits:
    """Samples of differing difficulty; the skill of the exits rises from the first number to the second."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(samples) % classes)
    ease = random.uniform(0.2, 2.0, (samples, 1))
    shared = random.normal(size=(samples, classes))

    def logits(strength: float) -> NDArray[np.float32]:
        own = random.normal(size=(samples, classes))
        return (strength * ease * np.eye(classes)[labels] + 0.7 * shared + 0.7 * own).astype(np.float32)

    return CachedLogits(tuple(logits(strength) for strength in np.linspace(*skill, exits)), labels.astype(np.int64))


def rising(exits: int) -> NDArray[np.float64]:
    """Costs of that many exits, up to 1."""
    return np.linspace(0, 1, exits + 1)[1:]
