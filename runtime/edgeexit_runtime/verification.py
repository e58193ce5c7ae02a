"""Verification: does this device answer a bundle's golden samples as the workstation did?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.precision import tolerance
from edgeexit.replay import judge, replay
from edgeexit_runtime.cascade import Cascade

__all__ = ["PROBABILITY_TOLERANCE", "Verification", "verify"]

PROBABILITY_TOLERANCE = 1e-3
"""Between a recorded probability and the one that follows from the recorded logits."""

REMEDY = "copy the bundle again; if that changes nothing, export it again"


@dataclass(frozen=True)
class Verification:
    """What was replayed.

    Attributes:
        samples: Golden samples.
        exits: Exits of the bundle.
        largest_difference: Of a logit, as a fraction of its exit's largest logit.
        near_threshold: Samples that left elsewhere than on the workstation because their score is at
            the threshold.
    """

    samples: int
    exits: int
    largest_difference: float
    near_threshold: int


def verify(bundle: Bundle, cascade: Cascade) -> Verification:
    """Replay the golden samples one by one and as one batch.

    A logit may be off by the tolerance t of the segments' precision (`edgeexit.precision`): t of itself
    and t of the exit's largest logit together. Every sample must leave at the same exit with the same
    label, unless its score there is as close as t to the threshold, absolute up to 1, then relative.

    Args:
        bundle: The bundle.
        cascade: All its segments, opened on this device.

    Raises:
        BundleError: Something differs; the message names the exit and the sample.
        BackendError: The device failed.
    """
    golden = _Golden(bundle, cascade)
    recorded = replay(cascade.policy, list(golden.logits))
    golden.compare_answers(recorded.exit, recorded.label, "as its own logits say")
    golden.compare_probabilities(recorded.exit, recorded.probability)
    differences, elsewhere = [], []
    for batch_size, how in ((1, "at batch 1"), (golden.samples, f"at batch {golden.samples}")):
        batches = list(golden.batches(batch_size))
        logits = np.concatenate([cascade.logits(batch) for batch in batches], axis=1)
        differences.append(golden.compare_logits(logits, how))
        answers = [cascade.run(batch) for batch in batches]
        exits = np.concatenate([answer.exit for answer in answers])
        labels = np.concatenate([answer.label for answer in answers])
        elsewhere.append(golden.compare_answers(exits, labels, how))
    return Verification(golden.samples, len(golden.logits), max(differences), max(elsewhere))


class _Golden:
    """The golden samples, and what may differ from them."""

    def __init__(self, bundle: Bundle, cascade: Cascade) -> None:
        check = bundle.check
        self.names = [entry.name for entry in bundle.manifest.exits]
        self.inputs = {spec.name: check[f"input.{spec.name}"] for spec in bundle.manifest.inputs}
        self.logits = np.stack([check[f"logits.{k}"] for k in range(len(self.names))])
        self.labels, self.exits, self.probabilities = check["labels"], check["exits"], check["probabilities"]
        self.samples = len(self.labels)
        self.tolerance = tolerance(bundle.manifest)
        self.at_threshold = _at_threshold(cascade, self.logits, self.tolerance)

    def batches(self, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, self.samples, size):
            yield {name: array[start : start + size] for name, array in self.inputs.items()}

    def compare_logits(self, found: NDArray[np.float32], how: str) -> float:
        """The largest difference, as a fraction of its exit's largest logit."""
        scale = np.abs(self.logits).max(axis=(1, 2), keepdims=True)
        difference = np.abs(found - self.logits)
        wrong = ~(difference <= self.tolerance * (np.abs(self.logits) + scale))
        if wrong.any():
            k, sample, label = (int(i) for i in np.argwhere(wrong)[0])
            raise BundleError(
                f"exit {k} ({self.names[k]}) gives other logits here than on the workstation "
                f"for golden sample {sample}, {how}",
                got=f"{found[k, sample, label]:.6g} for class {label}",
                expected=f"{self.logits[k, sample, label]:.6g}",
                remedy=REMEDY,
            )
        return float((difference / np.maximum(scale, np.finfo(np.float32).tiny)).max())

    def compare_answers(self, exits: NDArray[np.int64], labels: NDArray[np.int64], how: str) -> int:
        """How many samples left elsewhere for a reason that is accepted."""
        rows = np.arange(self.samples)
        elsewhere = exits != self.exits
        excused = elsewhere & self.at_threshold[np.minimum(exits, self.exits), rows]
        wrong = (elsewhere | (labels != self.labels)) & ~excused
        if wrong.any():
            sample = int(wrong.argmax())
            k = int(self.exits[sample])
            raise BundleError(
                f"golden sample {sample} is not answered as check.safetensors has it, {how}",
                got=f"label {labels[sample]} at exit {exits[sample]} ({self.names[exits[sample]]})",
                expected=f"label {self.labels[sample]} at exit {k} ({self.names[k]})",
                remedy=REMEDY,
            )
        return int(excused.sum())

    def compare_probabilities(self, exits: NDArray[np.int64], found: NDArray[np.float32]) -> None:
        wrong = (exits == self.exits) & ~(np.abs(found - self.probabilities) <= PROBABILITY_TOLERANCE)
        if wrong.any():
            sample = int(wrong.argmax())
            raise BundleError(
                f"golden sample {sample} has another probability than its logits at exit {exits[sample]} "
                f"({self.names[exits[sample]]}) say",
                got=f"{self.probabilities[sample]:.6g}",
                expected=f"{found[sample]:.6g}",
                remedy=REMEDY,
            )


def _at_threshold(cascade: Cascade, logits: NDArray[np.float32], tolerance: float) -> NDArray[np.bool_]:
    """(E, g): whether a sample's score is so close to the exit's threshold that both sides will do."""
    scores = judge(cascade.policy, list(logits)).score
    thresholds = np.asarray(cascade.policy.thresholds, dtype=np.float64)[:, None]
    finite = np.where(np.isfinite(thresholds), thresholds, 0.0)
    close = np.abs(scores - finite) <= tolerance * np.maximum(1.0, np.abs(finite))
    return close & np.isfinite(thresholds)
