"""Evidence for tests of reports: cascades of any size on random logits, and one small enough to count by hand."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.bundles import bundle_parts
from edgeexit.manifest import Manifest
from edgeexit.policies import MaxProbability
from edgeexit.replay import Judgement
from edgeexit.reports.evidence import Evidence, examine

F32 = np.float32


def manifest_of(exits: int, classes: Sequence[str]) -> Manifest:
    """A bundle's manifest with so many exits and these classes."""
    manifest, _ = bundle_parts(exits)
    return msgspec.structs.replace(manifest, labels=tuple(classes))


def random_evidence(
    *,
    exits: int = 3,
    classes: Sequence[str] = ("cat", "dog", "été"),
    samples: int = 200,
    seed: int = 0,
    thresholds: Sequence[float] | None = None,
) -> tuple[Manifest, Evidence, list[NDArray[np.float32]]]:
    """Exits that are the surer and the more often right the later they come."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(classes), samples)
    hint = np.eye(len(classes), dtype=F32)[truth]
    logits = [
        (random.standard_normal((samples, len(classes))) + (1.2 + 0.5 * k) * hint).astype(F32) for k in range(exits)
    ]
    asked = (0.8,) * (exits - 1) if thresholds is None else tuple(thresholds)
    manifest = manifest_of(exits, classes)
    policy = MaxProbability((1.0,) * exits, (*asked, float("inf")))
    return manifest, examine(manifest, policy, logits, truth), logits


def counted_evidence() -> Evidence:
    """Three exits at costs 0.2, 0.5, 1.1, six samples of two classes; everything can be counted by hand.

    truth     0 0 0 1 1 1
    exit a    0 1 0 1 0 1      a and b let samples leave from 0.9
    exit b    0 0 1 1 1 0
    whole     0 0 1 1 1 0
    leaves    a a a b w w      so the answers are 0 1 0 1 1 0: four are right
    """
    label = np.array([[0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]])
    score = np.array([[0.9, 0.95, 1.0, 0.5, 0.4, 0.6], [0.2, 0.8, 0.7, 0.9, 0.3, 0.1], [0.6] * 6], F32)
    return Evidence(
        names=("a", "b", "whole"),
        costs=np.array([0.2, 0.5, 1.1]),
        classes=("x", "y"),
        criterion="max-probability",
        thresholds=(0.9, 0.9, float("inf")),
        truth=np.array([0, 0, 0, 1, 1, 1]),
        whole=label[-1],
        judgement=Judgement(score, label, score),
        taken=np.array([0, 0, 0, 1, 2, 2]),
    )
