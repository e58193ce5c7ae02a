"""Scores and correctness of cascades that were never built, for tests of thresholds and guarantees."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from edgeexit.thresholds import Material

__all__ = ["MATERIALS", "drawn_material", "label_free"]


def drawn_material(
    seed: int, exits: int = 3, samples: int = 200, *, levels: int | None = None, offset: float = 0.0
) -> Material:
    """Scores that tell something about correctness, later exits being better.

    With `levels` the scores have few distinct values; with `offset` they lie outside of [0, 1].
    """
    rng = np.random.default_rng(seed)
    skill = np.linspace(0.6, 0.9, exits)[:, None]
    ease = rng.random(samples)
    correct = rng.random((exits, samples)) < np.clip(skill + 0.4 * (ease - 0.5), 0, 1)
    score = np.clip(rng.beta(4, 2, (exits, samples)) + 0.2 * correct + 0.2 * ease - 0.3, 0, 1)
    if levels:
        score = np.round(score * levels) / levels
    return Material((score + offset).astype(np.float32), correct, correct[-1], np.linspace(0.2, 1.0, exits))


def label_free(material: Material) -> Material:
    """The same where right is what the last exit says; wrong answers count as different ones."""
    everybody = np.ones(material.samples, dtype=bool)
    return Material(material.score, material.correct == material.correct[-1], everybody, material.costs)


MATERIALS = st.builds(
    drawn_material,
    st.integers(0, 10_000),
    st.integers(2, 5),
    st.integers(1, 300),
    levels=st.one_of(st.none(), st.integers(1, 6)),
    offset=st.sampled_from([0.0, -7.0, 100.0]),
)
