"""Activations of a backbone that was never built: each class has its own pattern, some samples show it better."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from edgeexit.training.frozen import ActivationBatch
from edgeexit.training.search import Recording, SearchPlace, SearchSettings
from edgeexit.training.settings import TrainSettings

CLASSES = 4
WHOLE = 2e6
PLACES = (
    SearchPlace("early", (4, 6, 6), True, 0.25 * WHOLE),
    SearchPlace("late", (10,), True, 0.75 * WHOLE),
)
TRAINING = TrainSettings(batch=50, rate=0.02, device="cpu")


def settings(**changes: object) -> SearchSettings:
    """A short search."""
    return SearchSettings(**{"trials": 4, "epochs": 2, "max_drop": 0.1, **changes})


def recording(samples: int = 400, *, seed: int = 0, skill: float = 1.0, labels: bool = False) -> Recording:
    """Activations at both places; the whole model is always sure, and right but for one sample in twenty."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.arange(samples) % CLASSES)
    patterns = [np.random.default_rng(9).normal(size=(CLASSES, *place.shape)) for place in PLACES]
    values = []
    for pattern in patterns:
        ease = random.uniform(0.0, 2 * skill, (samples, *(1,) * (pattern.ndim - 1)))
        values.append((ease * pattern[truth] + random.normal(size=(samples, *pattern.shape[1:]))).astype(np.float32))
    said = np.where(random.uniform(size=samples) < 0.05, (truth + 1) % CLASSES, truth)
    teacher = 8 * np.eye(CLASSES, dtype=np.float32)[said]
    return Recording(values, teacher, truth if labels else None, None, batch=TRAINING.batch, seed=seed)


class Drawn:
    """A feed of drawn activations, a map and a sequence with its mask; epochs do not differ."""

    def __init__(self, samples: int, *, batch: int = 8, scale: float = 1.0, labels: bool = True) -> None:
        random = np.random.default_rng(samples)
        self.maps = torch.from_numpy(scale * random.normal(size=(samples, 3, 2, 2))).float()
        self.tokens = torch.from_numpy(random.normal(size=(samples, 5, 2))).float()
        self.teacher = torch.from_numpy(random.normal(size=(samples, 3))).float()
        self.labels = torch.from_numpy(random.integers(0, 3, samples)) if labels else None
        self.mask = torch.from_numpy(random.integers(0, 2, (samples, 5)))
        self.batch = batch
        self.steps = -(-samples // batch)

    def epoch(self, number: int, start: int = 0) -> Iterator[ActivationBatch]:
        for step in range(start, self.steps):
            rows = slice(step * self.batch, (step + 1) * self.batch)
            yield ActivationBatch(
                values=[self.maps[rows], self.tokens[rows]],
                teacher=self.teacher[rows],
                labels=None if self.labels is None else self.labels[rows],
                mask=self.mask[rows],
            )
